output "state_bucket" {
  description = "For the variable TF_STATE_BUCKET of the repository."
  value       = google_storage_bucket.state.name
}

output "workload_identity_provider" {
  description = "For the variable GCP_WORKLOAD_IDENTITY_PROVIDER of the repository."
  value       = google_iam_workload_identity_pool_provider.github.name
}

output "accounts" {
  description = "For the variables GCP_PLAN_ACCOUNT (plan) and GCP_APPLY_ACCOUNT (apply) of the repository."
  value       = { for name, account in google_service_account.accounts : name => account.email }
}

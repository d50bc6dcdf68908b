output "repository" {
  description = "Where images go."
  value       = local.repository
}

output "templates" {
  description = "Where the template files of Dataflow go."
  value       = "${local.bucket.templates}/flex"
}

output "buckets" {
  description = "Buckets, by what they are for."
  value       = local.bucket
}

output "table" {
  description = "The table of scores, as --output has it."
  value       = local.output
}

output "subscription" {
  description = "What the live job reads."
  value       = local.subscription
}

output "dead_letters" {
  description = "The topic of dead letters, and the subscription that `foretide replay` reads."
  value = {
    topic        = local.letters
    subscription = google_pubsub_subscription.dead_letters.id
  }
}

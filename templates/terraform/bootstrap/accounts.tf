locals {
  accounts = {
    worker    = "Runs jobs: launchers and workers of Dataflow."
    launcher  = "Launches, looks at and stops jobs, for people and Airflow."
    scheduler = "Launches backfills by the clock."
    plan      = "Reads what there is, for plans of pull requests."
    apply     = "Makes, changes and destroys, once somebody has approved it."
  }

  # Roles in the whole project, where nothing narrower will do. All others are given on the things themselves.
  project_roles = {
    worker   = ["roles/dataflow.worker", "roles/bigquery.jobUser", "roles/bigquery.readSessionUser"]
    launcher = ["roles/bigquery.jobUser"]
    plan = [
      "roles/artifactregistry.reader",
      "roles/bigquery.metadataViewer",
      "roles/cloudscheduler.viewer",
      "roles/dataflow.viewer",
      "roles/iam.securityReviewer",
      "roles/monitoring.alertPolicyViewer",
      "roles/monitoring.notificationChannelViewer",
      "roles/pubsub.viewer",
      "roles/storage.bucketViewer",
    ]
    apply = [
      "roles/artifactregistry.admin",
      "roles/bigquery.user", # it may make datasets, and owns those that it makes
      "roles/cloudscheduler.admin",
      "roles/monitoring.alertPolicyEditor",
      "roles/monitoring.notificationChannelEditor",
      "roles/pubsub.admin",
      "roles/storage.admin",
    ]
  }
  project_grants = merge([
    for account, roles in local.project_roles : {
      for role in roles : "${account} ${role}" => { account = account, role = role }
    }
  ]...)
}

resource "google_service_account" "accounts" {
  for_each = local.accounts

  account_id   = "${var.name}-${each.key}"
  display_name = "${var.name} ${each.key}"
  description  = each.value

  depends_on = [google_project_service.apis]
}

resource "google_project_iam_member" "accounts" {
  for_each = local.project_grants

  project = var.project
  role    = each.value.role
  member  = google_service_account.accounts[each.value.account].member
}

# roles/dataflow.developer would do, and lets its holder snapshot and change every job, too.
resource "google_project_iam_custom_role" "launch" {
  role_id     = "${replace(var.name, "-", "_")}_launch"
  title       = "${var.name}: launch jobs"
  description = "What a launch of a Flex template takes."
  permissions = ["compute.machineTypes.get", "dataflow.jobs.create", "dataflow.jobs.get", "resourcemanager.projects.get"]
}

resource "google_project_iam_custom_role" "operate" {
  role_id     = "${replace(var.name, "-", "_")}_operate"
  title       = "${var.name}: operate jobs"
  description = "To follow jobs, drain, cancel and update them."
  permissions = [
    "dataflow.jobs.cancel",
    "dataflow.jobs.list",
    "dataflow.jobs.updateContents",
    "dataflow.messages.list",
    "dataflow.metrics.get",
  ]
}

resource "google_project_iam_member" "launch" {
  for_each = toset(["launcher", "scheduler", "apply"])

  project = var.project
  role    = google_project_iam_custom_role.launch.id
  member  = google_service_account.accounts[each.value].member
}

resource "google_project_iam_member" "operate" {
  for_each = toset(["launcher", "apply"])

  project = var.project
  role    = google_project_iam_custom_role.operate.id
  member  = google_service_account.accounts[each.value].member
}

# Who may have something run as an account: a job as the worker, a schedule as the scheduler.
resource "google_service_account_iam_member" "act_as" {
  for_each = {
    "launcher worker"  = { as = "worker", who = "launcher" }
    "scheduler worker" = { as = "worker", who = "scheduler" }
    "apply worker"     = { as = "worker", who = "apply" }
    "apply scheduler"  = { as = "scheduler", who = "apply" }
  }

  service_account_id = google_service_account.accounts[each.value.as].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.accounts[each.value.who].member
}

resource "google_service_account_iam_member" "launchers" {
  for_each = var.launchers

  service_account_id = google_service_account.accounts["launcher"].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value
}

# A plan takes no lock.
resource "google_storage_bucket_iam_member" "state" {
  for_each = { plan = "roles/storage.objectViewer", apply = "roles/storage.objectUser" }

  bucket = google_storage_bucket.state.name
  role   = each.value
  member = google_service_account.accounts[each.key].member
}

resource "google_bigquery_table_iam_member" "events" {
  for_each = var.event_tables

  dataset_id = split(".", each.value)[0]
  table_id   = split(".", each.value)[1]
  role       = "roles/bigquery.dataViewer"
  member     = google_service_account.accounts["worker"].member
}

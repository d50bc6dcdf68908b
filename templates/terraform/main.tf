locals {
  labels = merge(var.labels, { app = var.name, managed-by = "terraform" })

  # Accounts, their roles in the project, and the network are made by the bootstrap.
  worker   = "${var.name}-worker@${var.project}.iam.gserviceaccount.com"
  launcher = "${var.name}-launcher@${var.project}.iam.gserviceaccount.com"
  schedule = "${var.name}-scheduler@${var.project}.iam.gserviceaccount.com"
  subnet   = "regions/${var.region}/subnetworks/${var.name}"

  day = 24 * 60 * 60 # s

  repository = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
  images     = { for kind in ["cpu", "gpu"] : kind => "${local.repository}/foretide-${kind}:${var.image_tag}" }
  output     = "bq://${var.project}.${google_bigquery_table.tables["scores"].dataset_id}.${google_bigquery_table.tables["scores"].table_id}"

  # Names that a plan can show before there is anything.
  bucket       = { for name, bucket in google_storage_bucket.buckets : name => "gs://${bucket.name}" }
  subscription = "projects/${var.project}/subscriptions/${google_pubsub_subscription.events.name}"
  letters      = "projects/${var.project}/topics/${google_pubsub_topic.dead_letters.name}"
}

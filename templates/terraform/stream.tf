locals {
  stream_parameters = var.stream == null ? {} : merge(var.stream.parameters, {
    task         = "${local.bucket.models}/tasks/${var.stream.task}.yaml"
    model        = "${local.bucket.models}/models/${var.stream.task}"
    subscription = local.subscription
    output       = local.output
    dead_letters = local.letters
  })
}

# A change of parameters, or of the template, is an update of the job that runs; to destroy it is to drain it.
resource "google_dataflow_flex_template_job" "stream" {
  provider = google-beta
  count    = var.stream == null ? 0 : 1

  name                    = "${var.name}-stream"
  region                  = var.region
  container_spec_gcs_path = "${local.bucket.templates}/flex/stream.json"
  parameters              = local.stream_parameters
  on_delete               = "drain"

  service_account_email   = local.worker
  sdk_container_image     = local.images.cpu
  launcher_machine_type   = "n2-standard-2"
  machine_type            = var.stream.machine_type
  num_workers             = var.stream.workers
  max_workers             = var.stream.max_workers
  autoscaling_algorithm   = "THROUGHPUT_BASED"
  enable_streaming_engine = true
  subnetwork              = local.subnet
  ip_configuration        = "WORKER_IP_PRIVATE"
  temp_location           = "${local.bucket.temp}/temp"
  staging_location        = "${local.bucket.templates}/staging"

  lifecycle {
    precondition {
      condition     = length(setsubtract(keys(local.stream_parameters), local.template_parameters.stream)) == 0
      error_message = "stream.parameters has names that the template does not have: see templates/flex/stream.json."
    }
  }

  depends_on = [
    google_artifact_registry_repository_iam_member.worker,
    google_bigquery_dataset_iam_member.writers,
    google_pubsub_subscription_iam_member.worker,
    google_pubsub_topic_iam_member.worker,
    google_storage_bucket_iam_member.accounts,
  ]
}

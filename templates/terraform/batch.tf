locals {
  template_parameters = {
    for kind in ["batch", "stream"] :
    kind => jsondecode(file("${path.module}/../flex/${kind}.json")).parameters[*].name
  }

  backfill_parameters = var.backfill == null ? {} : merge(var.backfill.parameters, {
    task   = "${local.bucket.models}/tasks/${var.backfill.task}.yaml"
    model  = "${local.bucket.models}/models/${var.backfill.task}"
    as_of  = var.backfill.as_of
    input  = join(",", coalesce(var.backfill.input, ["${local.bucket.events}/${var.backfill.task}/"]))
    output = local.output
  }, local.gpu == null ? {} : { device = "gpu" })
  gpu = try(var.backfill.gpu, null)
}

# Launches of the same job while one of its name runs are refused, so backfills never overlap.
resource "google_cloud_scheduler_job" "backfill" {
  count = var.backfill == null ? 0 : 1

  name             = "${var.name}-backfill"
  description      = "Launches the backfill of ${var.backfill.task} as of ${var.backfill.as_of}."
  region           = var.region
  schedule         = var.backfill.schedule
  time_zone        = var.backfill.time_zone
  attempt_deadline = "180s"

  retry_config {
    retry_count          = 3
    min_backoff_duration = "60s"
  }

  http_target {
    http_method = "POST"
    uri         = "https://dataflow.googleapis.com/v1b3/projects/${var.project}/locations/${var.region}/flexTemplates:launch"
    headers     = { "Content-Type" = "application/json" }

    body = base64encode(jsonencode({
      launchParameter = {
        jobName              = "${var.name}-backfill"
        containerSpecGcsPath = "${local.bucket.templates}/flex/batch${local.gpu == null ? "" : "-gpu"}.json"
        parameters           = local.backfill_parameters
        environment = {
          for name, value in {
            serviceAccountEmail  = local.worker
            sdkContainerImage    = local.images[local.gpu == null ? "cpu" : "gpu"]
            machineType          = local.gpu == null ? var.backfill.machine_type : local.gpu.machine_type
            launcherMachineType  = "n2-standard-2"
            maxWorkers           = var.backfill.max_workers
            subnetwork           = local.subnet
            ipConfiguration      = "WORKER_IP_PRIVATE"
            tempLocation         = "${local.bucket.temp}/temp"
            stagingLocation      = "${local.bucket.temp}/staging"
            additionalUserLabels = local.labels
            # Accelerators are there while the job runs, and only then.
            additionalPipelineOptions = local.gpu == null ? null : [
              "dataflow_service_options=worker_accelerator=type:${local.gpu.type};count:${local.gpu.count};install-nvidia-driver",
            ]
          } : name => value if value != null
        }
      }
    }))

    oauth_token {
      service_account_email = local.schedule
    }
  }

  lifecycle {
    precondition {
      condition     = length(setsubtract(keys(local.backfill_parameters), local.template_parameters.batch)) == 0
      error_message = "backfill.parameters has names that the template does not have: see templates/flex/batch.json."
    }
  }
}

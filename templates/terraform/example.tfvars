# Copy this to production.tfvars, and commit that: nothing in it is secret.
project = "my-project"
region  = "europe-west1"

image_tag = "0.1.0"

alert_emails = ["oncall@example.com"]
publishers   = ["serviceAccount:shop@my-project.iam.gserviceaccount.com"]
readers      = ["group:analysts@example.com"]

# After the first apply, when there are images, templates, a task file and a model.
stream = {
  task       = "churn_shop"
  parameters = { shards = "16" }
}

backfill = {
  task     = "churn_shop"
  schedule = "0 3 * * 1" # score.every is a week that begins on Monday; by three o'clock its last events have come
  gpu      = {}          # an NVIDIA L4 for each worker; leave it out for CPUs
}

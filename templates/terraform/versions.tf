terraform {
  required_version = ">= 1.9, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "7.45.0"
    }
    google-beta = {
      source  = "hashicorp/google-beta"
      version = "7.45.0"
    }
  }

  # terraform init -backend-config="bucket=..." names the bucket that the bootstrap made.
  backend "gcs" {
    prefix = "foretide"
  }
}

provider "google" {
  project        = var.project
  region         = var.region
  default_labels = local.labels
}

# Dataflow's Flex template jobs are there only.
provider "google-beta" {
  project        = var.project
  region         = var.region
  default_labels = local.labels
}

terraform {
  required_version = ">= 1.9, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "7.45.0"
    }
  }
}

provider "google" {
  project        = var.project
  region         = var.region
  default_labels = { app = var.name, managed-by = "terraform" }
}

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.26, < 8.0"
    }
  }

  # The state knows every name and no secret. The bucket is made by hand before anything else, and
  # `terraform init` is told it (deploy/README.md); each environment has a prefix of its own.
  backend "gcs" {}
}

provider "google" {
  project = var.project
}

data "google_project" "this" {
  project_id = var.project
}

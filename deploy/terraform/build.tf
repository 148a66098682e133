# Where images are, and who builds them: an account of its own, which can write images and logs and
# read the source, and nothing of the fleet.
locals {
  image_location = coalesce(var.image_location, var.region)
}

resource "google_artifact_registry_repository" "fleet" {
  #checkov:skip=CKV_GCP_84:Images hold no secrets; Google's own keys encrypt them
  repository_id = var.name
  format        = "DOCKER"
  location      = local.image_location
  depends_on    = [google_project_service.this]
}

resource "google_service_account" "build" {
  account_id   = "${var.name}-build"
  display_name = "Builds fleet's image (deploy/cloudbuild.yaml)"
  depends_on   = [google_project_service.this]
}

# The source as `gcloud builds submit` uploads it.
resource "google_storage_bucket" "build" {
  #checkov:skip=CKV_GCP_78:Uploads of source that is kept elsewhere
  #checkov:skip=CKV_GCP_62:As the token bucket
  name     = "${var.project}-${var.name}-build"
  location = local.location

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_artifact_registry_repository_iam_member" "build" {
  repository = google_artifact_registry_repository.fleet.name
  location   = google_artifact_registry_repository.fleet.location
  # why: the build pushes the image.
  role   = "roles/artifactregistry.writer"
  member = google_service_account.build.member
}

resource "google_storage_bucket_iam_member" "build" {
  bucket = google_storage_bucket.build.name
  # why: the build reads the source that was uploaded for it.
  role   = "roles/storage.objectViewer"
  member = google_service_account.build.member
}

resource "google_project_iam_member" "build" {
  project = var.project
  # why: the build's log; Cloud Logging knows no smaller grant for a writer.
  role   = "roles/logging.logWriter"
  member = google_service_account.build.member
}

resource "google_service_account_iam_member" "build" {
  for_each = local.people

  service_account_id = google_service_account.build.name
  # why: operators start builds that run as this account.
  role   = "roles/iam.serviceAccountUser"
  member = each.value
}

resource "google_storage_bucket_iam_member" "build_upload" {
  for_each = local.people

  bucket = google_storage_bucket.build.name
  # why: operators upload the source that they build.
  role   = "roles/storage.objectUser"
  member = each.value
}

resource "google_project_iam_member" "build_submit" {
  #checkov:skip=CKV_GCP_49:A build runs as the account above, which operators may use and which may do little
  for_each = var.project_grants ? local.people : toset([])

  project = var.project
  # why: operators start builds and see how they went; builds belong to the project.
  role   = "roles/cloudbuild.builds.editor"
  member = each.value
}

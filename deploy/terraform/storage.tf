locals {
  location = coalesce(var.location, var.region)
  bucket   = coalesce(var.bucket, "${var.project}-${var.name}-tokens")
}

# One object per user is rewritten at every refresh. Old versions and deleted objects would keep
# refresh tokens that their users believe gone, hence no versioning and no soft delete.
# Nothing is deleted by itself but done/: deleting under leases/ would let two replicas renew one
# token, and deleting under tokens/ or parked/ loses grants and jobs.
resource "google_storage_bucket" "tokens" {
  #checkov:skip=CKV_GCP_78:Versions would keep refresh tokens that were revoked or deleted
  #checkov:skip=CKV_GCP_62:Data access audit logs (audit.tf) say who read what; a log bucket would say less
  name     = local.bucket
  location = local.location

  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.delete_tokens

  versioning {
    enabled = false
  }

  soft_delete_policy {
    retention_duration_seconds = 0
  }

  # `fleet worker --dedupe bucket` notes done jobs there, for as long as a message may come again.
  lifecycle_rule {
    condition {
      age            = 8
      matches_prefix = ["done/"]
    }
    action {
      type = "Delete"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  # Cloud Storage's agent must be allowed to use the key first.
  depends_on = [google_kms_crypto_key_iam_member.bucket, google_project_service.this]
}

data "google_storage_project_service_account" "this" {}

resource "google_kms_crypto_key_iam_member" "bucket" {
  count = var.kms_key == null ? 0 : 1

  crypto_key_id = var.kms_key
  # why: Cloud Storage encrypts the bucket's objects with the customer's key.
  role   = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member = data.google_storage_project_service_account.this.member
}

# A Cloud KMS key that wraps the keyring's data keys, so that whoever gets hold of the keyring's
# secret alone can open nothing. Only with keyring_kms: deploy/README.md.
locals {
  keyring_kms = var.keyring_kms == null ? 0 : 1
}

resource "google_kms_key_ring" "fleet" {
  count = local.keyring_kms

  name       = var.name
  location   = var.keyring_kms
  depends_on = [google_project_service.this]
}

resource "google_kms_crypto_key" "keyring" {
  count = local.keyring_kms

  name     = "keyring"
  key_ring = google_kms_key_ring.fleet[0].id
  # A new primary version every 90 days. Older ones still unwrap what they have wrapped.
  rotation_period            = "7776000s"
  destroy_scheduled_duration = "2592000s"

  # Without its versions the keyring is lost, and with it every stored grant.
  lifecycle {
    prevent_destroy = true
  }
}

resource "google_kms_crypto_key_iam_member" "keyring" {
  for_each = { for who, member in { worker = local.worker, web = local.web } : who => member if var.keyring_kms != null }

  crypto_key_id = google_kms_crypto_key.keyring[0].id
  # why: processes unwrap the keyring at their start; they never wrap a key.
  role   = "roles/cloudkms.cryptoKeyDecrypter"
  member = each.value
}

resource "google_kms_crypto_key_iam_member" "keyring_custodians" {
  for_each = { for who in var.custodians : who => who if var.keyring_kms != null }

  crypto_key_id = google_kms_crypto_key.keyring[0].id
  # why: `fleet keyring` wraps keys, and `fleet users` and `fleet doctor` unwrap them.
  role   = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member = each.value
}

# The audit trail (log target fleet_audit): who was granted, refreshed, revoked, exported, and
# where each user's token went, in a log bucket of its own that outlives the other logs.
resource "google_logging_project_bucket_config" "audit" {
  project        = var.project
  location       = var.audit_location
  bucket_id      = "${var.name}-audit"
  retention_days = var.audit_retention_days
  description    = "What was done to users' grants, by the fleet in namespace ${var.name}"
  depends_on     = [google_project_service.this]
}

resource "google_logging_project_sink" "audit" {
  name        = "${var.name}-audit"
  destination = "logging.googleapis.com/${google_logging_project_bucket_config.audit.id}"
  filter      = "resource.type=\"k8s_container\" resource.labels.namespace_name=\"${var.name}\" jsonPayload.target=\"fleet_audit\""
  # A log bucket of the same project needs no grant.
  unique_writer_identity = true
}

# Who read or wrote which object, and who read a secret: Cloud Audit Logs' data access, which Google has
# off. It can only be switched on for all buckets of the project, and is written to the log bucket
# _Default (30 days; deploy/SIZING.md says what it costs). One environment of a project has it.
resource "google_project_iam_audit_config" "data_access" {
  for_each = var.audit_data_access ? toset(["storage.googleapis.com", "secretmanager.googleapis.com"]) : []

  project = var.project
  service = each.key

  audit_log_config {
    log_type = "DATA_READ"
  }

  audit_log_config {
    log_type = "DATA_WRITE"
  }
}

# The audit trail (log target fleet_audit): who was granted, refreshed, revoked, exported, and
# where each user's token went, in a log bucket of its own that outlives the other logs.
resource "google_logging_project_bucket_config" "audit" {
  project        = var.project
  location       = var.audit_location
  bucket_id      = "fleet-audit"
  retention_days = var.audit_retention_days
  description    = "What was done to users' grants, by the fleet in namespace ${var.namespace}"
}

resource "google_logging_project_sink" "audit" {
  name        = "fleet-audit"
  destination = "logging.googleapis.com/${google_logging_project_bucket_config.audit.id}"
  filter      = "resource.type=\"k8s_container\" resource.labels.namespace_name=\"${var.namespace}\" jsonPayload.target=\"fleet_audit\""
  # A log bucket of the same project needs no grant.
  unique_writer_identity = true
}

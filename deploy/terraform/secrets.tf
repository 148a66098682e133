# Containers only. The values are added by hand (deploy/README.md), so that they are never in a
# variable, a plan or the state.
resource "google_secret_manager_secret" "this" {
  for_each = toset(["oauth-client", "keyring", "session-key"])

  secret_id  = "${var.name}-${each.key}"
  depends_on = [google_project_service.this]

  replication {
    auto {}
  }
}

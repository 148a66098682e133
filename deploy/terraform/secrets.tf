# Containers only. The values are added by hand (README, "On GKE"), so that they are never in a
# variable, a plan or the state.
resource "google_secret_manager_secret" "this" {
  for_each = toset(["fleet-oauth-client", "fleet-keyring", "fleet-session-key"])

  secret_id = each.key

  replication {
    auto {}
  }
}

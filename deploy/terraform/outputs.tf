output "settings" {
  description = "Lines for deploy/kubernetes/overlays/example/settings.env."
  value       = <<-EOT
    GOOGLE_CLOUD_PROJECT=${var.project}
    FLEET_BUCKET=${google_storage_bucket.tokens.name}
    FLEET_TOPIC=${google_pubsub_topic.jobs.name}
    FLEET_SUBSCRIPTION=${google_pubsub_subscription.workers.name}
    FLEET_DEAD_TOPIC=${google_pubsub_topic.dead.name}
    FLEET_DEAD_SUBSCRIPTION=${google_pubsub_subscription.review.name}
    FLEET_OUTCOMES_TOPIC=${google_pubsub_topic.outcomes.name}
    FLEET_EVENTS_TOPIC=${google_pubsub_topic.events.name}
    FLEET_WEB_OUTCOMES_TOPIC=${var.web_reads_outcomes ? google_pubsub_topic.outcomes.name : ""}
    FLEET_PUBLIC_URL=https://${var.public_host}
    FLEET_ALLOW_BUCKETS=${join(",", var.output_buckets)}
    FLEET_CLIENT_SECRET=${google_secret_manager_secret.this["oauth-client"].secret_id}
    FLEET_KEYRING_SECRET=${google_secret_manager_secret.this["keyring"].secret_id}
    FLEET_SESSION_SECRET=${google_secret_manager_secret.this["session-key"].secret_id}
    FLEET_ADDRESS=${google_compute_global_address.web.name}
  EOT
}

output "keyring_kms_key" {
  description = "For `fleet keyring new --kms` and `fleet keyring rotate --kms`."
  value       = one(google_kms_crypto_key.keyring[*].id)
}

output "environment" {
  description = "Lines for the shell, for the commands of README and RUNBOOK.md."
  value       = <<-EOT
    export GOOGLE_CLOUD_PROJECT=${var.project} REGION=${var.region} FLEET=${var.name}
    export IMAGE=${google_artifact_registry_repository.fleet.location}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.fleet.repository_id}/fleet
    export BUILD_ACCOUNT=${google_service_account.build.name} BUILD_BUCKET=${google_storage_bucket.build.name}
    export FLEET_BUCKET=${google_storage_bucket.tokens.name}
  EOT
}

output "address" {
  description = "What public_host must point at."
  value       = google_compute_global_address.web.address
}

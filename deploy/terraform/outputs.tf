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
  EOT
}

output "keyring_kms_key" {
  description = "For `fleet keyring new --kms` and `fleet keyring rotate --kms`."
  value       = one(google_kms_crypto_key.keyring[*].id)
}

locals {
  topic                = coalesce(var.topic, var.name == "fleet" ? "jobs" : "${var.name}-jobs")
  workers_subscription = "${local.topic}-workers"
  dead_topic           = "${local.topic}-dead"
  review_subscription  = "${local.dead_topic}-review"
  outcomes_topic       = "${local.topic}-outcomes"
  events_topic         = "${local.topic}-events"

  # Pub/Sub itself moves what was delivered too often: deploy/README.md, makes this identity.
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  week  = "604800s"
  month = "2678400s"
}

resource "google_pubsub_topic" "jobs" {
  #checkov:skip=CKV_GCP_83:Messages name users and API calls, no secrets; Google's own keys encrypt them
  name       = local.topic
  depends_on = [google_project_service.this]

  dynamic "message_storage_policy" {
    for_each = length(var.message_regions) > 0 ? [1] : []
    content {
      allowed_persistence_regions = var.message_regions
    }
  }
}

resource "google_pubsub_subscription" "workers" {
  name  = local.workers_subscription
  topic = google_pubsub_topic.jobs.id

  # One user's jobs in order (the ordering key is the user ID).
  enable_message_ordering    = true
  ack_deadline_seconds       = 60
  message_retention_duration = local.week

  # A job that is given back comes again after a pause that grows.
  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  # 100 is the most that Pub/Sub allows: an outage of an API must not turn jobs into dead letters.
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead.id
    max_delivery_attempts = 100
  }

  # Never: 31 idle days would delete the subscription and every job published after them.
  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_topic" "dead" {
  #checkov:skip=CKV_GCP_83:As the job topic
  name = local.dead_topic

  dynamic "message_storage_policy" {
    for_each = length(var.message_regions) > 0 ? [1] : []
    content {
      allowed_persistence_regions = var.message_regions
    }
  }
}

# A topic keeps nothing by itself.
resource "google_pubsub_subscription" "review" {
  name                       = local.review_subscription
  topic                      = google_pubsub_topic.dead.id
  ack_deadline_seconds       = 60
  message_retention_duration = local.month

  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_topic" "outcomes" {
  #checkov:skip=CKV_GCP_83:As the job topic; results of jobs are in it, so grant subscriptions with care
  name = local.outcomes_topic

  dynamic "message_storage_policy" {
    for_each = length(var.message_regions) > 0 ? [1] : []
    content {
      allowed_persistence_regions = var.message_regions
    }
  }
}

# Whoever sends people to the consent pages subscribes to it.
resource "google_pubsub_topic" "events" {
  #checkov:skip=CKV_GCP_83:As the job topic
  name = local.events_topic

  dynamic "message_storage_policy" {
    for_each = length(var.message_regions) > 0 ? [1] : []
    content {
      allowed_persistence_regions = var.message_regions
    }
  }
}

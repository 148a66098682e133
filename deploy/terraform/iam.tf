# Who may do what, to which object; nothing is granted on the project except where an API knows no
# smaller thing. `fleet doctor` checks what it can see of this.
#
# Two traps. A condition on an object prefix (resource.name.startsWith("…/objects/tokens/")) breaks
# objects.list, which asks for the bucket, and with it the sweep of parked/ and `fleet users list`.
# And overwriting an object needs storage.objects.delete, which roles/storage.objectCreator lacks.
locals {
  # The project's pool of identities comes into being with its first cluster, and grants to nobody are refused: asked of
  # the cluster, so that it is made before them.
  pool       = try(google_container_cluster.fleet[0].workload_identity_config[0].workload_pool, "${var.project}.svc.id.goog")
  identities = "principal://iam.googleapis.com/projects/${data.google_project.this.number}/locations/global/workloadIdentityPools/${local.pool}/subject"

  # Kubernetes service accounts, directly: no Google service account, no keys.
  worker = "${local.identities}/ns/${var.name}/sa/fleet-worker"
  web    = "${local.identities}/ns/${var.name}/sa/fleet-web"

  metrics_readers = {
    hpa  = "${local.identities}/ns/custom-metrics/sa/custom-metrics-stackdriver-adapter"
    keda = "${local.identities}/ns/keda/sa/keda-operator"
  }
}

# Worker: takes jobs, publishes what became of them, renews tokens, parks jobs.

resource "google_pubsub_subscription_iam_member" "worker" {
  subscription = google_pubsub_subscription.workers.id
  role         = "roles/pubsub.subscriber"
  member       = local.worker
}

# Operators look at dead letters from within a worker's pod (`kubectl exec`, deploy/RUNBOOK.md).
resource "google_pubsub_subscription_iam_member" "worker_review" {
  subscription = google_pubsub_subscription.review.id
  role         = "roles/pubsub.subscriber"
  member       = local.worker
}

resource "google_pubsub_topic_iam_member" "worker" {
  for_each = {
    # Jobs that were parked are published again when their user has consented.
    jobs     = google_pubsub_topic.jobs.id
    dead     = google_pubsub_topic.dead.id
    outcomes = google_pubsub_topic.outcomes.id
    events   = google_pubsub_topic.events.id
  }

  topic  = each.value
  role   = "roles/pubsub.publisher"
  member = local.worker
}

resource "google_storage_bucket_iam_member" "tokens" {
  for_each = { worker = local.worker, web = local.web }

  bucket = google_storage_bucket.tokens.name
  role   = "roles/storage.objectUser"
  member = each.value
}

resource "google_storage_bucket_iam_member" "output" {
  for_each = var.output_buckets

  bucket = each.value
  # A repeated job overwrites its own output.
  role   = "roles/storage.objectUser"
  member = local.worker
}

resource "google_secret_manager_secret_iam_member" "worker" {
  for_each = toset(["oauth-client", "keyring"])

  secret_id = google_secret_manager_secret.this[each.key].id
  # why: the worker's pods mount the OAuth client and the keyring as files.
  role   = "roles/secretmanager.secretAccessor"
  member = local.worker
}

# Web: stores grants, publishes test jobs and those that were parked, tells who has consented.

resource "google_pubsub_topic_iam_member" "web" {
  for_each = {
    jobs   = google_pubsub_topic.jobs.id
    events = google_pubsub_topic.events.id
  }

  topic  = each.value
  role   = "roles/pubsub.publisher"
  member = local.web
}

resource "google_secret_manager_secret_iam_member" "web" {
  for_each = google_secret_manager_secret.this

  secret_id = each.value.id
  # why: the web pods mount the OAuth client, the keyring and the session key as files.
  role   = "roles/secretmanager.secretAccessor"
  member = local.web
}

# A page that has queued a test job reads the outcomes topic by a subscription that it makes for this
# and deletes again. What is not there yet cannot be granted by itself, so this is the project's.
resource "google_project_iam_custom_role" "outcomes_reader" {
  count = var.web_reads_outcomes ? 1 : 0

  role_id     = "${replace(var.name, "-", "_")}_outcomes_reader"
  title       = "Fleet outcomes reader (${var.name})"
  description = "Makes, reads and deletes subscriptions of its own."
  permissions = [
    "pubsub.subscriptions.consume",
    "pubsub.subscriptions.create",
    "pubsub.subscriptions.delete",
  ]
  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "web_reads_outcomes" {
  count = var.web_reads_outcomes ? 1 : 0

  project = var.project
  # why: subscriptions are made in the project; a role on the topic alone does not allow that.
  role   = google_project_iam_custom_role.outcomes_reader[0].id
  member = local.web
}

resource "google_pubsub_topic_iam_member" "web_reads_outcomes" {
  count = var.web_reads_outcomes ? 1 : 0

  topic = google_pubsub_topic.outcomes.id
  # why: pubsub.topics.attachSubscription, for the subscriptions above; it allows nothing else on a topic.
  role   = "roles/pubsub.subscriber"
  member = local.web
}

# Pub/Sub's own agent: without both, messages are redelivered for ever instead of being moved.

resource "google_pubsub_topic_iam_member" "agent" {
  topic  = google_pubsub_topic.dead.id
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "agent" {
  subscription = google_pubsub_subscription.workers.id
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

# Publishers: other teams' programs.

resource "google_pubsub_topic_iam_member" "publishers" {
  for_each = var.publishers

  topic  = google_pubsub_topic.jobs.id
  role   = "roles/pubsub.publisher"
  member = each.value
}

# The autoscaler's reader of Pub/Sub's backlog. Metrics are the project's: there is no smaller grant.
resource "google_project_iam_member" "metrics" {
  count = var.project_grants ? 1 : 0

  project = var.project
  # why: the adapter or KEDA reads num_undelivered_messages from Cloud Monitoring.
  role   = "roles/monitoring.viewer"
  member = local.metrics_readers[var.autoscaler]
}

resource "google_project_iam_member" "status" {
  project = var.project
  # why: `fleet status` in a worker's pod tells the backlog and its oldest job, which Pub/Sub itself does not.
  role   = "roles/monitoring.viewer"
  member = local.worker
}

# Who looks after the fleet. Operators work through the pods (`kubectl exec`, deploy/RUNBOOK.md), which
# have the keyring and the OAuth client already: nothing secret comes to a laptop. What they may do
# inside the namespace is Kubernetes' to say (kubernetes/base/operators.yaml). In a pod they can act as
# every user (`fleet token`), for as long as they may go there. Custodians hold the keys themselves, to
# rotate them: who has both the bucket and the keyring can act as every user for good.
locals {
  people = setunion(var.operators, var.custodians)
}

resource "google_project_iam_member" "operators" {
  for_each = {
    for pair in setproduct(local.people, [
      "roles/container.clusterViewer",
      "roles/logging.viewer",
      "roles/monitoring.viewer",
    ]) : "${pair[0]} ${pair[1]}" => pair if var.project_grants
  }

  project = var.project
  # why: operators get the cluster's address for kubectl, read logs and look at the dashboard; the
  # project is the smallest that these can be granted on, and none of them shows a secret or a message.
  role   = each.value[1]
  member = each.value[0]
}

# Dead letters are looked at and published again, also from one's own machine, and
# `gcloud pubsub subscriptions seek` skips jobs that must not run.
resource "google_pubsub_subscription_iam_member" "operators" {
  for_each = {
    for pair in setproduct(local.people, ["review", "workers"]) : "${pair[0]} ${pair[1]}" => pair
  }

  subscription = { review = google_pubsub_subscription.review.id, workers = google_pubsub_subscription.workers.id }[each.value[1]]
  role         = "roles/pubsub.subscriber"
  member       = each.value[0]
}

resource "google_pubsub_topic_iam_member" "operators" {
  for_each = local.people

  topic  = google_pubsub_topic.jobs.id
  role   = "roles/pubsub.publisher"
  member = each.value
}

# Settings are read, never changed. The predefined roles that read IAM policies can do or see far more.
resource "google_project_iam_custom_role" "doctor" {
  role_id     = "${replace(var.name, "-", "_")}_doctor"
  title       = "Fleet doctor (${var.name})"
  description = "Reads the settings that `fleet doctor` checks: no messages, no objects."
  permissions = [
    "pubsub.subscriptions.get",
    "pubsub.subscriptions.getIamPolicy",
    "pubsub.topics.get",
    "pubsub.topics.getIamPolicy",
    "storage.buckets.get",
    "storage.buckets.getIamPolicy",
  ]
  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "doctor" {
  for_each = merge({ worker = local.worker }, { for who in local.people : who => who })

  project = var.project
  # why: `fleet doctor` reads settings and IAM policies of topics, subscriptions and buckets, for people
  # and in a worker's pod; one grant for all of them, and nothing secret is in them.
  role   = google_project_iam_custom_role.doctor.id
  member = each.value
}

# Custodians: rotate secrets, and whatever else needs the files themselves.

resource "google_storage_bucket_iam_member" "custodians" {
  for_each = var.custodians

  bucket = google_storage_bucket.tokens.name
  role   = "roles/storage.objectUser"
  member = each.value
}

# `fleet users revoke` and `delete` tell applications.
resource "google_pubsub_topic_iam_member" "custodians" {
  for_each = var.custodians

  topic  = google_pubsub_topic.events.id
  role   = "roles/pubsub.publisher"
  member = each.value
}

resource "google_secret_manager_secret_iam_member" "custodians_read" {
  for_each = { for pair in setproduct(var.custodians, ["oauth-client", "keyring"]) : "${pair[0]} ${pair[1]}" => pair }

  secret_id = google_secret_manager_secret.this[each.value[1]].id
  # why: `fleet keyring rotate` needs the keyring; the session key is nobody's.
  role   = "roles/secretmanager.secretAccessor"
  member = each.value[0]
}

resource "google_secret_manager_secret_iam_member" "custodians_add" {
  for_each = { for pair in setproduct(var.custodians, keys(google_secret_manager_secret.this)) : "${pair[0]} ${pair[1]}" => pair }

  secret_id = google_secret_manager_secret.this[each.value[1]].id
  # why: rotation adds versions; old ones are disabled in the same way.
  role   = "roles/secretmanager.secretVersionManager"
  member = each.value[0]
}

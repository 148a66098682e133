# Operators get no key, custodians do, and jobs write nothing over tokens.
mock_provider "google" {
  # Google numbers projects itself.
  override_data {
    target = data.google_project.this
    values = { number = "123456789012" }
  }
}

variables {
  project        = "my-project"
  region         = "europe-west1"
  public_host    = "connect.example.com"
  operators      = ["group:fleet-operators@example.com"]
  security_group = "gke-security-groups@example.com"
  custodians     = ["user:ann@example.com"]
}

run "operators_look_and_do_not_hold" {
  command = plan

  assert {
    condition     = alltrue([for grant in google_secret_manager_secret_iam_member.custodians_read : grant.member == "user:ann@example.com"])
    error_message = "an operator reads a secret"
  }
  assert {
    condition     = alltrue([for grant in google_storage_bucket_iam_member.custodians : grant.member == "user:ann@example.com"])
    error_message = "an operator reads the token bucket"
  }
  assert {
    condition     = keys(google_storage_bucket_iam_member.tokens) == ["web", "worker"]
    error_message = "somebody else has the token bucket"
  }
  assert {
    condition = alltrue([for role in ["roles/container.clusterViewer", "roles/logging.viewer", "roles/monitoring.viewer"] :
    contains(keys(google_project_iam_member.operators), "group:fleet-operators@example.com ${role}")])
    error_message = "operators cannot reach the cluster, or see nothing"
  }
  # `gcloud pubsub subscriptions seek` asks for the role on the subscription itself.
  assert {
    condition     = google_pubsub_subscription_iam_member.operators["group:fleet-operators@example.com workers"].role == "roles/pubsub.subscriber"
    error_message = "operators cannot skip jobs"
  }
}

run "a_group_that_kubernetes_does_not_know" {
  command = plan

  variables {
    security_group = null
  }

  expect_failures = [var.security_group]
}

run "an_output_bucket_that_has_tokens" {
  command = plan

  variables {
    output_buckets = ["my-project-fleet-tokens"]
  }

  expect_failures = [var.output_buckets]
}

run "a_keyring_that_kms_wraps" {
  command = plan

  variables {
    keyring_kms = "europe-west1"
  }

  assert {
    condition     = alltrue([for grant in google_kms_crypto_key_iam_member.keyring : grant.role == "roles/cloudkms.cryptoKeyDecrypter"])
    error_message = "a process may wrap keys"
  }
}

run "pages_make_no_subscriptions" {
  command = plan

  assert {
    condition     = length(google_project_iam_member.web_reads_outcomes) == 0 && length(google_pubsub_topic_iam_member.web_reads_outcomes) == 0
    error_message = "the pages have subscriptions of the project, and nobody asked for it"
  }
}

run "pages_that_read_outcomes" {
  command = plan

  variables {
    name               = "fleet-staging"
    web_reads_outcomes = true
  }

  assert {
    condition     = google_project_iam_member.web_reads_outcomes[0].member == google_pubsub_topic_iam_member.web_reads_outcomes[0].member
    error_message = "somebody else reads outcomes"
  }
  assert {
    condition     = google_project_iam_custom_role.outcomes_reader[0].role_id == "fleet_staging_outcomes_reader"
    error_message = "two environments make one role"
  }
  assert {
    condition     = toset(google_project_iam_custom_role.outcomes_reader[0].permissions) == toset(["pubsub.subscriptions.consume", "pubsub.subscriptions.create", "pubsub.subscriptions.delete"])
    error_message = "the pages may do more than to make, read and delete subscriptions"
  }
}

# Names follow from one variable, so that environments can share a project and a cluster.
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

run "a_fleet" {
  command = plan

  assert {
    condition     = google_storage_bucket.tokens.name == "my-project-fleet-tokens"
    error_message = "the token bucket is ${google_storage_bucket.tokens.name}"
  }
  assert {
    condition     = google_pubsub_topic.jobs.name == "jobs" && google_pubsub_subscription.workers.name == "jobs-workers"
    error_message = "topics are not called as README says"
  }
  assert {
    condition     = length(google_project_iam_member.operators) == 6 && length(google_project_iam_member.metrics) == 1 && length(google_project_iam_member.build_submit) == 2
    error_message = "a fleet by itself has no operators"
  }
  assert {
    condition     = google_secret_manager_secret.this["keyring"].secret_id == "fleet-keyring"
    error_message = "secrets are not called as README says"
  }
  assert {
    condition     = strcontains(google_pubsub_subscription_iam_member.worker.member, "/ns/fleet/sa/fleet-worker")
    error_message = google_pubsub_subscription_iam_member.worker.member
  }
}

run "staging_beside_it" {
  command = plan

  variables {
    name              = "fleet-staging"
    cluster           = "existing"
    audit_data_access = false
    project_grants    = false
  }

  assert {
    condition = alltrue([for name in [
      google_storage_bucket.tokens.name,
      google_storage_bucket.build.name,
      google_pubsub_topic.jobs.name,
      google_pubsub_topic.dead.name,
      google_pubsub_subscription.workers.name,
      google_pubsub_subscription.review.name,
      google_secret_manager_secret.this["oauth-client"].secret_id,
      google_secret_manager_secret.this["keyring"].secret_id,
      google_secret_manager_secret.this["session-key"].secret_id,
      google_artifact_registry_repository.fleet.repository_id,
      google_service_account.build.account_id,
      google_logging_project_bucket_config.audit.bucket_id,
      google_logging_project_sink.audit.name,
      google_compute_global_address.web.name,
      google_certificate_manager_certificate_map.web.name,
      google_pubsub_subscription_iam_member.worker.member,
    ] : strcontains(name, "fleet-staging")])
    error_message = "something of staging is called as production's"
  }
  assert {
    condition     = google_project_iam_custom_role.doctor.role_id == "fleet_staging_doctor"
    error_message = google_project_iam_custom_role.doctor.role_id
  }
  assert {
    condition     = length(google_project_iam_audit_config.data_access) == 0
    error_message = "two environments own one setting of the project"
  }
  assert {
    condition     = length(google_project_iam_member.operators) + length(google_project_iam_member.metrics) + length(google_project_iam_member.build_submit) == 0
    error_message = "to destroy this environment takes the other one's operators and autoscaler away"
  }
  assert {
    condition     = length(google_container_cluster.fleet) == 0 && length(google_compute_network.fleet) == 0
    error_message = "the cluster is there already"
  }
}

run "a_name_that_accounts_cannot_have" {
  command = plan

  variables {
    name = "Fleet_Production"
  }

  expect_failures = [var.name]
}

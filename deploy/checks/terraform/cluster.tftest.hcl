# Each kind of cluster; nodes and builds have accounts of their own, and the roles that they need.
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

run "autopilot" {
  command = plan

  assert {
    condition     = google_container_cluster.fleet[0].enable_autopilot == true && length(google_container_node_pool.fleet) == 0
    error_message = "Autopilot is the default, and has no pools"
  }
  assert {
    condition     = google_project_iam_member.nodes[0].role == "roles/container.defaultNodeServiceAccount"
    error_message = "nodes can write no logs"
  }
  assert {
    condition     = google_artifact_registry_repository_iam_member.nodes["nodes"].role == "roles/artifactregistry.reader"
    error_message = "nodes cannot pull the image"
  }
  assert {
    condition     = google_artifact_registry_repository_iam_member.build.role == "roles/artifactregistry.writer"
    error_message = "the build cannot push the image"
  }
  assert {
    condition     = google_container_cluster.fleet[0].deletion_protection == true
    error_message = "a cluster goes by accident"
  }
  assert {
    condition     = toset([for service in google_project_iam_audit_config.data_access : service.service]) == toset(["storage.googleapis.com", "secretmanager.googleapis.com"])
    error_message = "nobody logs who reads the bucket"
  }
}

# Values that only Google knows: the accounts' addresses.
run "the_cluster_runs_as_its_own_account" {
  command = apply

  assert {
    condition     = google_container_cluster.fleet[0].cluster_autoscaling[0].auto_provisioning_defaults[0].service_account == google_service_account.nodes[0].email
    error_message = "nodes run as the default account"
  }
}

run "standard" {
  command = apply

  variables {
    cluster = "standard"
  }

  assert {
    condition     = google_container_node_pool.fleet[0].node_config[0].service_account == google_service_account.nodes[0].email
    error_message = "nodes run as the default account"
  }
  assert {
    condition     = google_container_node_pool.fleet[0].node_config[0].workload_metadata_config[0].mode == "GKE_METADATA"
    error_message = "pods could take the nodes' account"
  }
  assert {
    condition     = google_container_cluster.fleet[0].workload_identity_config[0].workload_pool == "my-project.svc.id.goog"
    error_message = "pods have no identity"
  }
}

run "the_nodes_of_a_cluster_that_is_there" {
  command = plan

  variables {
    cluster       = "existing"
    image_readers = ["serviceAccount:nodes@my-project.iam.gserviceaccount.com"]
  }

  assert {
    condition     = length(google_artifact_registry_repository_iam_member.nodes) == 1
    error_message = "its nodes cannot pull the image"
  }
}

run "no_such_cluster" {
  command = plan

  variables {
    cluster = "none"
  }

  expect_failures = [var.cluster]
}

# The cluster: Autopilot, Standard with one pool of nodes, or one that is there already (var.cluster).
# Its nodes run as an account of their own: the default one may do nothing in new organisations,
# and anything in old ones.
resource "google_service_account" "nodes" {
  count = local.makes_cluster

  account_id   = "${var.name}-nodes"
  display_name = "Nodes of the fleet's cluster"
  depends_on   = [google_project_service.this]
}

resource "google_project_iam_member" "nodes" {
  count = local.makes_cluster

  project = var.project
  # why: nodes write logs and metrics and read their own cluster's settings; made for nodes, and the
  # project is the smallest that it can be granted on.
  role   = "roles/container.defaultNodeServiceAccount"
  member = google_service_account.nodes[0].member
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  # Keys that are known before anything is made.
  for_each = merge(
    { for nodes in google_service_account.nodes : "nodes" => nodes.member },
    { for who in var.image_readers : who => who },
  )

  repository = google_artifact_registry_repository.fleet.name
  location   = google_artifact_registry_repository.fleet.location
  # why: nodes pull the image.
  role   = "roles/artifactregistry.reader"
  member = each.value
}

resource "google_container_cluster" "fleet" {
  #checkov:skip=CKV_GCP_61:Autopilot always has it, and Standard sets it below
  #checkov:skip=CKV_GCP_12:Dataplane V2 enforces network policies; the setting is for its predecessor
  #checkov:skip=CKV_GCP_69:Autopilot has it always, and the pool of a Standard cluster sets it
  #checkov:skip=CKV_GCP_66:Which images may run is the project's policy to say; ours is pinned by digest
  #checkov:skip=CKV_GCP_24:PodSecurityPolicy is gone from Kubernetes; the namespace enforces the restricted standard
  count = local.makes_cluster

  name     = var.name
  location = var.region

  # Absent, not false, on Standard.
  enable_autopilot = var.cluster == "autopilot" ? true : null
  # Standard: the pool below in place of the one that a cluster begins with.
  remove_default_node_pool = var.cluster == "standard" ? true : null
  initial_node_count       = var.cluster == "standard" ? 1 : null
  datapath_provider        = var.cluster == "standard" ? "ADVANCED_DATAPATH" : null
  # Autopilot has both always.
  enable_shielded_nodes       = var.cluster == "standard" ? true : null
  enable_intranode_visibility = var.cluster == "standard" ? true : null
  deletion_protection         = var.delete_cluster ? false : true

  network    = google_compute_network.fleet[0].id
  subnetwork = google_compute_subnetwork.fleet[0].id

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = false
    master_ipv4_cidr_block  = "172.16.0.0/28"
  }

  # Who may speak to Kubernetes' API at all; whoever does still signs in.
  master_authorized_networks_config {
    dynamic "cidr_blocks" {
      for_each = var.kubectl_from
      content {
        cidr_block   = cidr_blocks.value
        display_name = cidr_blocks.key
      }
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  release_channel {
    channel = "REGULAR"
  }

  # Mounts Secret Manager's versions as files.
  secret_manager_config {
    enabled = true
  }

  # On Autopilot these are so without being said.
  dynamic "workload_identity_config" {
    for_each = var.cluster == "standard" ? [1] : []
    content {
      workload_pool = "${var.project}.svc.id.goog"
    }
  }

  dynamic "gateway_api_config" {
    for_each = var.cluster == "standard" ? [1] : []
    content {
      channel = "CHANNEL_STANDARD"
    }
  }

  dynamic "authenticator_groups_config" {
    for_each = var.security_group == null ? [] : [var.security_group]
    content {
      security_group = authenticator_groups_config.value
    }
  }

  # kube-state-metrics (HPA, POD, DEPLOYMENT) is what FleetReplicasUnavailable looks at.
  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS", "HPA", "POD", "DEPLOYMENT"]
    managed_prometheus {
      enabled = true
    }
  }

  dynamic "cluster_autoscaling" {
    for_each = var.cluster == "autopilot" ? [1] : []
    content {
      auto_provisioning_defaults {
        service_account = google_service_account.nodes[0].email
        oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
      }
    }
  }

  # The node that is made and removed at once runs as this account too.
  dynamic "node_config" {
    for_each = var.cluster == "standard" ? [1] : []
    content {
      service_account = google_service_account.nodes[0].email
      oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
      shielded_instance_config {
        enable_secure_boot          = true
        enable_integrity_monitoring = true
      }
    }
  }

  resource_labels = { fleet = var.name }

  # Only the pool below has nodes; the first one's settings no longer matter.
  lifecycle {
    ignore_changes = [node_config, initial_node_count]
  }
}

resource "google_container_node_pool" "fleet" {
  count = var.cluster == "standard" ? 1 : 0

  name     = "fleet"
  cluster  = google_container_cluster.fleet[0].id
  location = var.region

  # In each of the region's zones.
  autoscaling {
    min_node_count = 1
    max_node_count = var.max_nodes_per_zone
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  upgrade_settings {
    max_surge       = 1
    max_unavailable = 0
  }

  node_config {
    machine_type    = var.machine_type
    service_account = google_service_account.nodes[0].email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }
  }
}

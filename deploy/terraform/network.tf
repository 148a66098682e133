# A network of the fleet's own: nodes without public addresses, which reach APIs through NAT.
locals {
  makes_cluster = var.cluster == "existing" ? 0 : 1
}

resource "google_compute_network" "fleet" {
  #checkov:skip=CKV2_GCP_18:Nothing may come in but what GKE opens for its own control plane; NetworkPolicies say the rest
  count = local.makes_cluster

  name                    = var.name
  auto_create_subnetworks = false
  depends_on              = [google_project_service.this]
}

resource "google_compute_subnetwork" "fleet" {
  count = local.makes_cluster

  name          = var.name
  region        = var.region
  network       = google_compute_network.fleet[0].id
  ip_cidr_range = "10.0.0.0/20"
  # Google's own APIs without NAT.
  private_ip_google_access   = true
  private_ipv6_google_access = "DISABLE_GOOGLE_ACCESS"

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = "10.4.0.0/14"
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = "10.8.0.0/20"
  }

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "EXCLUDE_ALL_METADATA"
  }
}

resource "google_compute_router" "fleet" {
  count = local.makes_cluster

  name    = var.name
  region  = var.region
  network = google_compute_network.fleet[0].id
}

resource "google_compute_router_nat" "fleet" {
  count = local.makes_cluster

  name                               = var.name
  region                             = var.region
  router                             = google_compute_router.fleet[0].name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
  # One pod may hold as many connections to one host as it runs jobs, and to the others besides.
  enable_dynamic_port_allocation      = true
  enable_endpoint_independent_mapping = false
  min_ports_per_vm                    = 256
  max_ports_per_vm                    = 8192

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

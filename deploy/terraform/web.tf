# Where browsers reach the consent pages: an address, and a certificate that Google renews. The Gateway
# of the Kubernetes overlay names both. The certificate becomes active once the host points at the
# address.
resource "google_compute_global_address" "web" {
  name       = "${var.name}-web"
  depends_on = [google_project_service.this]
}

resource "google_certificate_manager_certificate" "web" {
  name = "${var.name}-web"

  managed {
    domains = [var.public_host]
  }

  depends_on = [google_project_service.this]
}

resource "google_certificate_manager_certificate_map" "web" {
  name       = "${var.name}-web"
  depends_on = [google_project_service.this]
}

resource "google_certificate_manager_certificate_map_entry" "web" {
  name         = "${var.name}-web"
  map          = google_certificate_manager_certificate_map.web.name
  certificates = [google_certificate_manager_certificate.web.id]
  hostname     = var.public_host
}

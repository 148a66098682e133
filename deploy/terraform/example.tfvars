# cp example.tfvars terraform.tfvars, and make it yours. Every variable is described in variables.tf.
project         = "my-project"
region          = "europe-west1"
public_host     = "connect.example.com"
kubectl_from    = { office = "203.0.113.0/24" }
message_regions = ["europe-west1"]
publishers      = ["serviceAccount:reports@my-project.iam.gserviceaccount.com"]
operators       = ["group:fleet-operators@example.com"]
security_group  = "gke-security-groups@example.com" # which fleet-operators is a member of
custodians      = ["user:ann@example.com", "user:ben@example.com"]
autoscaler      = "hpa"

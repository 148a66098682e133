# terraform apply -var-file=example.tfvars
project         = "my-project"
location        = "europe-west1"
message_regions = ["europe-west1"]
publishers      = ["serviceAccount:reports@my-project.iam.gserviceaccount.com"]
operators       = ["group:fleet-operators@example.com"]
autoscaler      = "hpa"

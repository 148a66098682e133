variable "project" {
  description = "Project ID that everything is made in."
  type        = string
}

variable "location" {
  description = "Where the token bucket is: a region, or a multi-region such as EU. Near the cluster, since refreshes wait for it."
  type        = string
}

variable "bucket" {
  description = "Name of the token bucket. Default: PROJECT-fleet-tokens."
  type        = string
  default     = null
}

variable "delete_tokens" {
  description = "Lets `terraform destroy` delete the bucket although it has tokens. Every user would have to consent again."
  type        = bool
  default     = false
}

variable "kms_key" {
  description = "Cloud KMS key (projects/P/locations/L/keyRings/R/cryptoKeys/K) that encrypts the bucket. Default: Google's own keys. The keyring seals the stored secrets in either case."
  type        = string
  default     = null
}

variable "keyring_kms" {
  description = "Cloud KMS location (europe-west1, europe, …) in which a key is made that wraps the keyring. Default: no such key; the keyring's secret holds its keys themselves."
  type        = string
  default     = null
}

variable "topic" {
  description = "Job topic. Also the prefix of what belongs to it: TOPIC-workers, TOPIC-dead, TOPIC-dead-review, TOPIC-outcomes."
  type        = string
  default     = "jobs"
}

variable "message_regions" {
  description = "Regions that may store messages, e.g. [\"europe-west1\"]. Default: any."
  type        = list(string)
  default     = []
}

variable "publishers" {
  description = "Who may publish jobs, as IAM principals (serviceAccount:…, principal://…). Whoever publishes a job acts as any user whose grant is stored: keep it short."
  type        = set(string)
  default     = []
}

variable "operators" {
  description = "Who runs `fleet doctor`, `users`, `dead` and `keyring`, as IAM principals (group:…)."
  type        = set(string)
  default     = []
}

variable "audit_retention_days" {
  description = "How long the audit trail is kept. A retention that is once locked in the console can only grow."
  type        = number
  default     = 400

  validation {
    condition     = var.audit_retention_days >= 1 && var.audit_retention_days <= 3650
    error_message = "audit_retention_days must be 1 to 3650, what Cloud Logging keeps."
  }
}

variable "audit_location" {
  description = "Where the audit trail is: global, or a region that Cloud Logging has. It cannot be changed later."
  type        = string
  default     = "global"
}

variable "output_buckets" {
  description = "Existing buckets that jobs may write answers to (`fleet worker --allow-bucket`). Never the token bucket."
  type        = set(string)
  default     = []

  validation {
    condition     = !contains(var.output_buckets, coalesce(var.bucket, "${var.project}-fleet-tokens"))
    error_message = "output_buckets must not contain the token bucket: a job could overwrite tokens."
  }
}

variable "image_location" {
  description = "Artifact Registry location of the image. Default: location, which then must be a region."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Kubernetes namespace of the fleet."
  type        = string
  default     = "fleet"
}

variable "autoscaler" {
  description = "What reads Pub/Sub's backlog from Cloud Monitoring: hpa (Custom Metrics Stackdriver Adapter) or keda."
  type        = string
  default     = "hpa"

  validation {
    condition     = contains(["hpa", "keda"], var.autoscaler)
    error_message = "autoscaler must be hpa or keda; never both."
  }
}

variable "web_reads_outcomes" {
  description = "Lets the consent pages show what became of a test job. It gives them subscriptions of the whole project, to make, read and delete: for projects that have only the fleet in them."
  type        = bool
  default     = false
}

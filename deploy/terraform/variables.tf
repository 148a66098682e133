variable "project" {
  description = "Project ID that everything is made in."
  type        = string
}

variable "name" {
  description = "The environment, and how everything in it is called: fleet, fleet-staging, … Also the Kubernetes namespace. Environments may share a project and a cluster."
  type        = string
  default     = "fleet"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$", var.name))
    error_message = "name must begin with a letter and have at most 20 of a-z, 0-9 and -: accounts are called after it."
  }
}

variable "region" {
  description = "Region of the cluster, its network and the image."
  type        = string
}

variable "cluster" {
  description = "autopilot, standard (a pool of nodes that grows), or existing: one that is there, also that of another environment."
  type        = string
  default     = "autopilot"

  validation {
    condition     = contains(["autopilot", "standard", "existing"], var.cluster)
    error_message = "cluster must be autopilot, standard or existing."
  }
}

variable "machine_type" {
  description = "Machines of a Standard cluster. A replica asks for half a core and 512 MiB."
  type        = string
  default     = "e2-standard-2"
}

variable "max_nodes_per_zone" {
  description = "Most nodes that a Standard cluster has in each zone of its region."
  type        = number
  default     = 4
}

variable "delete_cluster" {
  description = "Lets `terraform destroy` delete the cluster. Apply with it first."
  type        = bool
  default     = false
}

variable "kubectl_from" {
  description = "Networks that may reach Kubernetes' API, by name, e.g. { office = \"203.0.113.0/24\" }. Signing in is needed besides."
  type        = map(string)
  default     = {}
}

variable "security_group" {
  description = "gke-security-groups@DOMAIN, whose member groups Kubernetes then knows: for operators that are a group. Default: people only."
  type        = string
  default     = null

  validation {
    condition = var.security_group != null || var.cluster == "existing" || !anytrue([
      for who in setunion(var.operators, var.custodians) : startswith(who, "group:")
    ])
    error_message = "security_group must be set where operators or custodians are a group: Kubernetes would know of no group, and refuse them everything."
  }
}

variable "image_readers" {
  description = "Accounts of the nodes of an existing cluster (serviceAccount:…), which pull the image."
  type        = set(string)
  default     = []
}

variable "public_host" {
  description = "Host of the consent pages, such as connect.example.com. Its address record is for you to make."
  type        = string
}

variable "location" {
  description = "Where the token bucket is: a region, or a multi-region such as EU. Near the cluster, since refreshes wait for it. Default: region."
  type        = string
  default     = null
}

variable "bucket" {
  description = "Name of the token bucket. Default: PROJECT-NAME-tokens."
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
  description = "Job topic. Also the prefix of what belongs to it: TOPIC-workers, TOPIC-dead, TOPIC-dead-review, TOPIC-outcomes, TOPIC-events. Default: jobs, or NAME-jobs where name is not fleet."
  type        = string
  default     = null
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
  description = "Who looks after the fleet through its pods, logs and dead letters, as IAM principals (user:…, group:…). They get no key, but can act as any user from within a pod."
  type        = set(string)
  default     = []
}

variable "custodians" {
  description = "Who holds the keys: operators who may also read and replace the keyring and the OAuth client. Two people, not a team."
  type        = set(string)
  default     = []
}

variable "project_grants" {
  description = "Grants people and the autoscaler the roles on the project that are the same for every environment. Off in all but one environment of a project: otherwise `terraform destroy` of one takes them from the other."
  type        = bool
  default     = true
}

variable "audit_data_access" {
  description = "Logs who reads and writes objects of the project's buckets and reads its secrets. Off in all but one environment of a project."
  type        = bool
  default     = true
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
    condition     = !contains(var.output_buckets, coalesce(var.bucket, "${var.project}-${var.name}-tokens"))
    error_message = "output_buckets must not contain the token bucket: a job could overwrite tokens."
  }
}

variable "image_location" {
  description = "Artifact Registry location of the image. Default: region."
  type        = string
  default     = null
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

variable "project" {
  description = "ID of the project."
  type        = string
}

variable "region" {
  description = "Where everything runs and is kept, such as europe-west1."
  type        = string
}

variable "name" {
  description = "What names begin with."
  type        = string
  default     = "foretide"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,15}$", var.name))
    error_message = "The name must have 3 to 16 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "github_repository" {
  description = "The repository whose workflow plans and applies, as OWNER/NAME."
  type        = string
}

variable "github_repository_id" {
  description = "Its number, which nobody else can take, as `gh api repos/OWNER/NAME --jq .id` says it."
  type        = string

  validation {
    condition     = can(regex("^[0-9]+$", var.github_repository_id))
    error_message = "The number of a repository has digits only."
  }
}

variable "launchers" {
  description = "Who may act as the launcher, such as group:data-engineers@example.com, or the account of Airflow."
  type        = set(string)
  default     = []

  validation {
    condition     = length(setintersection(var.launchers, ["allUsers", "allAuthenticatedUsers"])) == 0
    error_message = "Launchers are named: nothing is open to all."
  }
}

variable "event_tables" {
  description = "Tables of BigQuery that backfills read events from (bq://), as DATASET.TABLE of this project."
  type        = set(string)
  default     = []
}

variable "project" {
  description = "ID of the project."
  type        = string
}

variable "region" {
  description = "Where everything runs and is kept, such as europe-west1."
  type        = string
}

variable "name" {
  description = "What names begin with. The bootstrap must have the same."
  type        = string
  default     = "foretide"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,15}$", var.name))
    error_message = "The name must have 3 to 16 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "labels" {
  description = "Labels of everything, beside those that are always there."
  type        = map(string)
  default     = {}
}

variable "protect" {
  description = "Whether tables, datasets and buckets with data refuse to be destroyed."
  type        = bool
  default     = true
}

variable "dataset" {
  description = "The dataset of scores."
  type        = string
  default     = "foretide"
}

variable "table" {
  description = "The table of scores. Those of dead letters and of the ledger are named after it."
  type        = string
  default     = "scores"
}

variable "retention" {
  description = "Days for which things are kept. Null: for ever."
  type = object({
    messages     = optional(number, 7)
    dead_letters = optional(number, 31)
    events       = optional(number)
    scores       = optional(number)
  })
  default = {}

  validation {
    condition     = var.retention.messages >= 1 && var.retention.messages <= 31
    error_message = "Pub/Sub keeps messages for 1 to 31 days."
  }
  validation {
    condition     = var.retention.dead_letters >= 1 && var.retention.dead_letters <= 31
    error_message = "Dead letters are kept for 1 to 31 days, as Pub/Sub keeps them for no longer."
  }
}

variable "publishers" {
  description = "Who publishes events, such as serviceAccount:shop@my-project.iam.gserviceaccount.com."
  type        = set(string)
  default     = []

  validation {
    condition     = length(setintersection(var.publishers, ["allUsers", "allAuthenticatedUsers"])) == 0
    error_message = "Publishers are named: nothing is open to all."
  }
}

variable "readers" {
  description = "Who reads the scores, such as group:analysts@example.com."
  type        = set(string)
  default     = []

  validation {
    condition     = length(setintersection(var.readers, ["allUsers", "allAuthenticatedUsers"])) == 0
    error_message = "Readers are named: nothing is open to all."
  }
}

variable "image_tag" {
  description = "Tag of the images foretide-cpu and foretide-gpu in the repository, another one for each build."
  type        = string

  validation {
    condition     = var.image_tag != "latest"
    error_message = "A worker that is added later would get another image: give each build a tag of its own."
  }
}

variable "stream" {
  description = "The live job. Null: there is none. `parameters` are others of the template, by name."
  type = object({
    task         = string
    machine_type = optional(string, "n2-standard-2")
    workers      = optional(number, 1)
    max_workers  = optional(number, 4)
    parameters   = optional(map(string), {})
  })
  default = null
}

variable "backfill" {
  description = "Backfills by the clock. Null: there are none. With `gpu` their workers have accelerators."
  type = object({
    task         = string
    schedule     = string
    time_zone    = optional(string, "Etc/UTC")
    as_of        = optional(string, "latest")
    input        = optional(list(string))
    machine_type = optional(string, "n2-standard-4")
    max_workers  = optional(number, 8)
    parameters   = optional(map(string), {})
    gpu = optional(object({
      type         = optional(string, "nvidia-l4")
      count        = optional(number, 1)
      machine_type = optional(string, "g2-standard-8")
    }))
  })
  default = null
}

variable "alert_emails" {
  description = "Who hears of alerts. Empty: incidents are seen in the console only."
  type        = set(string)
  default     = []
}

variable "limits" {
  description = "When alerts go off."
  type = object({
    watermark_lag     = optional(number, 900)  # s
    system_lag        = optional(number, 300)  # s
    dead_letter_share = optional(number, 0.05) # of events, in half an hour
  })
  default = {}
}

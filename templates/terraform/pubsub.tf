resource "google_pubsub_topic" "events" {
  name                       = "${var.name}-events"
  message_retention_duration = "${var.retention.messages * local.day}s"

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }
}

resource "google_pubsub_topic" "dead_letters" {
  name                       = "${var.name}-dead-letters"
  message_retention_duration = "${var.retention.dead_letters * local.day}s"

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }
}

# The job asks for no order and counts a message that comes again once. A dead letter policy or a retry delay would take
# messages away from it, or hold its watermark, after each failure of its own: it publishes dead letters itself.
resource "google_pubsub_subscription" "events" {
  name                         = "${var.name}-events"
  topic                        = google_pubsub_topic.events.id
  ack_deadline_seconds         = 10
  message_retention_duration   = "${var.retention.messages * local.day}s"
  retain_acked_messages        = false
  enable_message_ordering      = false
  enable_exactly_once_delivery = false

  expiration_policy {
    ttl = ""
  }
}

# What `foretide replay --subscription` reads.
resource "google_pubsub_subscription" "dead_letters" {
  name                       = "${var.name}-dead-letters"
  topic                      = google_pubsub_topic.dead_letters.id
  ack_deadline_seconds       = 60
  message_retention_duration = "${var.retention.dead_letters * local.day}s"

  expiration_policy {
    ttl = ""
  }
}

# To look at a subscription before a job starts takes the viewer.
resource "google_pubsub_subscription_iam_member" "worker" {
  for_each = toset(["roles/pubsub.subscriber", "roles/pubsub.viewer"])

  subscription = google_pubsub_subscription.events.name
  role         = each.value
  member       = "serviceAccount:${local.worker}"
}

resource "google_pubsub_subscription_iam_member" "launcher" {
  subscription = google_pubsub_subscription.events.name
  role         = "roles/pubsub.viewer"
  member       = "serviceAccount:${local.launcher}"
}

resource "google_pubsub_topic_iam_member" "worker" {
  for_each = toset(["roles/pubsub.publisher", "roles/pubsub.viewer"])

  topic  = google_pubsub_topic.dead_letters.name
  role   = each.value
  member = "serviceAccount:${local.worker}"
}

resource "google_pubsub_topic_iam_member" "publishers" {
  for_each = var.publishers

  topic  = google_pubsub_topic.events.name
  role   = "roles/pubsub.publisher"
  member = each.value
}

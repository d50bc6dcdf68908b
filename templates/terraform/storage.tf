locals {
  # events: files that backfills read. models: models, and task files. templates: what launches read, and what jobs
  # stage, which a live job reads again when a worker is added. temp: what a run leaves behind.
  buckets = {
    events    = { days = var.retention.events, versioned = false, data = true }
    models    = { days = null, versioned = true, data = true }
    templates = { days = null, versioned = true, data = false }
    temp      = { days = 14, versioned = false, data = false }
  }
}

resource "google_storage_bucket" "buckets" {
  for_each = local.buckets

  name                        = "${var.project}-${var.name}-${each.key}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !(var.protect && each.value.data)

  soft_delete_policy {
    retention_duration_seconds = each.value.data ? 7 * local.day : 0
  }

  versioning {
    enabled = each.value.versioned
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 7
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.value.days == null ? [] : [each.value.days]
    content {
      action {
        type = "Delete"
      }
      condition {
        age = lifecycle_rule.value
      }
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.value.versioned ? [1] : []
    content {
      action {
        type = "Delete"
      }
      condition {
        days_since_noncurrent_time = 90
        with_state                 = "ARCHIVED"
      }
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.key == "events" ? [1] : []
    content {
      action {
        type          = "SetStorageClass"
        storage_class = "NEARLINE"
      }
      condition {
        age                   = 90
        matches_storage_class = ["STANDARD"]
      }
    }
  }
}

locals {
  bucket_roles = {
    worker    = { events = "roles/storage.objectViewer", models = "roles/storage.objectViewer", templates = "roles/storage.objectUser", temp = "roles/storage.objectUser" }
    launcher  = { events = "roles/storage.objectViewer", models = "roles/storage.objectViewer", templates = "roles/storage.objectViewer" }
    scheduler = { templates = "roles/storage.objectViewer" }
  }
  bucket_grants = merge([
    for account, roles in local.bucket_roles : {
      for bucket, role in roles : "${account}-${bucket}" => { account = account, bucket = bucket, role = role }
    }
  ]...)
}

resource "google_storage_bucket_iam_member" "accounts" {
  for_each = local.bucket_grants

  bucket = google_storage_bucket.buckets[each.value.bucket].name
  role   = each.value.role
  member = "serviceAccount:${var.name}-${each.value.account}@${var.project}.iam.gserviceaccount.com"
}

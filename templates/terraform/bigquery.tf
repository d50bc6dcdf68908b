locals {
  # As pipelines/storage/bigquery/schema.py makes them.
  tables = {
    scores = {
      suffix      = ""
      description = "Scores: of runs over files one row of each score_id, of live jobs every row that they wrote."
      day         = "as_of"
      clusters    = ["task", "entity_id"]
      days        = var.retention.scores
    }
    dead_letters = {
      suffix      = "_dead_letters"
      description = "What was refused and why: rows, messages, late events, and sequences that have no score."
      day         = "written_at"
      clusters    = ["run_id"]
      days        = var.retention.dead_letters # they have the content of events
    }
    ledger = {
      suffix      = "_ledger"
      description = "What became of every event and score. Of each run_id and attempt the row finished last counts."
      day         = "finished_at"
      clusters    = ["task", "run_id"]
      days        = null
    }
  }
}

resource "google_bigquery_dataset" "scores" {
  dataset_id                 = var.dataset
  description                = "Scores of Foretide, dead letters and ledger."
  location                   = var.region
  max_time_travel_hours      = 168
  delete_contents_on_destroy = !var.protect
}

resource "google_bigquery_table" "tables" {
  for_each = local.tables

  dataset_id          = google_bigquery_dataset.scores.dataset_id
  table_id            = "${var.table}${each.value.suffix}"
  description         = each.value.description
  schema              = file("${path.module}/../../schemas/${each.key}.json")
  clustering          = each.value.clusters
  deletion_protection = var.protect

  time_partitioning {
    type          = "DAY"
    field         = each.value.day
    expiration_ms = each.value.days == null ? null : each.value.days * local.day * 1000
  }

  lifecycle {
    # `foretide schema apply` adds the columns of other tasks, and must find them again.
    ignore_changes = [schema]
  }
}

resource "google_bigquery_dataset_iam_member" "writers" {
  for_each = { worker = local.worker, launcher = local.launcher }

  dataset_id = google_bigquery_dataset.scores.dataset_id
  role       = "roles/bigquery.dataEditor"
  member     = "serviceAccount:${each.value}"
}

resource "google_bigquery_dataset_iam_member" "readers" {
  for_each = var.readers

  dataset_id = google_bigquery_dataset.scores.dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = each.value
}

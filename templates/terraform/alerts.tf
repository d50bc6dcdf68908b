locals {
  # Time series of Dataflow, as PromQL has them. Counters of pipelines/ledger/metrics.py are user counters, which are gauges.
  stream_job   = "monitored_resource=\"dataflow_job\",job_name=\"${var.name}-stream\""
  backfill_job = "monitored_resource=\"dataflow_job\",job_name=\"${var.name}-backfill\""
  count = {
    for name in ["events", "dead_letters", "models_refused", "unscored", "behind", "rows_missing"] :
    name => "sum(delta(dataflow_googleapis_com:job_user_counter{${local.stream_job},metric_name=\"${name}\"}[30m]))"
  }

  alerts = {
    watermark_lag = {
      of       = "stream"
      title    = "Scores are late: the watermark lags"
      severity = "ERROR"
      seconds  = 600
      query    = "max(dataflow_googleapis_com:job_data_watermark_age{${local.stream_job}}) > ${var.limits.watermark_lag}"
      text     = "No score is written before the watermark has passed its as-of, and it is more than ${var.limits.watermark_lag} s behind. Look at the backlog of the subscription and at the workers: too few (`stream.max_workers`), failing again and again on one message (the log says which), or waiting for BigQuery."
    }
    system_lag = {
      of       = "stream"
      title    = "The live job is slow"
      severity = "WARNING"
      seconds  = 600
      query    = "max(dataflow_googleapis_com:job_system_lag{${local.stream_job}}) > ${var.limits.system_lag}"
      text     = "Something has been waiting inside the job for more than ${var.limits.system_lag} s. See model_ms and history_events in docs/metrics.md: give it more workers, or more shards in the next job."
    }
    stream_down = {
      of       = "stream"
      title    = "The live job does not run"
      severity = "CRITICAL"
      seconds  = 300
      query    = "absent_over_time(dataflow_googleapis_com:job_current_num_vcpus{${local.stream_job}}[15m])"
      text     = "No worker of the live job has been seen for 15 minutes. Messages wait in the subscription for ${var.retention.messages} days. The job's page says why it ended; the workflow `infrastructure` starts it again."
    }
    dead_letters = {
      of       = "stream"
      title    = "Too many events are refused"
      severity = "ERROR"
      seconds  = 300
      query    = "${local.count["dead_letters"]} > ${var.limits.dead_letter_share} * clamp_min(${local.count["events"]}, 1000)"
      text     = "In half an hour more than ${100 * var.limits.dead_letter_share} % of the events, or of a thousand if there were fewer, became dead letters. Their attribute `reason` says why: `gcloud pubsub subscriptions pull ${var.name}-dead-letters`. Mend the publisher or the task, then `foretide replay`."
    }
    dead_letters_expire = {
      of       = "stream"
      title    = "Dead letters are about to be lost"
      severity = "WARNING"
      seconds  = 300
      query    = "max(pubsub_googleapis_com:subscription_oldest_unacked_message_age{monitored_resource=\"pubsub_subscription\",subscription_id=\"${var.name}-dead-letters\"}) > ${0.8 * var.retention.dead_letters * local.day}"
      text     = "Dead letters are kept for ${var.retention.dead_letters} days, of which a fifth is left. `foretide replay` sends them again; those that nobody wants can be acknowledged."
    }
    model_errors = {
      of       = "stream"
      title    = "The model fails"
      severity = "ERROR"
      seconds  = 0
      query    = "${local.count["models_refused"]} > 0 or ${local.count["unscored"]} > 0"
      text     = "`models_refused`: a version that was promoted does not fit the task or does not load: the last good one serves on. The log of a worker says why. `foretide models rollback`, or promote a version that was made for this task. `unscored`: entities went without a score; their dead letters of stage infer say why."
    }
    accounts = {
      of       = "stream"
      title    = "The live job's accounts do not add up"
      severity = "CRITICAL"
      seconds  = 0
      query    = "${local.count["behind"]} > 0 or ${local.count["rows_missing"]} > 0"
      text     = "`behind`: events came before a boundary that had been scored, and their scores are corrected; find what else pulls from the subscription. `rows_missing`: scores went out of the table; the ledger's differences name the as-of, and the audit log of the table who deleted them. Run a backfill for that as-of."
    }
    backfill_failed = {
      of       = "backfill"
      title    = "A backfill failed"
      severity = "ERROR"
      seconds  = 0
      query    = "max(dataflow_googleapis_com:job_is_failed{${local.backfill_job}}) > 0"
      text     = "Nothing of it was published. The job's log ends with the reason and, in its last lines, with what to do; to launch it again changes nothing that is right."
    }
    backfill_not_launched = {
      of       = "backfill"
      title    = "A backfill was not launched"
      severity = "ERROR"
      seconds  = 0
      query    = "sum(increase(logging_googleapis_com:log_entry_count{monitored_resource=\"cloud_scheduler_job\",job_id=\"${var.name}-backfill\",severity=\"ERROR\"}[30m])) > 0"
      text     = "Dataflow refused the launch: its answer is in the log of the scheduler's job. ALREADY_EXISTS: the one before still runs. PERMISSION_DENIED: apply the bootstrap again. INVALID_ARGUMENT: the template has other parameters; build it again."
    }
  }
  wanted = { stream = var.stream != null, backfill = var.backfill != null }
}

resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  display_name = "${var.name}: ${each.value}"
  type         = "email"
  labels       = { email_address = each.value }
  user_labels  = local.labels
}

resource "google_monitoring_alert_policy" "alerts" {
  for_each = { for name, alert in local.alerts : name => alert if local.wanted[alert.of] }

  display_name          = "${var.name}: ${each.value.title}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]
  user_labels           = local.labels

  conditions {
    display_name = each.value.title

    condition_prometheus_query_language {
      query               = each.value.query
      duration            = "${each.value.seconds}s"
      evaluation_interval = "60s"
    }
  }

  documentation {
    content   = each.value.text
    mime_type = "text/markdown"
  }
}

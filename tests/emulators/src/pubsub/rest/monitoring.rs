//! Cloud Monitoring's `timeSeries.list` of the two figures that tell how a subscription stands,
//! at the path that it has there. Production shows them two or three minutes late, here they are
//! those of this moment.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use crate::pubsub::engine::Engine;
use crate::pubsub::error::Error;

const MESSAGES: &str = "pubsub.googleapis.com/subscription/num_undelivered_messages";
const OLDEST: &str = "pubsub.googleapis.com/subscription/oldest_unacked_message_age";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    filter: String,
    #[serde(rename = "interval.endTime")]
    end: String,
}

/// No series where there is no such subscription, as in production.
pub(super) async fn list(
    State(engine): State<Arc<Engine>>,
    Path(project): Path<String>,
    Query(asked): Query<Asked>,
) -> Answer<Value> {
    if asked.end.parse::<prost_types::Timestamp>().is_err() {
        return Err(Error::Invalid("interval.endTime must be a time (RFC 3339)".to_owned()));
    }
    let (metric, id) = of_filter(&asked.filter)?;
    let name = format!("projects/{project}/subscriptions/{id}");
    let Some((messages, oldest)) = engine.run(|broker, now| broker.backlog(&name, now)) else {
        return Ok(Json(json!({})));
    };
    let value = if metric == MESSAGES { messages } else { oldest };
    let interval = json!({"startTime": asked.end, "endTime": asked.end});
    Ok(Json(json!({"timeSeries": [{
        "metric": {"type": metric},
        "resource": {
            "type": "pubsub_subscription",
            "labels": {"project_id": project, "subscription_id": id},
        },
        "metricKind": "GAUGE",
        "valueType": "INT64",
        // Numbers of 64 bits are strings in Google's JSON.
        "points": [{"interval": interval, "value": {"int64Value": value.to_string()}}],
    }]})))
}

/// The metric and the subscription's ID of the one form of filter that is understood.
fn of_filter(filter: &str) -> Result<(&str, &str), Error> {
    let parsed = filter.split_once(" AND ").and_then(|(metric, subscription)| {
        let metric = quoted(metric, "metric.type")?;
        let id = quoted(subscription, "resource.labels.subscription_id")?;
        [MESSAGES, OLDEST].contains(&metric).then_some((metric, id))
    });
    parsed.ok_or_else(|| Error::Unimplemented(format!("the filter {filter:?}").into()))
}

/// The value of a term like `name = "value"`.
fn quoted<'a>(term: &'a str, name: &str) -> Option<&'a str> {
    let value = term.trim().strip_prefix(name)?.trim_start().strip_prefix('=')?;
    value.trim().strip_prefix('"')?.strip_suffix('"')
}

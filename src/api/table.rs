//! Tables (`meta.k8s.io` Table): what kubectl prints for people comes from here alone.

use serde_json::{Value, json};

use super::answer::partial;
use super::error::ApiError;
use super::kinds::Kind;
use crate::model::Timestamp;

/// What each row carries of its object (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    /// Kubernetes' default is the metadata.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        match text {
            Some("Object") => Ok(Self::Object),
            Some("None") => Ok(Self::None),
            Some("Metadata") | None => Ok(Self::Metadata),
            Some(other) => Err(ApiError::bad_request(format!(
                "unrecognized includeObject value: {other:?}"
            ))),
        }
    }
}

/// A table of `objects`. `metadata` is the list's; `headed` says whether the columns are described (a watch does it once).
pub(crate) fn table<'a>(
    kind: &Kind,
    version: &str,
    metadata: &Value,
    objects: impl Iterator<Item = &'a Value>,
    include: Include,
    headed: bool,
    now: Timestamp,
) -> Value {
    let columns: Vec<Value> = kind
        .columns
        .iter()
        .filter(|_| headed)
        .map(|c| {
            json!({ "name": c.name, "type": c.cell_type, "format": c.format, "description": c.description, "priority": c.priority })
        })
        .collect();
    let rows: Vec<Value> = objects
        .map(|object| {
            let row = (kind.row)(object, now);
            let mut value = json!({ "cells": row.cells });
            if !row.conditions.is_empty() {
                value["conditions"] = row.conditions.into();
            }
            match include {
                Include::None => value["object"] = Value::Null,
                Include::Metadata => value["object"] = partial(object, version),
                Include::Object => value["object"] = kind.shown(object).into_owned(),
            }
            value
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// The time between two moments as kubectl says it (`apimachinery/pkg/util/duration`, `HumanDuration`).
pub(crate) fn human_duration(since: Timestamp, now: Timestamp) -> String {
    let millis = now.as_millisecond() - since.as_millisecond();
    let seconds = millis / 1000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    // Clocks may differ by a little; more than a second into the future is a mistake somewhere.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let two = |big: i64, unit: char, small: i64, sub: char| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{sub}")
        }
    };
    if seconds < 0 {
        "0s".to_owned()
    } else if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        two(hours / 24, 'd', hours % 24, 'h')
    } else if hours < 24 * 365 * 2 {
        format!("{}d", hours / 24)
    } else if hours < 24 * 365 * 8 {
        two(hours / 24 / 365, 'y', hours / 24 % 365, 'd')
    } else {
        format!("{}y", hours / 24 / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::pod::POD;

    #[test]
    fn durations_are_said_as_kubectl_says_them() {
        let then = Timestamp::UNIX_EPOCH;
        for (seconds, said) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            let now = Timestamp::from_second(seconds).unwrap();
            assert_eq!(human_duration(then, now), said, "{seconds} s");
        }
    }

    #[test]
    fn rows_carry_what_was_asked_for() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": []}});
        let table = |include, headed| {
            table(
                &POD,
                "v1",
                &json!({"resourceVersion": "7"}),
                [&pod].into_iter(),
                include,
                headed,
                Timestamp::UNIX_EPOCH,
            )
        };
        let with_metadata = table(Include::Metadata, true);
        assert_eq!(with_metadata["metadata"]["resourceVersion"], "7");
        assert_eq!(with_metadata["columnDefinitions"][0]["name"], "Name");
        assert_eq!(
            with_metadata["rows"][0]["object"],
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "p", "namespace": "n"}})
        );
        assert_eq!(table(Include::Object, false)["rows"][0]["object"], pod);
        assert_eq!(table(Include::None, false)["columnDefinitions"], json!([]));
    }
}

//! Services: `default/kubernetes`, which podd itself keeps, and no other yet.

use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use super::rules::{self, Rules};
use super::{
    AGE, Kind, METADATA_NAME, METADATA_NAMESPACE, NAME, READ_VERBS, Row, age_cell, at, name_cell, row, selectable,
    text, wide,
};
use crate::admit::{MetadataRules, NameRule};
use crate::model::Timestamp;

pub(super) static SERVICE: Kind = Kind {
    short_names: &["svc"],
    categories: &["all"],
    verbs: READ_VERBS,
    columns: &[
        NAME,
        text("Type", "type determines how the Service is exposed."),
        text("Cluster-IP", "clusterIP is the IP address of the service."),
        text(
            "External-IP",
            "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
        ),
        text("Port(s)", "The list of ports that are exposed by this service."),
        AGE,
        wide(
            "Selector",
            "Route service traffic to pods with label keys and values matching this selector.",
        ),
    ],
    selectable: &[
        METADATA_NAME,
        METADATA_NAMESPACE,
        selectable("spec.clusterIP"),
        selectable("spec.type"),
    ],
    row: cells,
    admit: rules::refuse::<Service>,
    ..rules::kind::<Service>("service")
};

impl Rules for Service {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Label,
        namespaced: true,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &SERVICE
    }
}

/// `printService`, for the one type there is.
fn cells(service: &Value, now: Timestamp) -> Row {
    let ports: Vec<String> = service
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            format!("{}/{protocol}", port["port"])
        })
        .collect();
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    let selector: Vec<String> = selector
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    row(vec![
        name_cell(service),
        at(service, "/spec/type").into(),
        or_none(at(service, "/spec/clusterIP").to_owned()).into(),
        "<none>".into(),
        or_none(ports.join(",")).into(),
        age_cell(service, now),
        or_none(selector.join(",")).into(),
    ])
}

//! Runtime classes (`pkg/apis/node/validation`).

use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::Value;

use super::rules::{self, Rules};
use super::{AGE, Kind, NAME, Row, age_cell, at, name_cell, row, text};
use crate::admit::{Findings, MetadataRules, NameRule, Path, Quantity, names};
use crate::model::Timestamp;

pub(super) static RUNTIME_CLASS: Kind = Kind {
    columns: &[
        NAME,
        text(
            "Handler",
            "handler specifies the underlying runtime and configuration that the CRI implementation will use to handle pods of this class.",
        ),
        AGE,
    ],
    row: cells,
    ..rules::kind::<RuntimeClass>("runtimeclass")
};

impl Rules for RuntimeClass {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: false,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &RUNTIME_CLASS
    }

    fn check(&self, findings: &mut Findings) {
        let handler_at = Path::root("handler");
        findings.invalid_each(&handler_at, &self.handler, &names::dns_label(&self.handler));
        let overhead_at = Path::root("overhead").child("podFixed");
        let fixed = self.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.as_ref());
        for (resource, amount) in fixed.into_iter().flatten() {
            let at = overhead_at.key(resource);
            findings.invalid_each(&at, resource, &names::qualified_name(resource));
            match Quantity::parse(&amount.0) {
                Ok(parsed) if parsed.is_negative() => {
                    findings.invalid(&at, &amount.0, "must be greater than or equal to 0");
                }
                Ok(_) => {}
                Err(error) => findings.invalid(&at, &amount.0, &error.to_string()),
            }
        }
        let selector = self.scheduling.as_ref().and_then(|rules| rules.node_selector.as_ref());
        let selector_at = Path::root("scheduling").child("nodeSelector");
        for (key, value) in selector.into_iter().flatten() {
            findings.invalid_each(&selector_at, key, &names::qualified_name(key));
            findings.invalid_each(&selector_at, value, &names::label_value(value));
        }
    }

    fn check_change(&self, before: &Self, findings: &mut Findings) {
        if self.handler != before.handler {
            findings.invalid(&Path::root("handler"), &self.handler, "field is immutable");
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Row {
    row(vec![
        name_cell(object),
        at(object, "/handler").into(),
        age_cell(object, now),
    ])
}

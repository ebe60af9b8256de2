//! Leases (`pkg/apis/coordination/validation`).

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::rules::{self, Rules};
use super::{AGE, Kind, NAME, Row, age_cell, at, name_cell, row, text};
use crate::admit::{Findings, MetadataRules, NameRule, Path};
use crate::model::Timestamp;

pub(super) static LEASE: Kind = Kind {
    columns: &[
        NAME,
        text(
            "Holder",
            "holderIdentity contains the identity of the holder of a current lease.",
        ),
        AGE,
    ],
    row: cells,
    ..rules::kind::<Lease>("lease")
};

impl Rules for Lease {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: true,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &LEASE
    }

    fn fill(&mut self) {
        self.spec.get_or_insert_default();
    }

    fn check(&self, findings: &mut Findings) {
        let Some(spec) = &self.spec else { return };
        let at = Path::root("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            findings.invalid_value(&at.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(count) = spec.lease_transitions.filter(|count| *count < 0) {
            findings.invalid_value(
                &at.child("leaseTransitions"),
                count,
                "must be greater than or equal to 0",
            );
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Row {
    row(vec![
        name_cell(object),
        at(object, "/spec/holderIdentity").into(),
        age_cell(object, now),
    ])
}

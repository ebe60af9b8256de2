//! Service accounts. That each namespace has one called `default` is the garbage room's work.

use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

use super::rules::{self, Rules};
use super::{AGE, Kind, NAME, Row, Subresource, age_cell, entries, name_cell, row, text};
use crate::admit::{MetadataRules, NameRule};
use crate::model::Timestamp;

pub(crate) static SERVICE_ACCOUNT: Kind = Kind {
    short_names: &["sa"],
    columns: &[
        NAME,
        text(
            "Secrets",
            "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use.",
        ),
        AGE,
    ],
    subresources: &[Subresource {
        name: "token",
        kind: ("authentication.k8s.io", "v1", "TokenRequest"),
        verbs: &["create"],
        // See `api/accounts.rs`.
        amend: None,
    }],
    row: cells,
    ..rules::kind::<ServiceAccount>("serviceaccount")
};

impl Rules for ServiceAccount {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: true,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &SERVICE_ACCOUNT
    }
}

fn cells(object: &Value, now: Timestamp) -> Row {
    row(vec![
        name_cell(object),
        entries(&object["secrets"]).into(),
        age_cell(object, now),
    ])
}

//! Pod templates: a pod's spec that nothing runs yet (`pkg/apis/core/validation`, `ValidatePodTemplate`).

use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use super::rules::{self, Rules};
use super::{AGE, Kind, NAME, Row, age_cell, name_cell, row, text};
use crate::admit::{self, Findings, MetadataRules, NameRule, Path};
use crate::model::Timestamp;

pub(crate) static POD_TEMPLATE: Kind = Kind {
    columns: &[
        NAME,
        text("Containers", "Names of each container in the template."),
        text("Images", "Images referenced by each container in the template."),
        text("Pod Labels", "The labels for the pod template."),
        AGE,
    ],
    row: cells,
    ..rules::kind::<PodTemplate>("podtemplate")
};

impl Rules for PodTemplate {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: true,
        generation: true,
    };
    const COUNTED: &'static str = "/template";

    fn kind() -> &'static Kind {
        &POD_TEMPLATE
    }

    fn fill(&mut self) {
        admit::fill_template(self.template.get_or_insert_default());
    }

    fn check(&self, findings: &mut Findings) {
        if let Some(template) = &self.template {
            admit::check_template(template, &Path::root("template"), findings);
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Row {
    let containers = object.pointer("/template/spec/containers").and_then(Value::as_array);
    let each = |field: &str| {
        let said: Vec<&str> = containers
            .into_iter()
            .flatten()
            .filter_map(|container| container[field].as_str())
            .collect();
        said.join(",")
    };
    let labels = object.pointer("/template/metadata/labels").and_then(Value::as_object);
    let labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    row(vec![
        name_cell(object),
        each("name").into(),
        each("image").into(),
        if labels.is_empty() {
            "<none>".into()
        } else {
            labels.join(",").into()
        },
        age_cell(object, now),
    ])
}

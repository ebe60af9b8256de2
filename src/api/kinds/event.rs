//! Events, under both of their names: they are stored in the form of the core group, and `events.k8s.io` is a view of
//! them (`pkg/apis/events/v1/conversion.go`; `pkg/apis/core/validation/events.go`).

use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::events::v1::Event as EventV1;
use serde_json::{Map, Value};

use super::rules::{self, Rules};
use super::{
    Admitted, Amended, Column, Draft, Kind, METADATA_NAME, METADATA_NAMESPACE, Row, Selectable, at, column, row,
    selectable, since, text, wide,
};
use crate::admit::{self, Decoded, Encoding, FieldValidation, Findings, MetadataRules, NameRule, Path, names};
use crate::api::error::ApiError;
use crate::model::Timestamp;

const SHORT: usize = 128;
const MAX_MESSAGE: usize = 1024;

const COLUMNS: &[Column] = &[
    text(
        "Last Seen",
        "The time at which the most recent occurrence of this event was recorded.",
    ),
    text(
        "Type",
        "Type of this event (Normal, Warning), new types could be added in the future",
    ),
    text(
        "Reason",
        "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
    ),
    text("Object", "The object that this event is about."),
    wide(
        "Subobject",
        "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement, such as desiredState.manifest.containers[2].",
    ),
    wide(
        "Source",
        "The component reporting this event. Should be a short machine understandable string.",
    ),
    text(
        "Message",
        "A human-readable description of the status of this operation.",
    ),
    wide(
        "First Seen",
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    ),
    wide("Count", "The number of times this event has occurred."),
    column("Name", "string", "name", "Name must be unique within a namespace.", 1),
];

/// In the core group; this is also how events are stored.
pub(super) static EVENT: Kind = Kind {
    short_names: &["ev"],
    columns: COLUMNS,
    selectable: &[
        METADATA_NAME,
        METADATA_NAMESPACE,
        selectable("involvedObject.kind"),
        selectable("involvedObject.namespace"),
        selectable("involvedObject.name"),
        selectable("involvedObject.uid"),
        selectable("involvedObject.apiVersion"),
        selectable("involvedObject.resourceVersion"),
        selectable("involvedObject.fieldPath"),
        selectable("reason"),
        selectable("reportingComponent"),
        Selectable {
            path: "source",
            stored: "source.component",
            instead: "reportingComponent",
            absent: "",
        },
        selectable("type"),
    ],
    row: cells,
    ..rules::kind::<Event>("event")
};

const fn regarding(path: &'static str, stored: &'static str) -> Selectable {
    Selectable {
        path,
        ..selectable(stored)
    }
}

/// In its own group.
pub(super) static EVENT_V1: Kind = Kind {
    group: EventV1::GROUP,
    version: EventV1::VERSION,
    selectable: &[
        METADATA_NAME,
        METADATA_NAMESPACE,
        regarding("regarding.kind", "involvedObject.kind"),
        regarding("regarding.namespace", "involvedObject.namespace"),
        regarding("regarding.name", "involvedObject.name"),
        regarding("regarding.uid", "involvedObject.uid"),
        regarding("regarding.apiVersion", "involvedObject.apiVersion"),
        regarding("regarding.resourceVersion", "involvedObject.resourceVersion"),
        regarding("regarding.fieldPath", "involvedObject.fieldPath"),
        selectable("reason"),
        regarding("reportingController", "reportingComponent"),
        selectable("type"),
    ],
    short_names: &["ev"],
    columns: COLUMNS,
    row: cells,
    read: read_v1,
    admit: admit_v1,
    amend: amend_v1,
    view: Some(to_v1),
    schema: |generator| generator.subschema_for::<EventV1>(),
    ..rules::kind::<Event>("event")
};

impl Rules for Event {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: true,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &EVENT
    }

    fn check(&self, findings: &mut Findings) {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let about = self.involved_object.namespace.as_deref().unwrap_or_default();
        // What has no namespace is told of in `default`.
        let fits = about == namespace || (about.is_empty() && namespace == "default");
        if !fits {
            let at = Path::root("involvedObject").child("namespace");
            findings.invalid(&at, about, "does not match event.namespace");
        }
        if self.event_time.is_some() {
            self.check_new_style(findings);
        }
    }
}

/// The rules of events that have an `eventTime`.
trait NewStyle {
    fn check_new_style(&self, findings: &mut Findings);
}

impl NewStyle for Event {
    fn check_new_style(&self, findings: &mut Findings) {
        let said = |value: &Option<String>| value.clone().unwrap_or_default();
        let component = said(&self.reporting_component);
        let component_at = Path::root("reportingController");
        if component.is_empty() {
            findings.required(&component_at, "");
        } else {
            findings.invalid_each(&component_at, &component, &names::qualified_name(&component));
        }
        for (field, value) in [
            ("reportingInstance", said(&self.reporting_instance)),
            ("action", said(&self.action)),
            ("reason", said(&self.reason)),
        ] {
            let at = Path::root(field);
            if value.is_empty() {
                findings.required(&at, "");
            } else if value.len() > SHORT {
                findings.invalid(&at, "", &format!("can have at most {SHORT} characters"));
            }
        }
        if said(&self.message).len() > MAX_MESSAGE {
            findings.invalid(
                &Path::root("message"),
                "",
                &format!("can have at most {MAX_MESSAGE} characters"),
            );
        }
    }
}

/// Fields that are called otherwise in `events.k8s.io`: there, and in the core group.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn renamed(object: &Value, api_version: &str, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let mut fields: Map<String, Value> = Map::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        let field = name(field).map_or_else(|| field.clone(), str::to_owned);
        fields.insert(field, value.clone());
    }
    fields.insert("apiVersion".to_owned(), api_version.into());
    Value::Object(fields)
}

fn to_v1(stored: &Value) -> Value {
    renamed(stored, EventV1::API_VERSION, |field| {
        NAMES.iter().find(|(_, core)| *core == field).map(|(new, _)| *new)
    })
}

fn to_core(event: &Value) -> Value {
    renamed(event, Event::API_VERSION, |field| {
        NAMES.iter().find(|(new, _)| *new == field).map(|(_, core)| *core)
    })
}

fn decode_v1(bytes: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Decoded<Value>, ApiError> {
    let Decoded { object, warnings } =
        admit::decode::<EventV1>(bytes, encoding, validation).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let object = serde_json::to_value(&object).map_err(|e| ApiError::internal("an event cannot be written", e))?;
    Ok(Decoded { object, warnings })
}

fn read_v1(bytes: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Decoded<Value>, ApiError> {
    decode_v1(bytes, encoding, validation)
}

fn admit_v1(draft: &Draft<'_>) -> Result<Admitted, ApiError> {
    let decoded = decode_v1(draft.bytes, draft.encoding, draft.validation)?;
    if at(&decoded.object, "/eventTime").is_empty() {
        return Err(ApiError::Invalid {
            group: EVENT_V1.group,
            kind: EVENT_V1.kind,
            name: at(&decoded.object, "/metadata/name").to_owned(),
            faults: vec![admit::Fault {
                field: "eventTime".to_owned(),
                reason: admit::FaultReason::Required,
                detail: "Required value".to_owned(),
            }],
        });
    }
    let bytes = to_core(&decoded.object).to_string();
    let mut admitted = rules::admit_new::<Event>(&Draft {
        bytes: bytes.as_bytes(),
        encoding: Encoding::Json,
        validation: FieldValidation::Ignore,
        ..draft.clone()
    })?;
    admitted.warnings.splice(0..0, decoded.warnings);
    Ok(admitted)
}

#[expect(clippy::needless_pass_by_value, reason = "an `Amend` like the others")]
fn amend_v1(current: &Value, proposed: Value, validation: FieldValidation) -> Result<Amended, ApiError> {
    let decoded = decode_v1(proposed.to_string().as_bytes(), Encoding::Json, validation)?;
    let mut amended = rules::amend::<Event>(current, to_core(&decoded.object), FieldValidation::Ignore)?;
    amended.warnings.splice(0..0, decoded.warnings);
    Ok(amended)
}

/// `printEvent`.
fn cells(event: &Value, now: Timestamp) -> Row {
    let time = |pointers: &[&str]| {
        let known = pointers.iter().find(|pointer| !at(event, pointer).is_empty());
        known.map_or_else(|| "<unknown>".to_owned(), |pointer| since(event, pointer, now))
    };
    let first = time(&["/firstTimestamp", "/eventTime"]);
    let series = event["series"].is_object();
    let last = if series {
        time(&["/series/lastObservedTime"])
    } else {
        time(&["/lastTimestamp", "/firstTimestamp", "/eventTime"])
    };
    let count = if series {
        &event["series"]["count"]
    } else {
        &event["count"]
    };
    let count = count.as_i64().unwrap_or(0);
    let kind = at(event, "/involvedObject/kind").to_lowercase();
    let about = match at(event, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let (component, instance) = match at(event, "/source/component") {
        "" => (at(event, "/reportingComponent"), at(event, "/reportingInstance")),
        component => (component, at(event, "/source/host")),
    };
    let source = if instance.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {instance}")
    };
    row(vec![
        last.into(),
        at(event, "/type").into(),
        at(event, "/reason").into(),
        about.into(),
        at(event, "/involvedObject/fieldPath").into(),
        source.into(),
        at(event, "/message").trim().into(),
        first.into(),
        if count == 0 && !series { 1 } else { count }.into(),
        at(event, "/metadata/name").into(),
    ])
}

//! Kinds that clients list before they do anything else, and that podd has no controller for yet: their lists are empty,
//! and making one is refused by name.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::Value;

use super::rules::{self, Rules};
use super::{AGE, Column, Kind, NAME, READ_VERBS, Row, age_cell, column, name_cell, row, text, wide};
use crate::admit::{MetadataRules, NameRule};
use crate::model::Timestamp;

const fn number(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", "", description, 0)
}

const DESIRED: Column = number("Desired", "The number of pods that are wanted.");
const CURRENT: Column = number("Current", "The number of pods that there are.");
const READY: Column = text("Ready", "Number of the pod with ready state");
const READY_COUNT: Column = number("Ready", "The number of pods that are ready.");
const UP_TO_DATE: Column = number("Up-to-date", "The number of pods that are of the newest template.");
const AVAILABLE: Column = number("Available", "The number of pods that have been ready for long enough.");
const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");
const SELECTOR: Column = wide("Selector", "Label selector of the pods.");

/// A kind of which there is none.
macro_rules! empty {
    ($name:ident, $type:ty, $singular:literal, $short:expr, $columns:expr) => {
        pub(super) static $name: Kind = Kind {
            short_names: $short,
            categories: &["all"],
            verbs: READ_VERBS,
            columns: $columns,
            row: name_and_age,
            admit: rules::refuse::<$type>,
            ..rules::kind::<$type>($singular)
        };

        impl Rules for $type {
            const METADATA: MetadataRules = MetadataRules {
                name: NameRule::Subdomain,
                namespaced: true,
                generation: true,
            };

            fn kind() -> &'static Kind {
                &$name
            }
        }
    };
}

empty!(
    DEPLOYMENT,
    Deployment,
    "deployment",
    &["deploy"],
    &[NAME, READY, UP_TO_DATE, AVAILABLE, AGE, CONTAINERS, IMAGES, SELECTOR]
);
empty!(
    REPLICA_SET,
    ReplicaSet,
    "replicaset",
    &["rs"],
    &[NAME, DESIRED, CURRENT, READY_COUNT, AGE, CONTAINERS, IMAGES, SELECTOR]
);
empty!(
    STATEFUL_SET,
    StatefulSet,
    "statefulset",
    &["sts"],
    &[NAME, READY, AGE, CONTAINERS, IMAGES]
);
empty!(
    DAEMON_SET,
    DaemonSet,
    "daemonset",
    &["ds"],
    &[
        NAME,
        DESIRED,
        CURRENT,
        READY_COUNT,
        UP_TO_DATE,
        AVAILABLE,
        text("Node Selector", "The nodes that are meant."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR
    ]
);
empty!(
    REPLICATION_CONTROLLER,
    ReplicationController,
    "replicationcontroller",
    &["rc"],
    &[NAME, DESIRED, CURRENT, READY_COUNT, AGE, CONTAINERS, IMAGES, SELECTOR]
);
empty!(
    JOB,
    Job,
    "job",
    &[],
    &[
        NAME,
        text("Status", "Status of the job."),
        text("Completions", "How many pods are to succeed."),
        text("Duration", "Time required to complete the job."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR
    ]
);

/// There is nothing to be shown; should there be, it is by its name and age alone.
fn name_and_age(object: &Value, now: Timestamp) -> Row {
    row(vec![name_cell(object), age_cell(object, now)])
}

//! The parameters of operations.

use serde_json::{Value, json};

use crate::api::kinds::Kind;

#[derive(Debug, Clone, Copy)]
pub(super) enum Type {
    Text,
    Whole,
    Flag,
    /// May be given several times.
    Texts,
}

/// A parameter of the query.
#[derive(Debug)]
pub(super) struct Parameter(&'static str, Type, &'static str);

pub(super) const LIST: &[Parameter] = &[
    Parameter("labelSelector", Type::Text, "Only objects whose labels match."),
    Parameter("fieldSelector", Type::Text, "Only objects whose fields match."),
    Parameter(
        "limit",
        Type::Whole,
        "At most so many objects; `continue` of the answer leads on.",
    ),
    Parameter(
        "continue",
        Type::Text,
        "Where a list goes on, as the answer before it said.",
    ),
    Parameter(
        "resourceVersion",
        Type::Text,
        "Not older than this version; for a watch: every change after it.",
    ),
    Parameter("resourceVersionMatch", Type::Text, "`NotOlderThan` or `Exact`."),
    Parameter("timeoutSeconds", Type::Whole, "How long a watch lasts."),
];

pub(super) const WATCH: &[Parameter] = &[
    Parameter(
        "watch",
        Type::Flag,
        "Stream changes instead of a list: one JSON object a line, each with `type` and `object`.",
    ),
    Parameter("allowWatchBookmarks", Type::Flag, "Send bookmarks while watching."),
    Parameter(
        "sendInitialEvents",
        Type::Flag,
        "Begin a watch with everything there is.",
    ),
];

pub(super) const WRITE: &[Parameter] = &[
    Parameter("dryRun", Type::Text, "`All`: check everything, store nothing."),
    Parameter("fieldManager", Type::Text, "Who writes."),
    Parameter(
        "fieldValidation",
        Type::Text,
        "What becomes of unknown and doubled fields: `Strict`, `Warn` (default) or `Ignore`.",
    ),
];

pub(super) const PATCH: &[Parameter] = &[Parameter(
    "force",
    Type::Flag,
    "Of server-side apply alone, which is refused until it is served.",
)];

pub(super) const DELETE: &[Parameter] = &[
    Parameter("dryRun", Type::Text, "`All`: check everything, delete nothing."),
    Parameter(
        "gracePeriodSeconds",
        Type::Whole,
        "Between SIGTERM and SIGKILL; instead of the pod's own.",
    ),
    Parameter(
        "propagationPolicy",
        Type::Text,
        "`Background`, `Foreground` or `Orphan`.",
    ),
];

pub(super) const LOG: &[Parameter] = &[
    Parameter(
        "container",
        Type::Text,
        "Which container; needed where there are several.",
    ),
    Parameter("follow", Type::Flag, "Go on as long as the container runs."),
    Parameter("previous", Type::Flag, "The instance before the present one."),
    Parameter("timestamps", Type::Flag, "A timestamp before each line."),
    Parameter("sinceSeconds", Type::Whole, "Only what is not older."),
    Parameter("sinceTime", Type::Text, "Only what is not older (RFC 3339)."),
    Parameter("tailLines", Type::Whole, "Only so many lines from the end."),
    Parameter("limitBytes", Type::Whole, "At most so many bytes."),
];

pub(super) const EXEC: &[Parameter] = &[
    Parameter("command", Type::Texts, "The program and its arguments, one each."),
    CONTAINER,
    STDIN,
    STDOUT,
    STDERR,
    TTY,
];

pub(super) const ATTACH: &[Parameter] = &[CONTAINER, STDIN, STDOUT, STDERR, TTY];

const CONTAINER: Parameter = Parameter(
    "container",
    Type::Text,
    "Which container; needed where there are several.",
);
const STDIN: Parameter = Parameter("stdin", Type::Flag, "Send standard input.");
const STDOUT: Parameter = Parameter("stdout", Type::Flag, "Receive standard output.");
const STDERR: Parameter = Parameter("stderr", Type::Flag, "Receive standard error.");
const TTY: Parameter = Parameter("tty", Type::Flag, "Give the process a terminal.");

pub(super) const PORTFORWARD: &[Parameter] = &[Parameter(
    "ports",
    Type::Texts,
    "The ports to forward; needed over WebSocket.",
)];

pub(super) const PROXY: &[Parameter] = &[Parameter(
    "path",
    Type::Text,
    "The part of the URL that is asked for behind the proxy.",
)];

/// A parameter as the document has it.
pub(super) fn query(parameter: &Parameter) -> Value {
    let Parameter(name, of_type, description) = parameter;
    let schema = match of_type {
        Type::Text => json!({ "type": "string" }),
        Type::Whole => json!({ "type": "integer" }),
        Type::Flag => json!({ "type": "boolean" }),
        Type::Texts => json!({ "type": "array", "items": { "type": "string" } }),
    };
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

fn of_path(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": description, "schema": { "type": "string" }
    })
}

pub(super) fn name(kind: &Kind) -> Value {
    of_path("name", &format!("name of the {}", kind.kind))
}

pub(super) fn namespace() -> Value {
    of_path(
        "namespace",
        "object name and auth scope, such as for teams and projects",
    )
}

pub(super) fn path() -> Value {
    of_path("path", "the path that is asked for behind the proxy")
}

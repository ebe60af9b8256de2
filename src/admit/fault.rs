//! One refusal of one field, worded as Kubernetes words it (`apimachinery/pkg/util/validation/field/errors.go`).

use std::fmt;

/// How many faults one answer holds at most: a hostile body must not be answered with more than it sent.
const MAX_FAULTS: usize = 1_000;
const MAX_WARNINGS: usize = 100;

/// One faulty field: an entry of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `spec.containers[0].ports[1].containerPort`
    pub field: String,
    pub reason: FaultReason,
    /// The whole message without the field: `Invalid value: "x": must be ...`.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.detail)
    }
}

/// `details.causes[].reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultReason {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    Duplicate,
    NotFound,
    TooLong,
    TooMany,
    TypeInvalid,
}

impl FaultReason {
    /// As Kubernetes spells it on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The words a message of this reason begins with.
    fn heading(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

/// The path of a field, as Kubernetes writes it: `spec.containers[0].resources.limits[cpu]`.
#[derive(Debug, Clone)]
pub struct Path(String);

impl Path {
    pub fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything found wrong or worth saying so far.
#[derive(Debug, Default)]
pub struct Findings {
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

impl Findings {
    /// The warnings, or every fault if there is one.
    pub fn finish(self) -> Result<Vec<String>, Vec<Fault>> {
        if self.faults.is_empty() {
            Ok(self.warnings)
        } else {
            Err(self.faults)
        }
    }

    /// `value` is empty for the reasons that show none; `detail` may be empty.
    fn push(&mut self, at: &Path, reason: FaultReason, value: &str, detail: &str) {
        if self.faults.len() >= MAX_FAULTS {
            return;
        }
        let mut message = reason.heading().to_owned();
        for part in [value, detail] {
            if !part.is_empty() {
                message.push_str(": ");
                message.push_str(part);
            }
        }
        self.faults.push(Fault {
            field: at.to_string(),
            reason,
            detail: message,
        });
    }

    pub fn required(&mut self, at: &Path, detail: &str) {
        self.push(at, FaultReason::Required, "", detail);
    }

    /// A value that is a string: shown in quotes.
    pub fn invalid(&mut self, at: &Path, value: &str, detail: &str) {
        self.push(at, FaultReason::Invalid, &format!("{value:?}"), detail);
    }

    /// A value that is no string: shown as it is.
    pub fn invalid_value(&mut self, at: &Path, value: impl fmt::Display, detail: &str) {
        self.push(at, FaultReason::Invalid, &value.to_string(), detail);
    }

    /// One fault for each message that a name check came up with.
    pub fn invalid_each(&mut self, at: &Path, value: &str, details: &[String]) {
        for detail in details {
            self.invalid(at, value, detail);
        }
    }

    pub fn not_supported(&mut self, at: &Path, value: &str, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        self.push(at, FaultReason::NotSupported, &format!("{value:?}"), &detail);
    }

    pub fn forbidden(&mut self, at: &Path, detail: &str) {
        self.push(at, FaultReason::Forbidden, "", detail);
    }

    /// What Kubernetes knows and podd cannot carry out: refused, since dropping it would change what runs.
    pub fn unsupported(&mut self, at: &Path, what: &str) {
        self.forbidden(at, &format!("podd does not support {what} yet"));
    }

    pub fn duplicate(&mut self, at: &Path, value: &str) {
        self.push(at, FaultReason::Duplicate, &format!("{value:?}"), "");
    }

    pub fn not_found(&mut self, at: &Path, value: &str) {
        self.push(at, FaultReason::NotFound, &format!("{value:?}"), "");
    }

    pub fn too_many(&mut self, at: &Path, count: usize, max: usize) {
        let detail = format!("must have at most {max} items");
        self.push(at, FaultReason::TooMany, &count.to_string(), &detail);
    }

    pub fn too_long(&mut self, at: &Path, max_bytes: usize) {
        self.push(
            at,
            FaultReason::TooLong,
            "",
            &format!("may not be more than {max_bytes} bytes"),
        );
    }

    pub fn warn(&mut self, at: &Path, text: &str) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(format!("{at}: {text}"));
        }
    }
}

//! Label and field selectors: text in, a predicate on objects out.
//!
//! The grammar is that of `apimachinery/pkg/labels/selector.go` and `pkg/fields/selector.go`.

use std::borrow::Cow;

use serde_json::Value;

use super::error::ApiError;
use super::kinds::Kind;

/// Which objects of a kind are meant. The empty selector means all of them.
#[derive(Debug, Default, Clone)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    /// `=`, `==`, `in`.
    In(Vec<String>),
    /// `!=`, `notin`: an object without the key matches too.
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    path: &'static str,
    /// Where to look when it is not there; empty: nowhere.
    instead: &'static str,
    /// What the field is when the object does not have it.
    absent: &'static str,
    value: String,
    equal: bool,
}

impl Selector {
    /// Read both selectors of a request. 400 with Kubernetes' message when one of them cannot be read.
    pub(crate) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = Parser { text: labels, at: 0 }
            .requirements()
            .map_err(|why| ApiError::bad_request(format!("unable to parse requirement: {why}")))?;
        Ok(Self {
            labels,
            fields: parse_fields(kind, fields)?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.labels
            .iter()
            .all(|r| r.matches(labels.and_then(|l| l.get(&r.key)).and_then(Value::as_str)))
            && self
                .fields
                .iter()
                .all(|term| (term.of(object) == term.value) == term.equal)
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Test::Above(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *bound),
            Test::Below(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *bound),
        }
    }
}

impl FieldTerm {
    fn of<'a>(&self, object: &'a Value) -> Cow<'a, str> {
        let found = field(object, self.path, self.absent);
        if found.is_empty() && !self.instead.is_empty() {
            return field(object, self.instead, self.absent);
        }
        found
    }
}

/// A field as text, the way Kubernetes' field sets hold it.
fn field<'a>(object: &'a Value, path: &str, absent: &'static str) -> Cow<'a, str> {
    let mut at = object;
    for step in path.split('.') {
        match at.get(step) {
            Some(next) => at = next,
            None => return Cow::Borrowed(absent),
        }
    }
    match at {
        Value::String(text) => Cow::Borrowed(text),
        Value::Null => Cow::Borrowed(absent),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Cow::Owned(at.to_string()),
    }
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<FieldTerm>, ApiError> {
    let mut terms = Vec::new();
    for term in split_unescaped(text) {
        if term.is_empty() {
            continue;
        }
        let invalid = || ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'"));
        let (path, equal, value) = split_operator(term).ok_or_else(invalid)?;
        let value = unescape(value).ok_or_else(invalid)?;
        let known = kind
            .selectable
            .iter()
            .find(|f| f.path == path)
            .ok_or_else(|| ApiError::bad_request(format!("field label not supported: {path}")))?;
        terms.push(FieldTerm {
            path: known.stored,
            instead: known.instead,
            absent: known.absent,
            value,
            equal,
        });
    }
    Ok(terms)
}

/// Split at the commas that no backslash stands before.
fn split_unescaped(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    let mut escaped = false;
    for (at, c) in term.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        if c == '\\' {
            escaped = true;
            continue;
        }
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = term[at..].strip_prefix(operator) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

/// `\,`, `\=` and `\\` stand for themselves; anything else after a backslash, and a bare `=` or `,`, is refused.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                e @ ('\\' | ',' | '=') => out.push(e),
                _ => return None,
            },
            ',' | '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// What stands for itself; anything else is a word. The longer ones first.
const SIGNS: [&str; 9] = ["!=", "==", "=", "!", ",", "(", ")", ">", "<"];

fn is_word(token: &str) -> bool {
    !token.is_empty() && !SIGNS.contains(&token)
}

impl<'a> Parser<'a> {
    /// The next word or sign; empty at the end.
    fn next(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        let length = match SIGNS.iter().find(|s| trimmed.starts_with(**s)) {
            Some(sign) => sign.len(),
            None => trimmed
                .find(|c: char| c.is_whitespace() || matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<'))
                .unwrap_or(trimmed.len()),
        };
        self.at += length;
        &trimmed[..length]
    }

    fn peek(&mut self) -> &'a str {
        let at = self.at;
        let token = self.next();
        self.at = at;
        token
    }

    fn requirements(mut self) -> Result<Vec<Requirement>, String> {
        let mut all = Vec::new();
        if self.peek().is_empty() {
            return Ok(all);
        }
        loop {
            all.push(self.requirement()?);
            match self.next() {
                "" => return Ok(all),
                "," => {
                    let after = self.peek();
                    if !is_word(after) && after != "!" {
                        return Err(format!("found '{after}', expected: identifier after ','"));
                    }
                }
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == "!";
        if absent {
            self.next();
        }
        let key = self.next();
        if !is_word(key) {
            return Err(format!("found '{key}', expected: identifier"));
        }
        check_key(key)?;
        let key = key.to_owned();
        if absent {
            return Ok(Requirement {
                key,
                test: Test::Absent,
            });
        }
        if matches!(self.peek(), "" | ",") {
            return Ok(Requirement {
                key,
                test: Test::Exists,
            });
        }
        let test = match self.next() {
            "=" | "==" => Test::In(vec![self.exact_value()?]),
            "!=" => Test::NotIn(vec![self.exact_value()?]),
            ">" => Test::Above(self.number()?),
            "<" => Test::Below(self.number()?),
            "in" => Test::In(self.values()?),
            "notin" => Test::NotIn(self.values()?),
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        if let Test::In(values) | Test::NotIn(values) = &test {
            values.iter().try_for_each(|v| check_value(v))?;
        }
        Ok(Requirement { key, test })
    }

    /// A value, or nothing: `key=` asks for the empty value.
    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            word if is_word(word) => {
                self.next();
                Ok(word.to_owned())
            }
            sign => Err(format!("found '{sign}', expected: identifier")),
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let text = self.exact_value()?;
        text.parse()
            .map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer: '{text}'"))
    }

    /// `(a, b)`; between two commas, and in `()`, stands the empty value.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            "(" => {}
            other => return Err(format!("found '{other}' expected: '('")),
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                word if is_word(word) => {
                    self.next();
                    values.push(word.to_owned());
                }
                "," | ")" => values.push(String::new()),
                other => return Err(format!("found '{other}', expected: ',', ')' or identifier")),
            }
            match self.next() {
                ")" => return Ok(values),
                "," => {}
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_ok = prefix.is_none_or(|p| {
        !p.is_empty()
            && p.len() <= 253
            && p.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
    });
    if prefix_ok && is_name(name) {
        Ok(())
    } else {
        Err(format!("key: Invalid value: \"{key}\": not a label name"))
    }
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        Ok(())
    } else {
        Err(format!("values: Invalid value: \"{value}\": not a label value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::pod::POD;
    use serde_json::json;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web", "tier": "front", "rev": "7", "empty": ""}},
            "spec": {"nodeName": "here", "restartPolicy": "Always"},
            "status": {"phase": "Running", "podIP": "10.244.0.3"},
        })
    }

    fn by_label(text: &str) -> bool {
        Selector::parse(&POD, text, "").unwrap().matches(&pod())
    }

    fn by_field(text: &str) -> bool {
        Selector::parse(&POD, "", text).unwrap().matches(&pod())
    }

    #[test]
    fn label_selectors_match_as_kubernetes_matches() {
        for text in [
            "",
            "app",
            "app=web",
            "app==web",
            "app = web",
            "app!=db",
            "other!=x",
            "!other",
            "app in (web,db)",
            "app in (db, web), tier",
            "tier notin (back)",
            "other notin (x)",
            "app,!other,tier=front",
            "rev>6",
            "rev<8",
            "empty=",
            "empty in ()",
            "podd.dev/x!=1",
        ] {
            assert!(by_label(text), "{text} should match");
        }
        for text in [
            "app=db",
            "other",
            "!app",
            "app!=web",
            "app in (db)",
            "app notin (web)",
            "app=web,tier=back",
            "rev>7",
            "app=",
        ] {
            assert!(!by_label(text), "{text} should not match");
        }
    }

    #[test]
    fn a_label_selector_that_cannot_be_read_is_a_bad_request() {
        for text in [
            "a b", "a=b=c", ",", "a,", "a in", "a in (b", "a in b", "=x", "a==!", "!", "-a=b", "a=b/c", "rev>x",
        ] {
            let error = Selector::parse(&POD, text, "").unwrap_err();
            assert_eq!(error.status()["code"], 400, "{text}");
        }
    }

    #[test]
    fn field_selectors_match_as_kubernetes_matches() {
        for text in [
            "",
            "metadata.name=web",
            "metadata.name==web,metadata.namespace=shop",
            "status.phase!=Failed",
            "spec.nodeName=here,status.phase!=Succeeded,status.phase!=Failed",
            "status.podIP=10.244.0.3",
            "spec.restartPolicy=Always",
            "spec.hostNetwork=false",
            "status.nominatedNodeName=",
        ] {
            assert!(by_field(text), "{text} should match");
        }
        for text in ["metadata.name=db", "status.phase!=Running", "spec.hostNetwork=true"] {
            assert!(!by_field(text), "{text} should not match");
        }
    }

    #[test]
    fn a_field_that_cannot_be_selected_by_is_named() {
        let error = Selector::parse(&POD, "", "spec.shoeSize=43").unwrap_err();
        assert_eq!(error.to_string(), "field label not supported: spec.shoeSize");
        let error = Selector::parse(&POD, "", "metadata.name").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid selector: 'metadata.name'; can't understand 'metadata.name'"
        );
        assert!(Selector::parse(&POD, "", "metadata.name=a\\xb").is_err());
    }
}

//! The wire types: for each message its fields, with their numbers in protobuf, their names in JSON, and how a strategic
//! merge patch merges their lists.
//!
//! The table is made by `deploy/wire-types.py` out of upstream's own files; nothing here is decided by podd. A test holds
//! it against the schemas of `k8s-openapi`.

mod table;

/// A message: in JSON an object.
#[derive(Debug)]
pub struct Message {
    /// `core.v1.PodSpec`
    pub name: &'static str,
    /// Ascending by number.
    pub fields: &'static [Field],
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    pub number: u32,
    /// In JSON. Empty for [`Kind::Inline`].
    pub name: &'static str,
    pub count: Count,
    pub kind: Kind,
    /// Zero stands for absent: no pointer in Go, so that it is always sent.
    pub plain: bool,
    /// How a strategic merge patch merges this list; `None`: it replaces it.
    pub merge: Option<MergeBy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    One,
    Many,
    /// Keys are text.
    Map,
}

/// What a value is.
#[derive(Debug)]
pub enum Kind {
    Boolean,
    Integer,
    Text,
    /// In JSON base64.
    Bytes,
    /// A message of seconds and nanoseconds; in JSON whole seconds.
    Time,
    /// The same with microseconds in JSON.
    MicroTime,
    /// A message of one text.
    Quantity,
    /// A message that says which of its two fields counts.
    IntOrText,
    /// A message of bytes that are JSON.
    Json,
    /// A message of many texts; in JSON their list.
    Texts,
    Message(&'static Message),
    /// Go's embedded struct: a message of its own on the wire, its fields beside the others in JSON.
    Inline(&'static Message),
}

/// What makes two items of a list the same item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeBy {
    /// The items are objects with this key.
    Key(&'static str),
    /// The items are texts: a set.
    Value,
}

impl Message {
    /// The message of a kind that is sent whole.
    pub fn of_kind(api_version: &str, kind: &str) -> Option<&'static Self> {
        let (_, _, message) = table::ROOTS
            .iter()
            .find(|(version, name, _)| *version == api_version && *name == kind)?;
        Some(message)
    }

    /// The field of this JSON name, those of embedded messages among them.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find_map(|field| {
            if let Kind::Inline(inner) = field.kind {
                inner.field(name)
            } else {
                (field.name == name).then_some(field)
            }
        })
    }
}

impl Field {
    const fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    const fn merged(mut self, key: &'static str) -> Self {
        self.merge = Some(if key.is_empty() {
            MergeBy::Value
        } else {
            MergeBy::Key(key)
        });
        self
    }
}

const fn field(number: u32, name: &'static str, count: Count, kind: Kind) -> Field {
    Field {
        number,
        name,
        count,
        kind,
        plain: false,
        merge: None,
    }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    field(number, name, Count::One, kind)
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    field(number, name, Count::Many, kind)
}

const fn map(number: u32, name: &'static str, kind: Kind) -> Field {
    field(number, name, Count::Map, kind)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::Resource;
    use k8s_openapi::api::{
        apps, authentication, authorization, autoscaling, coordination, core, events, node, policy,
    };
    use schemars::{JsonSchema, SchemaGenerator};
    use serde_json::Value;

    use super::*;

    fn compare<K: JsonSchema + Resource>(wrong: &mut BTreeSet<String>, compared: &mut usize) {
        let message = Message::of_kind(K::API_VERSION, K::KIND).expect(K::KIND);
        let schema = SchemaGenerator::default().into_root_schema_for::<K>();
        let schema = schema.as_value();
        walk(schema, schema, message, wrong, compared);
    }

    fn walk(root: &Value, schema: &Value, message: &Message, wrong: &mut BTreeSet<String>, compared: &mut usize) {
        let resolve = |schema: &'_ Value| -> Value {
            match schema["$ref"].as_str() {
                Some(path) => root["$defs"][path.rsplit('/').next().unwrap_or_default()].clone(),
                None => schema.clone(),
            }
        };
        let schema = resolve(schema);
        let Some(properties) = schema["properties"].as_object() else {
            wrong.insert(format!("{} has no properties", message.name));
            return;
        };
        for (name, property) in properties {
            let Some(field) = message.field(name) else {
                if name != "apiVersion" && name != "kind" {
                    wrong.insert(format!("{}.{name}", message.name));
                }
                continue;
            };
            *compared += 1;
            let property = resolve(property);
            let value = match field.count {
                Count::One => property,
                Count::Many => {
                    assert_eq!(property["type"], "array", "{}.{name}", message.name);
                    resolve(&property["items"])
                }
                Count::Map => resolve(&property["additionalProperties"]),
            };
            let (of_type, format) = (value["type"].as_str(), value["format"].as_str());
            let place = format!("{}.{name}", message.name);
            match field.kind {
                Kind::Boolean => assert_eq!(of_type, Some("boolean"), "{place}"),
                Kind::Integer => assert_eq!(of_type, Some("integer"), "{place}"),
                Kind::Text => assert_eq!((of_type, format), (Some("string"), None), "{place}"),
                Kind::Bytes => assert_eq!((of_type, format), (Some("string"), Some("byte")), "{place}"),
                Kind::Time | Kind::MicroTime => {
                    assert_eq!((of_type, format), (Some("string"), Some("date-time")), "{place}");
                }
                Kind::Quantity | Kind::IntOrText => {
                    assert!(!value["x-kubernetes-int-or-string"].is_null(), "{place}");
                }
                Kind::Texts => assert_eq!(of_type, Some("array"), "{place}"),
                Kind::Json => assert_eq!(of_type, Some("object"), "{place}"),
                Kind::Message(inner) => walk(root, &value, inner, wrong, compared),
                Kind::Inline(_) => panic!("{place}: an embedded message has no name"),
            }
        }
    }

    #[test]
    fn every_field_of_every_kind_is_in_the_table_and_of_its_type() {
        let (mut wrong, mut compared) = (BTreeSet::new(), 0);
        compare::<core::v1::Pod>(&mut wrong, &mut compared);
        compare::<core::v1::PodTemplate>(&mut wrong, &mut compared);
        compare::<core::v1::ConfigMap>(&mut wrong, &mut compared);
        compare::<core::v1::Secret>(&mut wrong, &mut compared);
        compare::<core::v1::Namespace>(&mut wrong, &mut compared);
        compare::<core::v1::ServiceAccount>(&mut wrong, &mut compared);
        compare::<core::v1::Service>(&mut wrong, &mut compared);
        compare::<core::v1::Node>(&mut wrong, &mut compared);
        compare::<core::v1::Event>(&mut wrong, &mut compared);
        compare::<core::v1::Binding>(&mut wrong, &mut compared);
        compare::<events::v1::Event>(&mut wrong, &mut compared);
        compare::<policy::v1::Eviction>(&mut wrong, &mut compared);
        compare::<coordination::v1::Lease>(&mut wrong, &mut compared);
        compare::<node::v1::RuntimeClass>(&mut wrong, &mut compared);
        compare::<authorization::v1::SelfSubjectAccessReview>(&mut wrong, &mut compared);
        compare::<authorization::v1::SelfSubjectRulesReview>(&mut wrong, &mut compared);
        compare::<authentication::v1::SelfSubjectReview>(&mut wrong, &mut compared);
        compare::<authentication::v1::TokenRequest>(&mut wrong, &mut compared);
        compare::<authentication::v1::TokenReview>(&mut wrong, &mut compared);
        compare::<apps::v1::Deployment>(&mut wrong, &mut compared);
        compare::<apps::v1::ReplicaSet>(&mut wrong, &mut compared);
        compare::<autoscaling::v1::Scale>(&mut wrong, &mut compared);
        assert!(compared > 1000, "{compared}");
        assert_eq!(wrong, BTreeSet::new());
    }

    #[test]
    fn numbers_and_names_are_used_once_in_each_message() {
        fn check(message: &'static Message, seen: &mut BTreeSet<&'static str>) {
            if !seen.insert(message.name) {
                return;
            }
            assert!(message.fields.is_sorted_by_key(|f| f.number), "{}", message.name);
            let numbers: BTreeSet<u32> = message.fields.iter().map(|f| f.number).collect();
            assert_eq!(numbers.len(), message.fields.len(), "{}", message.name);
            for field in message.fields {
                if let Kind::Message(inner) | Kind::Inline(inner) = field.kind {
                    check(inner, seen);
                }
                if let Some(MergeBy::Key(key)) = field.merge {
                    let Kind::Message(item) = field.kind else {
                        panic!("{}", field.name)
                    };
                    assert!(item.field(key).is_some(), "{}.{key}", item.name);
                }
            }
        }
        let mut seen = BTreeSet::new();
        for (_, _, message) in table::ROOTS {
            check(message, &mut seen);
        }
        assert!(seen.len() > 200);
    }

    #[test]
    fn lists_merge_by_kubernetes_own_keys() {
        let merge = |kind: &str, path: &[&str]| {
            let mut at = Message::of_kind("v1", kind).unwrap();
            let mut found = None;
            for name in path {
                let field = at.field(name).unwrap();
                if let Kind::Message(inner) = field.kind {
                    at = inner;
                }
                found = field.merge;
            }
            found
        };
        assert_eq!(
            merge("Pod", &["spec", "containers", "ports"]),
            Some(MergeBy::Key("containerPort"))
        );
        assert_eq!(
            merge("Pod", &["spec", "containers", "volumeMounts"]),
            Some(MergeBy::Key("mountPath"))
        );
        assert_eq!(
            merge("Pod", &["spec", "ephemeralContainers", "env"]),
            Some(MergeBy::Key("name"))
        );
        assert_eq!(merge("Pod", &["spec", "tolerations"]), None);
        assert_eq!(merge("Pod", &["metadata", "finalizers"]), Some(MergeBy::Value));
        assert_eq!(merge("Service", &["spec", "ports"]), Some(MergeBy::Key("port")));
    }
}

//! Bytes to a tree of JSON values, noting every key that stands twice in one object, with its path.
//!
//! One reader for both encodings. It is where hostile input ends: depth, the number of values and the text that YAML
//! aliases may blow up to are bounded here, before anything else looks at the document.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::bounded::Bounded;

/// Objects and lists inside each other; Kubernetes' own objects need about 20.
pub(super) const MAX_DEPTH: usize = 64;
/// What a document may weigh once its aliases are followed, as a multiple of its bytes ...
const MAX_GROWTH: usize = 4;
/// ... and what any document may weigh (one for each value, one for each byte of text).
const FREE_WEIGHT: usize = 64 * 1024;
/// How many keys and values a document may hold; each of them may become a wire struct of a kilobyte and more.
pub(super) const MAX_VALUES: usize = 100_000;
/// The largest YAML document, in bytes: more than etcd lets any object of Kubernetes have.
const MAX_YAML: usize = 3 * 512 * 1024;
/// libyaml looks at each level of open brackets for each token, so brackets times bytes bounds its work:
/// 2^33 is some tenths of a second.
const MAX_YAML_WORK: usize = 1 << 33;

/// A document as it was sent.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    /// What stands to be dropped, in the order found: `duplicate field "path"` for each key that was given more than once
    /// (the last one counts).
    pub(super) complaints: Vec<String>,
}

/// Why bytes are no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error("json parse error: {0}")]
    Json(#[source] serde_json::Error),
    #[error("yaml parse error: {0}")]
    Yaml(#[source] serde_yaml_ng::Error),
    #[error("yaml parse error: more than one document was sent; send one object a request")]
    ManyDocuments,
    #[error("yaml parse error: larger than {MAX_YAML} bytes; send it as JSON")]
    TooLarge,
    #[error("yaml parse error: too many brackets for a document of this size; send it as JSON")]
    TooManyBrackets,
}

/// Reads JSON.
pub(super) fn json(bytes: &[u8]) -> Result<Document, TreeError> {
    let state = State::new(bytes.len(), false);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = state.root().deserialize(&mut deserializer).map_err(TreeError::Json)?;
    deserializer.end().map_err(TreeError::Json)?;
    Ok(Document {
        value,
        complaints: state.complaints.into_inner().into_lines(),
    })
}

/// Reads YAML: one document, or one beside empty ones (a manifest may begin or end with `---`).
pub(super) fn yaml(bytes: &[u8]) -> Result<Document, TreeError> {
    if bytes.len() > MAX_YAML {
        return Err(TreeError::TooLarge);
    }
    let brackets = bytes.iter().filter(|b| matches!(b, b'[' | b'{')).count();
    if brackets.saturating_mul(bytes.len()) > MAX_YAML_WORK {
        return Err(TreeError::TooManyBrackets);
    }
    let state = State::new(bytes.len(), true);
    let mut found = Value::Null;
    for document in serde_yaml_ng::Deserializer::from_slice(bytes) {
        let value = state.root().deserialize(document).map_err(TreeError::Yaml)?;
        if value.is_null() {
            continue;
        }
        if !found.is_null() {
            return Err(TreeError::ManyDocuments);
        }
        found = value;
    }
    Ok(Document {
        value: found,
        complaints: state.complaints.into_inner().into_lines(),
    })
}

struct State {
    budget: Cell<usize>,
    values: Cell<usize>,
    complaints: RefCell<Bounded>,
    path: RefCell<String>,
    yaml: bool,
}

impl State {
    fn new(bytes: usize, yaml: bool) -> Self {
        Self {
            budget: Cell::new(bytes.saturating_mul(MAX_GROWTH).saturating_add(FREE_WEIGHT)),
            values: Cell::new(MAX_VALUES),
            complaints: RefCell::default(),
            path: RefCell::default(),
            yaml,
        }
    }

    fn root(&self) -> Node<'_> {
        Node { state: self, depth: 0 }
    }
}

/// The place of one value.
#[derive(Clone, Copy)]
struct Node<'a> {
    state: &'a State,
    depth: usize,
}

impl Node<'_> {
    /// One value more, of this weight.
    fn spend<E: Error>(&self, weight: usize) -> Result<(), E> {
        let left = self.state.values.get().checked_sub(1);
        let too_many = || E::custom(format_args!("more than {MAX_VALUES} keys and values"));
        self.state.values.set(left.ok_or_else(too_many)?);
        let left = self.state.budget.get().checked_sub(weight);
        self.state
            .budget
            .set(left.ok_or_else(|| E::custom("aliases make the document too large"))?);
        Ok(())
    }

    fn inside<E: Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self {
            state: self.state,
            depth: self.depth + 1,
        })
    }

    /// Runs `read` with the path lengthened by one segment.
    fn at<T>(&self, segment: fmt::Arguments<'_>, read: impl FnOnce() -> T) -> T {
        use fmt::Write as _;
        let before = self.state.path.borrow().len();
        // Writing to a String does not fail.
        let _ = self.state.path.borrow_mut().write_fmt(segment);
        let result = read();
        self.state.path.borrow_mut().truncate(before);
        result
    }

    fn dot(&self) -> &'static str {
        if self.state.path.borrow().is_empty() { "" } else { "." }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.spend(1)?;
        Ok(Value::Null)
    }

    /// An empty YAML document.
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.spend(1)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.spend(1)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.spend(1)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.spend(1)?;
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.spend(1 + value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.spend(1 + value.len())?;
        Ok(Value::String(value))
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _data: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("YAML tags have no meaning here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.spend(1)?;
        let inside = self.inside()?;
        let mut values = Vec::new();
        while let Some(value) = self.at(format_args!("[{}]", values.len()), || list.next_element_seed(inside))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.spend(1)?;
        let inside = self.inside()?;
        let mut object = Map::new();
        let mut merged = Vec::new();
        while let Some(Key(key)) = entries.next_key()? {
            self.spend(1 + key.len())?;
            let dot = self.dot();
            let value = self.at(format_args!("{dot}{key}"), || entries.next_value_seed(inside))?;
            if self.state.yaml && key == "<<" {
                merged.push(value);
                continue;
            }
            if object.contains_key(&key) {
                let path = || format!("{}{dot}{key}", self.state.path.borrow());
                self.state
                    .complaints
                    .borrow_mut()
                    .push(|| format!("duplicate field {:?}", path()));
            }
            object.insert(key, value);
        }
        for value in merged {
            merge(value, &mut object).map_err(A::Error::custom)?;
        }
        Ok(Value::Object(object))
    }
}

/// YAML's merge key: what stands in the object itself, or was merged earlier, wins.
fn merge(value: Value, object: &mut Map<String, Value>) -> Result<(), &'static str> {
    let sources = if let Value::Array(list) = value {
        list
    } else {
        vec![value]
    };
    for source in sources {
        let Value::Object(source) = source else {
            return Err("the merge key << needs an object or a list of objects");
        };
        for (key, value) in source {
            object.entry(key).or_insert(value);
        }
    }
    Ok(())
}

/// A key; YAML's numbers and booleans as keys become text, as in Kubernetes.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key that is text")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Key, E> {
                Ok(Key(value.to_owned()))
            }

            fn visit_string<E: Error>(self, value: String) -> Result<Key, E> {
                Ok(Key(value))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(result: Result<Document, TreeError>) -> String {
        match result {
            Ok(document) => format!("{} {:?}", document.value, document.complaints),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn both_encodings_give_the_same_tree() {
        let expected = json!({"a": [1, -2, 1.5, true, null, "x"], "b": {"c": ""}});
        let from_json = json(br#"{"a":[1,-2,1.5,true,null,"x"],"b":{"c":""}}"#).expect("JSON");
        let from_yaml = yaml(b"---\na: [1, -2, 1.5, true, ~, x]\nb:\n  c: ''\n---\n").expect("YAML");
        assert_eq!(from_json.value, expected);
        assert_eq!(from_yaml.value, expected);
    }

    #[test]
    fn doubled_keys_are_named_with_their_paths() {
        let document = json(br#"{"a":1,"b":[{"c":1,"c":2,"d":{"e.f/g":1,"e.f/g":1}}],"a":3}"#).expect("JSON");
        assert_eq!(
            document.complaints,
            ["b[0].c", "b[0].d.e.f/g", "a"].map(|path| format!("duplicate field {path:?}"))
        );
        assert_eq!(document.value["a"], 3);
        let document = yaml(b"x:\n  y: 1\n  y: 2\n").expect("YAML");
        assert_eq!(document.complaints, ["duplicate field \"x.y\""]);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(json(deep(64).as_bytes()).is_ok() && yaml(deep(64).as_bytes()).is_ok());
        for depth in [65, 127, 128, 129, 100_000] {
            let (as_json, as_yaml) = (
                text(json(deep(depth).as_bytes())),
                text(yaml(deep(depth.min(2_000)).as_bytes())),
            );
            assert!(as_json.contains("nested deeper than 64 levels"), "{as_json}");
            assert!(as_yaml.contains("nested deeper than 64 levels"), "{as_yaml}");
        }
        assert!(text(yaml("[".repeat(1 << 20).as_bytes())).contains("too many brackets"));
        assert!(text(yaml("a".repeat(3 << 20).as_bytes())).contains("larger than"));
        assert!(
            text(json(format!("[{}1]", "1,".repeat(100_000)).as_bytes())).contains("more than 100000 keys and values")
        );
        assert!(text(yaml("- ".repeat(100_000).as_bytes())).contains("nested deeper"));
    }

    #[test]
    fn aliases_are_followed_until_they_weigh_too_much() {
        assert_eq!(
            yaml(b"a: &x [1, 2]\nb: *x\n").expect("YAML").value,
            json!({"a": [1, 2], "b": [1, 2]})
        );
        let mut bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for level in 1..9 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb = format!("{bomb}a{level}: &a{level} [{refs}]\n");
        }
        let refused = text(yaml(bomb.as_bytes()));
        assert!(
            refused.contains("too large") || refused.contains("repetition limit"),
            "{refused}"
        );
        let long = format!("a: &x {}\nb: [{}]\n", "y".repeat(100_000), vec!["*x"; 10_000].join(","));
        assert!(text(yaml(long.as_bytes())).contains("too large"));
        assert!(yaml(b"a: &x [*x]\n").is_err(), "an alias inside its own anchor");
    }

    #[test]
    fn merge_keys_fill_in_what_is_not_there() {
        let document = yaml(b"base: &b {x: 1, y: 2}\nc:\n  <<: *b\n  y: 3\nd:\n  <<: [*b, {z: 4}]\n").expect("YAML");
        assert_eq!(document.value["c"], json!({"x": 1, "y": 3}));
        assert_eq!(document.value["d"], json!({"x": 1, "y": 2, "z": 4}));
        assert!(text(yaml(b"a:\n  <<: 1\n")).contains("merge key"));
    }

    #[test]
    fn what_is_no_document_is_said_so() {
        for (bytes, part) in [
            (&b"a: 1\n---\nb: 2\n"[..], "more than one document"),
            (b"a: !secret x\n", "tags"),
            (b"a: .nan\n", "finite"),
            (b"a: [1\n", "yaml parse error"),
            (b"\xff\xfe\x00", "yaml parse error"),
            (b"a: 123456789012345678901234567890\n", "yaml parse error"),
        ] {
            let message = text(yaml(bytes));
            assert!(message.contains(part), "{message}");
        }
        for bytes in [
            &b""[..],
            b"{",
            b"{}x",
            b"\xff",
            b"{\"a\":\"\xff\"}",
            b"nul",
            b"1e999",
            b"{1:2}",
        ] {
            let message = text(json(bytes));
            assert!(message.starts_with("json parse error: "), "{message}");
        }
        assert_eq!(yaml(b"# nothing\n").expect("YAML").value, Value::Null);
        assert_eq!(
            yaml(b"8080: a\ntrue: b\n").expect("YAML").value,
            json!({"8080": "a", "true": "b"})
        );
    }
}

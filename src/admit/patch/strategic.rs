//! Strategic merge patch: what `kubectl apply`, `edit`, `set` and `patch` send.
//!
//! Objects merge field by field, null removes a field, and lists merge by the key that the wire types name, or else are
//! replaced. Directives in the patch say otherwise: `$patch: replace|delete|merge`, `$setElementOrder/LIST`,
//! `$retainKeys`, `$deleteFromPrimitiveList/LIST`. The rules are those of `apimachinery/pkg/util/strategicpatch`.
//!
//! **Invariant:** total; work grows with the sizes of object and patch, not with their product. No directive is left in
//! the object.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_json::{Map, Value};

use super::PatchError;
use super::order::{arrange, follows, identity, unique};
use crate::admit::wire::{Count, Kind, MergeBy, Message};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

/// Apply `patch` to an object of this kind.
///
/// # Errors
/// The first thing that is wrong with the patch; the object may then be changed in part.
pub fn strategic(object: &mut Value, patch: Value, api_version: &str, kind: &str) -> Result<(), PatchError> {
    let message = Message::of_kind(api_version, kind).ok_or(PatchError::Unsupported)?;
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(PatchError::NoObject);
    };
    let mut merger = Merger { path: String::new() };
    let before = std::mem::take(object);
    *object = merger.object(before, patch, Type::Message(message))?;
    Ok(())
}

/// What is known of an object's fields.
#[derive(Debug, Clone, Copy)]
enum Type {
    Message(&'static Message),
    MapOf(&'static Kind),
    Unknown,
}

impl Type {
    fn of(kind: &'static Kind) -> Self {
        match kind {
            Kind::Message(message) | Kind::Inline(message) => Self::Message(message),
            Kind::Boolean
            | Kind::Integer
            | Kind::Text
            | Kind::Bytes
            | Kind::Time
            | Kind::MicroTime
            | Kind::Quantity
            | Kind::IntOrText
            | Kind::Json
            | Kind::Texts => Self::Unknown,
        }
    }

    /// The type of a field, or of a list's items, and how that list merges.
    fn field(self, name: &str) -> (Self, Option<MergeBy>) {
        match self {
            Self::Message(message) => match message.field(name) {
                Some(field) if field.count == Count::Map => (Self::MapOf(&field.kind), None),
                Some(field) => (Self::of(&field.kind), field.merge),
                None => (Self::Unknown, None),
            },
            Self::MapOf(kind) => (Self::of(kind), None),
            Self::Unknown => (Self::Unknown, None),
        }
    }
}

/// What a `$patch` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

struct Merger {
    path: String,
}

impl Merger {
    fn at<T>(&mut self, segment: fmt::Arguments<'_>, merge: impl FnOnce(&mut Self) -> T) -> T {
        use fmt::Write as _;
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        // Writing to a String does not fail.
        let _ = self.path.write_fmt(segment);
        let result = merge(self);
        self.path.truncate(before);
        result
    }

    fn path(&self) -> String {
        if self.path.is_empty() { "the patch" } else { &self.path }.to_owned()
    }

    /// Takes `$patch` out.
    fn directive(&self, patch: &mut Map<String, Value>) -> Result<Directive, PatchError> {
        match patch.remove(PATCH) {
            None => Ok(Directive::Merge),
            Some(Value::String(word)) if word == "merge" => Ok(Directive::Merge),
            Some(Value::String(word)) if word == "replace" => Ok(Directive::Replace),
            Some(Value::String(word)) if word == "delete" => Ok(Directive::Delete),
            Some(other) => Err(PatchError::UnknownDirective {
                path: self.path(),
                found: other.to_string(),
            }),
        }
    }

    fn object(
        &mut self,
        mut object: Map<String, Value>,
        mut patch: Map<String, Value>,
        of: Type,
    ) -> Result<Map<String, Value>, PatchError> {
        match self.directive(&mut patch)? {
            Directive::Merge => {}
            Directive::Replace => return self.fresh_object(patch),
            Directive::Delete => return Ok(Map::new()),
        }
        self.retain_keys(&mut object, &mut patch)?;
        self.delete_from_lists(&mut object, &mut patch)?;
        self.ordered_lists(&mut object, &mut patch, of)?;
        for (name, value) in patch {
            if name.starts_with('$') {
                return Err(PatchError::UnknownKey {
                    path: self.path(),
                    found: name,
                });
            }
            let before = object.remove(&name);
            let (field_type, merge) = of.field(&name);
            let merged = self.at(format_args!("{name}"), |merger| {
                merger.value(before, value, field_type, merge)
            })?;
            if let Some(merged) = merged {
                object.insert(name, merged);
            }
        }
        Ok(object)
    }

    /// The field as it is afterwards; `None`: it is gone.
    fn value(
        &mut self,
        before: Option<Value>,
        patch: Value,
        of: Type,
        merge: Option<MergeBy>,
    ) -> Result<Option<Value>, PatchError> {
        Ok(match (before, patch) {
            (_, Value::Null) => None,
            (Some(Value::Object(before)), Value::Object(patch)) => Some(self.object(before, patch, of)?.into()),
            (Some(Value::Array(before)), Value::Array(patch)) => match merge {
                Some(by) => Some(self.list(before, patch, of, by)?.into()),
                None => self.fresh(Value::Array(patch))?,
            },
            (_, patch) => self.fresh(patch)?,
        })
    }

    /// `$retainKeys`: of the object's fields only these stay.
    fn retain_keys(&self, object: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
        let Some(keys) = patch.remove(RETAIN_KEYS) else {
            return Ok(());
        };
        let bad = || PatchError::RetainKeys { path: self.path() };
        let keys: HashSet<&str> = keys
            .as_array()
            .ok_or_else(bad)?
            .iter()
            .map(Value::as_str)
            .collect::<Option<_>>()
            .ok_or_else(bad)?;
        let foreign = |(name, value): (&String, &Value)| {
            !value.is_null()
                && !name.starts_with(DELETE_FROM_LIST)
                && !name.starts_with(SET_ORDER)
                && !keys.contains(name.as_str())
        };
        if patch.iter().any(foreign) {
            return Err(bad());
        }
        object.retain(|name, _| keys.contains(name.as_str()));
        Ok(())
    }

    /// `$deleteFromPrimitiveList/LIST`: these values leave it.
    fn delete_from_lists(
        &self,
        object: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
    ) -> Result<(), PatchError> {
        let bad = || PatchError::PrimitiveList { path: self.path() };
        for (name, values) in take_prefixed(patch, DELETE_FROM_LIST) {
            let Value::Array(values) = values else {
                return Err(bad());
            };
            if name.is_empty() || values.iter().any(|v| v.is_array() || v.is_object()) {
                return Err(bad());
            }
            let gone: HashSet<String> = values.iter().map(Value::to_string).collect();
            if let Some(Value::Array(list)) = object.get_mut(&name) {
                list.retain(|item| !gone.contains(&item.to_string()));
            }
        }
        Ok(())
    }

    /// `$setElementOrder/LIST`, together with the patch's part for that list.
    fn ordered_lists(
        &mut self,
        object: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
        of: Type,
    ) -> Result<(), PatchError> {
        for (name, order) in take_prefixed(patch, SET_ORDER) {
            self.at(format_args!("{name}"), |merger| {
                merger.ordered_list(object, patch, of, &name, &order)
            })?;
        }
        Ok(())
    }

    fn ordered_list(
        &mut self,
        object: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
        of: Type,
        name: &str,
        order: &Value,
    ) -> Result<(), PatchError> {
        let bad = || PatchError::SetElementOrder { path: name.to_owned() };
        let order = order.as_array().filter(|_| !name.is_empty()).ok_or_else(bad)?;
        let (item_type, merge) = of.field(name);
        let by = merge.unwrap_or(MergeBy::Value);
        if let MergeBy::Key(key) = by
            && order.iter().any(|item| item.get(key).is_none())
        {
            return Err(self.no_merge_key(key));
        }
        let part = match patch.remove(name) {
            None => None,
            Some(Value::Array(items)) => Some(items),
            // Removed as a whole.
            Some(Value::Null) => {
                object.remove(name);
                return Ok(());
            }
            Some(_) => return Err(self.wrong("a list")),
        };
        let before = match object.remove(name) {
            None => None,
            Some(Value::Array(items)) => Some(items),
            Some(_) => return Err(self.wrong("a list")),
        };
        if let Some(items) = &part {
            let kept = items
                .iter()
                .filter(|item| item.get(PATCH).is_none_or(|d| d != "delete"));
            if !follows(kept, order, by) {
                return Err(PatchError::Order { path: self.path() });
            }
        }
        let places = before.clone().unwrap_or_default();
        let merged = match (before, part) {
            (None, None) => return Ok(()),
            (Some(before), None) => before,
            (None, Some(part)) => self.fresh_list(part)?,
            (Some(before), Some(part)) => match merge {
                Some(by) => self.list(before, part, item_type, by)?,
                None => self.fresh_list(part)?,
            },
        };
        object.insert(name.to_owned(), arrange(merged, order, &places, by).into());
        Ok(())
    }

    fn list(
        &mut self,
        before: Vec<Value>,
        patch: Vec<Value>,
        item_type: Type,
        by: MergeBy,
    ) -> Result<Vec<Value>, PatchError> {
        if before.iter().chain(&patch).any(Value::is_array) {
            return Err(PatchError::ListOfLists { path: self.path() });
        }
        let MergeBy::Key(key) = by else {
            if patch.iter().any(Value::is_object) {
                return Err(self.wrong("a list of values"));
            }
            let wanted = patch.clone();
            let merged = unique(before.iter().cloned().chain(patch).collect());
            return Ok(arrange(merged, &wanted, &before, by));
        };
        let (items, before) = match self.special_items(patch, before, key)? {
            (items, None) => return self.fresh_list(items.into_iter().map(Value::Object).collect()),
            (items, Some(before)) => (items, before),
        };
        let wanted: Vec<Value> = items
            .iter()
            .filter_map(|item| item.get(key).map(|value| serde_json::json!({ key: value })))
            .collect();
        let order_before: Vec<Value> = before
            .iter()
            .filter_map(|item| item.get(key).map(|value| serde_json::json!({ key: value })))
            .collect();
        let mut places: HashMap<String, usize> = HashMap::with_capacity(before.len());
        for (place, item) in before.iter().enumerate() {
            let identity = identity(item, by).ok_or_else(|| self.no_merge_key(key))?;
            places.entry(identity).or_insert(place);
        }
        let mut merged = before;
        for item in items {
            let id = item
                .get(key)
                .map(Value::to_string)
                .ok_or_else(|| self.no_merge_key(key))?;
            let Some(place) = places.get(&id) else {
                places.insert(id, merged.len());
                merged.push(self.fresh_object(item)?.into());
                continue;
            };
            if let Value::Object(found) = std::mem::take(&mut merged[*place]) {
                let name = item.get(key).map(shown).unwrap_or_default();
                merged[*place] = self
                    .at(format_args!("{name}"), |m| m.object(found, item, item_type))?
                    .into();
            }
        }
        Ok(arrange(merged, &wanted, &order_before, by))
    }

    /// Carries out the items that are directives. What is left of the patch, and of the list; of that nothing when it is
    /// to be replaced.
    #[expect(clippy::type_complexity, reason = "two lists, one of which may be meant to vanish")]
    fn special_items(
        &self,
        patch: Vec<Value>,
        mut before: Vec<Value>,
        key: &'static str,
    ) -> Result<(Vec<Map<String, Value>>, Option<Vec<Value>>), PatchError> {
        let (mut items, mut gone, mut replace) = (Vec::with_capacity(patch.len()), HashSet::new(), false);
        for item in patch {
            let Value::Object(mut item) = item else {
                return Err(self.wrong("a list of objects"));
            };
            match self.directive(&mut item)? {
                Directive::Merge => items.push(item),
                // The item itself says only that.
                Directive::Replace => replace = true,
                Directive::Delete => {
                    gone.insert(
                        item.get(key)
                            .map(Value::to_string)
                            .ok_or_else(|| self.no_merge_key(key))?,
                    );
                }
            }
        }
        if replace {
            return Ok((items, None));
        }
        if !gone.is_empty() {
            before.retain(|item| item.get(key).is_none_or(|value| !gone.contains(&value.to_string())));
        }
        Ok((items, Some(before)))
    }

    /// A value that was not there before: without nulls and directives.
    fn fresh(&mut self, value: Value) -> Result<Option<Value>, PatchError> {
        Ok(match value {
            Value::Null => None,
            Value::Object(mut object) => match self.directive(&mut object)? {
                Directive::Delete => None,
                Directive::Merge | Directive::Replace => Some(self.fresh_object(object)?.into()),
            },
            Value::Array(items) => Some(self.fresh_list(items)?.into()),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(value),
        })
    }

    fn fresh_object(&mut self, object: Map<String, Value>) -> Result<Map<String, Value>, PatchError> {
        let mut kept = Map::new();
        for (name, value) in object {
            if name == RETAIN_KEYS || name.starts_with(SET_ORDER) || name.starts_with(DELETE_FROM_LIST) {
                continue;
            }
            if name.starts_with('$') {
                return Err(PatchError::UnknownKey {
                    path: self.path(),
                    found: name,
                });
            }
            if let Some(value) = self.at(format_args!("{name}"), |merger| merger.fresh(value))? {
                kept.insert(name, value);
            }
        }
        Ok(kept)
    }

    fn fresh_list(&mut self, items: Vec<Value>) -> Result<Vec<Value>, PatchError> {
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            // An item that is nothing but `$patch: replace` speaks of the list.
            if item
                .as_object()
                .is_some_and(|o| o.len() == 1 && o.get(PATCH).is_some_and(|d| d == "replace"))
            {
                continue;
            }
            kept.extend(self.fresh(item)?);
        }
        Ok(kept)
    }

    fn wrong(&self, expected: &'static str) -> PatchError {
        PatchError::Type {
            path: self.path(),
            expected,
        }
    }

    fn no_merge_key(&self, key: &'static str) -> PatchError {
        PatchError::NoMergeKey { path: self.path(), key }
    }
}

/// Takes the directives of one prefix out, with what they are about.
fn take_prefixed(patch: &mut Map<String, Value>, prefix: &str) -> Vec<(String, Value)> {
    let names: Vec<String> = patch.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    names
        .into_iter()
        .filter_map(|name| {
            let value = patch.remove(&name)?;
            Some((name[prefix.len()..].to_owned(), value))
        })
        .collect()
}

fn shown(key: &Value) -> String {
    key.as_str().map_or_else(|| key.to_string(), str::to_owned)
}

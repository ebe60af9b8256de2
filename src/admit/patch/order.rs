//! The order of merged lists: what the patch names stands in the patch's order, everything else keeps its place among
//! the items that were there before (`strategicpatch/patch.go`, `normalizeElementOrder`).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::admit::wire::MergeBy;

/// What an item is known by, as text; `None` for an object without its merge key.
pub(super) fn identity(item: &Value, by: MergeBy) -> Option<String> {
    match by {
        MergeBy::Value => Some(item.to_string()),
        MergeBy::Key(key) => item.get(key).map(Value::to_string),
    }
}

/// The places of the items in a list, of several alike the first one.
fn places(list: &[Value], by: MergeBy) -> HashMap<String, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (place, item) in list.iter().enumerate() {
        if let Some(identity) = identity(item, by) {
            places.entry(identity).or_insert(place);
        }
    }
    places
}

/// Bring `merged` into order. `wanted` is the order that the patch gives, `before` the list as it was.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], before: &[Value], by: MergeBy) -> Vec<Value> {
    let (wanted, before) = (places(wanted, by), places(before, by));
    let place =
        |places: &HashMap<String, usize>, item: &Value| identity(item, by).and_then(|id| places.get(&id).copied());
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(&wanted, item).is_some());
    named.sort_by_key(|item| place(&wanted, item));
    others.sort_by_key(|item| place(&before, item).unwrap_or(usize::MAX));

    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(name), Some(other)) = (named.peek(), others.peek()) {
        let other_first = match (place(&before, other), place(&before, name)) {
            (Some(other), Some(name)) => other < name,
            (Some(_) | None, _) => false,
        };
        arranged.extend(if other_first { others.next() } else { named.next() });
    }
    arranged.extend(named);
    arranged.extend(others);
    arranged
}

/// Whether the items of `list` come in the order of `wanted`, and all of them in it.
pub(super) fn follows<'a>(list: impl Iterator<Item = &'a Value>, wanted: &[Value], by: MergeBy) -> bool {
    let mut wanted = wanted.iter().map(|item| identity(item, by));
    list.map(|item| identity(item, by)).all(|id| wanted.any(|w| w == id))
}

/// Each text once, where it first stands.
pub(super) fn unique(list: Vec<Value>) -> Vec<Value> {
    let mut seen = HashSet::with_capacity(list.len());
    list.into_iter().filter(|item| seen.insert(item.to_string())).collect()
}

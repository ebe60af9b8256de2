//! `$(VAR)` in command, args and env values (Kubernetes `third_party/forked/golang/expansion/expand.go`).
//!
//! `$(NAME)` becomes the value of NAME where it is known and stays as it is where not; `$$` becomes `$`, so `$$(NAME)`
//! is the text `$(NAME)`; a `$(` that is never closed stays. One pass: what was put in is not looked at again.

use std::collections::BTreeMap;

/// Replaces every reference to a known variable.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            tail
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            if let Some(value) = known.get(name) {
                out.push_str(value);
            } else {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
            tail
        } else {
            out.push('$');
            after
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_kubernetes_does() {
        let known = BTreeMap::from([
            ("VAR_A".to_owned(), "A".to_owned()),
            ("VAR_B".to_owned(), "B".to_owned()),
            ("VAR_REF".to_owned(), "$(VAR_A)".to_owned()),
            ("VAR_EMPTY".to_owned(), String::new()),
        ]);
        for (text, expected) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)$(VAR_B)", "AB"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$(VAR_EMPTY)", ""),
            ("$(VAR_UNKNOWN)", "$(VAR_UNKNOWN)"),
            ("$(VAR_A", "$(VAR_A"),
            ("$VAR_A", "$VAR_A"),
            ("$", "$"),
            ("$$", "$"),
            ("$)", "$)"),
            ("$()", "$()"),
            ("a $ b", "a $ b"),
            ("$(ä)$(VAR_A)ß", "$(ä)Aß"),
            ("$($(VAR_A))", "$($(VAR_A))"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_leaves_text_without_dollars_alone(text in ".{0,60}") {
            let out = expand(&text, &BTreeMap::new());
            if !text.contains('$') {
                proptest::prop_assert_eq!(out, text);
            }
        }
    }
}

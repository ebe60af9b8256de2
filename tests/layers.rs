//! Arrows point down only: no room refers to one above it, and some words belong to some rooms alone.
//!
//! Reads the sources as text: comments, literals and test code are left out, then every `crate::room`,
//! `use crate::{..}` and `super::` path that leaves its room is looked up in [`ROOMS`].

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Each room and the rooms below it that it may refer to, from the bottom up.
const ROOMS: &[(&str, &[&str])] = &[
    // Pure core.
    ("model", &[]),
    ("admit", &["model"]),
    ("reconcile", &["model"]),
    ("schedule", &[]),
    // Shares with the decision what is done, finished and due, so that the two cannot disagree.
    ("status", &["model", "reconcile", "schedule"]),
    // Effects.
    ("linux", &[]),
    ("insecure_tls", &[]),
    // Its formats outlive an upgrade of the agent: not even `model`.
    ("shim", &["linux"]),
    ("store", &["model", "linux"]),
    ("network", &["model", "linux"]),
    ("volume", &["model", "linux"]),
    ("image", &["model", "linux", "store", "insecure_tls"]),
    ("account", &["model", "store"]),
    ("runtime", &["model", "linux", "shim", "image", "network", "volume"]),
    // Drivers, and what they tell.
    ("event", &["model", "store"]),
    ("probe", &["model", "reconcile", "runtime", "event", "insecure_tls"]),
    ("eviction", &["model", "linux", "runtime"]),
    (
        "controller",
        &[
            "model",
            "admit",
            "reconcile",
            "status",
            "store",
            "runtime",
            "event",
            "probe",
            "eviction",
        ],
    ),
    ("refresh", &["model", "admit", "store", "runtime"]),
    ("garbage", &["model", "admit", "store"]),
    (
        "statics",
        &["model", "admit", "schedule", "status", "linux", "store", "event"],
    ),
    ("space", &["image", "event"]),
    (
        "node",
        &["model", "admit", "schedule", "status", "linux", "store", "event"],
    ),
    // Edge.
    // The runtime for its streams alone.
    (
        "api",
        &[
            "model",
            "admit",
            "schedule",
            "status",
            "linux",
            "store",
            "image",
            "runtime",
            "account",
            "insecure_tls",
        ],
    ),
    // The top sees everything.
    ("telemetry", EVERYTHING),
    ("config", EVERYTHING),
    ("cli", EVERYTHING),
    ("agent", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "model",
    "admit",
    "reconcile",
    "schedule",
    "status",
    "linux",
    "insecure_tls",
    "shim",
    "store",
    "network",
    "volume",
    "image",
    "account",
    "runtime",
    "event",
    "probe",
    "eviction",
    "controller",
    "refresh",
    "garbage",
    "statics",
    "space",
    "node",
    "api",
    "telemetry",
    "config",
    "cli",
    "agent",
];

/// Where alone a word may stand, or where it may not, but for some files.
enum Rule {
    Only(&'static [&'static str]),
    Not(&'static [&'static str], &'static [&'static str]),
}

/// A word as a whole (`unsafe`) or as the crate a path begins with, why it is restricted, and to where.
const WORDS: &[(&str, Rule, &str)] = &[
    (
        "unsafe",
        Rule::Only(&["src/linux/", "src/linux.rs"]),
        "all unsafe code is in `linux`",
    ),
    (
        "nix",
        Rule::Only(&["src/linux/", "src/linux.rs"]),
        "all of nix is in `linux`",
    ),
    (
        "anyhow",
        Rule::Only(&["src/main.rs", "src/agent.rs", "src/agent/", "src/cli.rs", "src/cli/"]),
        "errors are typed below the top",
    ),
    (
        "tokio",
        Rule::Not(
            &["src/shim", "src/linux"],
            &["src/linux/inotify.rs", "src/linux/nfnetlink.rs"],
        ),
        "the shim has one thread and no tokio",
    ),
    (
        "axum",
        Rule::Not(&["src/shim", "src/linux"], &[]),
        "the shim serves no HTTP",
    ),
    (
        "sqlx",
        Rule::Not(&["src/shim", "src/linux"], &[]),
        "the shim knows no store",
    ),
];

/// Blank out comments and literals; lines stay where they are.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = literal_end(bytes, i);
        match end {
            Some(end) => {
                blank(&mut out, i..end);
                i = end;
            }
            // A whole word at once, so that the r of `for"` is no raw string.
            None if is_word(bytes[i]) => i += bytes[i..].iter().take_while(|byte| is_word(**byte)).count(),
            None => i += 1,
        }
    }
    String::from_utf8(out).expect("blanks are ASCII, and whole literals were blanked")
}

fn blank(out: &mut [u8], range: Range<usize>) {
    for byte in out[range].iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where the comment or literal that begins at `i` ends.
fn literal_end(bytes: &[u8], i: usize) -> Option<usize> {
    let rest = &bytes[i..];
    let find = |needle: &[u8], from: usize| {
        rest[from..]
            .windows(needle.len())
            .position(|w| w == needle)
            .map_or(bytes.len(), |at| i + from + at + needle.len())
    };
    if rest.starts_with(b"//") {
        return Some(rest.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| i + at));
    }
    if rest.starts_with(b"/*") {
        let mut depth = 0;
        let mut at = 0;
        while at < rest.len() {
            if rest[at..].starts_with(b"/*") {
                depth += 1;
                at += 2;
            } else if rest[at..].starts_with(b"*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            } else {
                at += 1;
            }
        }
        return Some(i + at);
    }
    let prefix = rest
        .iter()
        .take_while(|byte| matches!(byte, b'b' | b'c' | b'r'))
        .count()
        .min(2);
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    if rest[..prefix].contains(&b'r') && rest.get(prefix + hashes) == Some(&b'"') {
        let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        return Some(find(&close, prefix + hashes + 1));
    }
    if rest.get(prefix) == Some(&b'"') {
        let mut at = prefix + 1;
        while at < rest.len() && rest[at] != b'"' {
            at += if rest[at] == b'\\' { 2 } else { 1 };
        }
        return Some((i + at + 1).min(bytes.len()));
    }
    // A character, not a lifetime.
    if rest.get(prefix) == Some(&b'\'') && prefix < 2 {
        if rest.get(prefix + 1) == Some(&b'\\') {
            let close = rest[prefix + 3..].iter().position(|byte| *byte == b'\'')?;
            return Some(i + prefix + 3 + close + 1);
        }
        let character = std::str::from_utf8(&rest[prefix + 1..(prefix + 5).min(rest.len())]);
        let text = match &character {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&rest[prefix + 1..prefix + 1 + error.valid_up_to()]).ok()?,
        };
        let first = text.chars().next()?;
        if rest.get(prefix + 1 + first.len_utf8()) == Some(&b'\'') {
            return Some(i + prefix + 1 + first.len_utf8() + 1);
        }
    }
    None
}

/// Blank out every item beneath `#[cfg(test)]`; gives the names of the test modules that have files of their own.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.as_bytes().to_vec();
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find(MARK).map(|at| from + at) {
        let end = item_end(code, at + MARK.len());
        let item = &code[at + MARK.len()..end];
        let words: Vec<&str> = item
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|w| !w.is_empty())
            .collect();
        if let Some(name) = words
            .iter()
            .position(|word| *word == "mod")
            .and_then(|at| words.get(at + 1))
            && item.trim_end().ends_with(';')
        {
            modules.push((*name).to_owned());
        }
        blank(&mut out, at..end);
        from = end;
    }
    (String::from_utf8(out).expect("whole items were blanked"), modules)
}

/// Where the item that begins at `from` ends: after its `;`, or after its block.
fn item_end(code: &str, from: usize) -> usize {
    let (mut depth, mut blocks) = (0_i32, 0_i32);
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' => blocks += 1,
            b'}' => {
                blocks -= 1;
                if blocks == 0 && depth == 0 {
                    return at + 1;
                }
            }
            b';' if blocks == 0 && depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Words and `::`, `{`, `}`, `,` and everything else, with the line each stands on.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            if !first.is_whitespace() {
                tokens.push((number + 1, &rest[..length]));
            }
            rest = &rest[length..];
        }
    }
    tokens
}

/// Every room that the code refers to, with the line. `depth` is how many `super` lead from the file to the root.
fn references<'a>(tokens: &[(usize, &'a str)], depth: usize) -> Vec<(usize, &'a str)> {
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| *word);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let mut next = at;
        while word(next) == "super" && word(next + 1) == "::" {
            next += 2;
        }
        let climbed = (next - at) / 2;
        let begins_a_path = at == 0 || word(at - 1) != "::";
        if begins_a_path && word(at) == "crate" && word(at + 1) == "::" {
            next = at + 2;
        } else if !(begins_a_path && climbed > 0 && climbed >= depth) {
            at += climbed.max(1);
            continue;
        }
        if word(next) == "{" {
            // Of each branch of the tree, its first word.
            let mut level = 0;
            let mut is_first = true;
            while next < tokens.len() {
                match word(next) {
                    "{" => level += 1,
                    "}" => level -= 1,
                    "," if level == 1 => is_first = true,
                    name if level == 1 && is_first => {
                        found.push((tokens[next].0, name));
                        is_first = false;
                    }
                    _ => {}
                }
                next += 1;
                if level == 0 {
                    break;
                }
            }
        } else if next < tokens.len() {
            found.push((tokens[next].0, word(next)));
        }
        at = next.max(at + 1);
    }
    found
}

/// The room a file belongs to, and how many `super` lead from it to the root. `lib.rs` and `main.rs` are none.
fn room_of(path: &str) -> Option<(&str, usize)> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut parts: Vec<&str> = inner.split('/').collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    let room = parts.first().copied().filter(|room| !matches!(*room, "lib" | "main"))?;
    Some((room, parts.len()))
}

/// What is wrong with one file, test code left out.
fn faults(path: &str, text: &str) -> Vec<String> {
    let (code, _) = without_tests(&code_only(text));
    let tokens = tokens(&code);
    let mut faults = Vec::new();
    if let Some((room, depth)) = room_of(path) {
        let known = ROOMS.iter().find(|(name, _)| *name == room);
        match known {
            None => faults.push(format!(
                "{path}: the room `{room}` is not in tests/layers.rs: give it its place there"
            )),
            Some((_, below)) => {
                for (line, other) in references(&tokens, depth) {
                    if other != room && other != "self" && !below.contains(&other) {
                        faults.push(format!(
                            "{path}:{line}: `{room}` must not refer to `{other}`: arrows point down, and beneath it are {below:?}"
                        ));
                    }
                }
            }
        }
    }
    for (at, (line, token)) in tokens.iter().enumerate() {
        let Some((word, rule, why)) = WORDS.iter().find(|(word, ..)| word == token) else {
            continue;
        };
        // A crate is meant where a path begins or where it is imported as a whole.
        let begins = at == 0 || tokens[at - 1].1 != "::";
        let is_path = tokens.get(at + 1).is_some_and(|(_, next)| *next == "::");
        let is_import = at > 0 && tokens[at - 1].1 == "use";
        if *word != "unsafe" && !(begins && (is_path || is_import)) {
            continue;
        }
        let is_allowed = match rule {
            Rule::Only(places) => places.iter().any(|place| path.starts_with(place)),
            Rule::Not(places, except) => except.contains(&path) || !places.iter().any(|place| path.starts_with(place)),
        };
        if !is_allowed {
            faults.push(format!("{path}:{line}: `{word}` must not stand here: {why}"));
        }
    }
    faults
}

fn sources(root: &Path) -> Vec<(String, String)> {
    let mut pending = vec![root.join("src")];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root)
                    .expect("it is beneath the root")
                    .to_string_lossy()
                    .into_owned();
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
                found.push((name, text));
            }
        }
    }
    found.sort();
    found
}

/// Files and directories of modules that exist only under test, as prefixes of paths.
fn test_modules(sources: &[(String, String)]) -> Vec<String> {
    let mut prefixes = Vec::new();
    for (path, text) in sources {
        let (_, modules) = without_tests(&code_only(text));
        let inner = path.strip_suffix(".rs").unwrap_or(path);
        let own = PathBuf::from(inner);
        let is_its_directory = matches!(
            own.file_name().and_then(|name| name.to_str()),
            Some("mod" | "lib" | "main")
        );
        let directory = if is_its_directory {
            own.parent().unwrap_or(&own)
        } else {
            &own
        };
        for module in modules {
            let prefix = directory.join(module).to_string_lossy().into_owned();
            prefixes.push(format!("{prefix}.rs"));
            prefixes.push(format!("{prefix}/"));
        }
    }
    prefixes
}

#[test]
fn arrows_point_down_only() {
    let sources = sources(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(sources.len() > 20, "the sources were not found");
    let tests = test_modules(&sources);
    let production = sources
        .iter()
        .filter(|(path, _)| !tests.iter().any(|prefix| path.starts_with(prefix.as_str())));
    let faults: Vec<String> = production.flat_map(|(path, text)| faults(path, text)).collect();
    assert!(
        faults.is_empty(),
        "{} arrows point up or words stand where they must not:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn planted_faults_are_found() {
    for (path, text, expected) in [
        (
            "src/model/pod.rs",
            "use crate::store::Store;",
            "src/model/pod.rs:1: `model` must not refer to `store`",
        ),
        (
            "src/shim/mod.rs",
            "\nuse crate::{linux::pidfd, model::{Uid, Exit}};",
            "src/shim/mod.rs:2: `shim` must not refer to `model`",
        ),
        (
            "src/reconcile/mod.rs",
            "fn f() { crate::controller::wake() }",
            "`reconcile` must not refer to `controller`",
        ),
        (
            "src/reconcile/mod.rs",
            "use super::store::Store;",
            "`reconcile` must not refer to `store`",
        ),
        (
            "src/store/object.rs",
            "use super::super::{model::Uid, api};",
            "`store` must not refer to `api`",
        ),
        (
            "src/status.rs",
            "use super::runtime;",
            "`status` must not refer to `runtime`",
        ),
        ("src/surprise.rs", "", "the room `surprise` is not in tests/layers.rs"),
        (
            "src/store/mod.rs",
            "fn f() { unsafe { g() } }",
            "`unsafe` must not stand here",
        ),
        ("src/shim/mod.rs", "use nix::sched;", "`nix` must not stand here"),
        (
            "src/shim/mod.rs",
            "let x = tokio::spawn(y);",
            "`tokio` must not stand here",
        ),
        (
            "src/store/mod.rs",
            "use anyhow::Context;",
            "`anyhow` must not stand here",
        ),
        ("src/linux/mod.rs", "use sqlx;", "`sqlx` must not stand here"),
        (
            "src/model/mod.rs",
            "const A: &str = r#\"\"#; const B: char = '\"'; use crate::api::X; // \"",
            "`model` must not refer to `api`",
        ),
        (
            "src/model/mod.rs",
            "#[cfg(test)]\nmod tests { use crate::api; }\nuse crate::image::X;",
            "src/model/mod.rs:3: `model` must not refer to `image`",
        ),
    ] {
        let found = faults(path, text);
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{text:?} in {path} gives {found:?}"
        );
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    for (path, text) in [
        ("src/linux/process.rs", "use nix::unistd; unsafe { fork() }"),
        ("src/linux/inotify.rs", "use tokio::io::unix::AsyncFd;"),
        ("src/main.rs", "use anyhow::Result; use podd::agent;"),
        ("src/agent.rs", "use crate::{api, store::Store};"),
        (
            "src/status.rs",
            "use crate::reconcile::is_done; use crate::status::quantity;",
        ),
        (
            "src/store/object.rs",
            "use super::row::Row; use self::x; use super::super::model::Uid;",
        ),
        (
            "src/model/mod.rs",
            "//! crate::api, `unsafe`\n/* use crate::api; /* unsafe */ */ const A: &str = \"crate::api unsafe\";",
        ),
        (
            "src/model/mod.rs",
            "const A: &[u8] = b\"\\\" crate::api\"; const B: char = '\\''; fn f<'a>(x: &'a str) {}",
        ),
        (
            "src/model/mod.rs",
            "#[cfg(test)]\nuse crate::api::x;\n#[cfg(test)]\nmod tests { fn f() { crate::store::g() } }",
        ),
        (
            "src/model/mod.rs",
            "#![expect(unsafe_code, reason = \"none\")] use x::tokio::y;",
        ),
    ] {
        assert_eq!(faults(path, text), Vec::<String>::new(), "{text:?} in {path}");
    }
}

#[test]
fn test_modules_are_known_by_their_files() {
    let sources = [
        (
            "src/a/mod.rs".to_owned(),
            "#[cfg(test)]\npub(crate) mod testing;\nmod b;".to_owned(),
        ),
        ("src/c.rs".to_owned(), "#[cfg(test)] mod tests;".to_owned()),
    ];
    assert_eq!(
        test_modules(&sources),
        ["src/a/testing.rs", "src/a/testing/", "src/c/tests.rs", "src/c/tests/"]
    );
}

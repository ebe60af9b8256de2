//! Names of images, as `github.com/distribution/reference` reads and normalises them.
//!
//! Goes in: what a user wrote (`busybox`, `ghcr.io/a/b:1@sha256:..`). Comes out: a [`Reference`] with registry,
//! repository, tag and digest told apart, or why it is none.
//!
//! **Invariant:** pure. Whatever parses prints as a string that parses to the same value.

use std::fmt;

/// Where a name without a registry lives.
pub(super) const DEFAULT_REGISTRY: &str = "docker.io";
/// Its former name, still accepted.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
/// The longest repository name, registry included (distribution/reference `NameTotalLengthMax`).
const NAME_MAX: usize = 255;
/// The longest tag.
const TAG_MAX: usize = 128;

/// A parsed and normalised name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a string is no name of an image. The words are those of distribution/reference, as `kubectl` users know them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({path}) must be lowercase")]
    Uppercase { path: String },
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    HexName { name: String },
    #[error("repository name must not be more than {NAME_MAX} characters")]
    TooLong,
    #[error("unsupported digest algorithm {algorithm:?}")]
    DigestAlgorithm { algorithm: String },
    #[error("invalid checksum digest {digest:?}")]
    Digest { digest: String },
}

impl Reference {
    /// Parse a name as people write them: `busybox` means `docker.io/library/busybox`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        Self::parse_within(text, DEFAULT_REGISTRY)
    }

    /// As [`Reference::parse`], with another registry for names that have none.
    pub fn parse_within(text: &str, default: &str) -> Result<Self, ReferenceError> {
        if is_hex64(text) {
            return Err(ReferenceError::HexName { name: text.to_owned() });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(checked_digest(digest)?)),
            None => (text, None),
        };
        let (registry, remote) = split_registry(rest, default);
        // The tag stands after the last `:` of what is left: a port was split off with the registry.
        let (path, tag) = match remote.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remote, None),
        };
        let path = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if path.chars().any(char::is_uppercase) {
            return Err(ReferenceError::Uppercase { path });
        }
        if !is_registry(registry) || !path.split('/').all(is_path_component) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Format);
        }
        if registry.len() + 1 + path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            registry: registry.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and path: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `sha256:<hex>`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Repository and tag, `latest` where none is given: the name under which images are kept.
    pub fn tagged(&self) -> String {
        format!("{}/{}:{}", self.registry, self.path, self.tag().unwrap_or("latest"))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// distribution/reference `splitDockerDomain`: the part before the first `/` is a registry if it looks like a host.
fn split_registry<'a>(name: &'a str, default: &'a str) -> (&'a str, &'a str) {
    match name.split_once('/') {
        Some((LEGACY_DEFAULT_REGISTRY, rest)) => (DEFAULT_REGISTRY, rest),
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        Some(_) | None => (default, name),
    }
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A host name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
fn is_registry(text: &str) -> bool {
    let (host_fits, rest) = if let Some(rest) = text.strip_prefix('[') {
        let Some((v6, rest)) = rest.split_once(']') else {
            return false;
        };
        (
            !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
            rest,
        )
    } else {
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        (host.split('.').all(is_host_component), rest)
    };
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    host_fits && (rest.is_empty() || rest.strip_prefix(':').is_some_and(digits))
}

fn is_host_component(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_word(*first) || !is_word(*last) {
        return false;
    }
    bytes
        .split(|b| is_word(*b))
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_MAX
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

fn checked_digest(text: &str) -> Result<String, ReferenceError> {
    let (algorithm, hex) = text.split_once(':').ok_or(ReferenceError::Format)?;
    let wrong = || ReferenceError::Digest {
        digest: text.to_owned(),
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        "" => return Err(ReferenceError::Format),
        other
            if other
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'.')) =>
        {
            return Err(ReferenceError::DigestAlgorithm {
                algorithm: other.to_owned(),
            });
        }
        _ => return Err(ReferenceError::Format),
    };
    if hex.len() != length || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd";

    fn normal(text: &str) -> String {
        Reference::parse(text).unwrap().tagged()
    }

    #[test]
    fn short_names_are_filled_in() {
        for (text, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("library/busybox", "docker.io/library/busybox:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("me/app:v1", "docker.io/me/app:v1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("Host/app", "Host/app:latest"),
            ("ghcr.io/a/b/c:T_1.x-y", "ghcr.io/a/b/c:T_1.x-y"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("[::1]/app", "[::1]/app:latest"),
            ("127.0.0.1:80/a__b/c--d/e.f_g", "127.0.0.1:80/a__b/c--d/e.f_g:latest"),
        ] {
            assert_eq!(normal(text), want, "{text}");
        }
    }

    #[test]
    fn short_names_may_mean_another_registry() {
        for (text, want) in [
            ("busybox", "r.example:5000/busybox:latest"),
            ("me/app:v1", "r.example:5000/me/app:v1"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("ghcr.io/a", "ghcr.io/a:latest"),
        ] {
            let found = Reference::parse_within(text, "r.example:5000").unwrap();
            assert_eq!(found.tagged(), want, "{text}");
        }
    }

    #[test]
    fn tag_and_digest_are_told_apart() {
        let reference = Reference::parse(&format!("r.io:1/a:b@sha256:{HEX}")).unwrap();
        assert_eq!(reference.registry(), "r.io:1");
        assert_eq!(reference.repository(), "r.io:1/a");
        assert_eq!(reference.tag(), Some("b"));
        assert_eq!(reference.digest().unwrap(), format!("sha256:{HEX}"));
        assert_eq!(reference.to_string(), format!("r.io:1/a:b@sha256:{HEX}"));
        assert_eq!(Reference::parse("a").unwrap().to_string(), "docker.io/library/a");
    }

    #[test]
    fn what_is_no_name_is_refused_in_kubernetes_words() {
        for text in [
            "",
            ":",
            "a:",
            ":a",
            "a:b:c",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a/-b",
            "a/b-",
            "a/b..c",
            "a/b___c",
            "a/b._c",
            "-a.io/b",
            "a.io-/b",
            "a.io:/b",
            "a.io:x/b",
            "[::1/b",
            "[]/b",
            "[::1]x/b",
            "a@",
            "a@sha256",
            "a@:b",
            "a:-b",
            "ä",
            "a:ä",
            "a/b:.c",
            "..",
            ".",
            "a\0b",
            "http://a/b",
        ] {
            assert_eq!(Reference::parse(text), Err(ReferenceError::Format), "{text:?}");
        }
        assert!(matches!(
            Reference::parse("Busybox"),
            Err(ReferenceError::Uppercase { .. })
        ));
        assert!(matches!(Reference::parse(HEX), Err(ReferenceError::HexName { .. })));
        assert!(matches!(
            Reference::parse(&format!("a@md5:{HEX}")),
            Err(ReferenceError::DigestAlgorithm { .. })
        ));
        assert!(matches!(
            Reference::parse("a@sha256:abc"),
            Err(ReferenceError::Digest { .. })
        ));
        assert!(matches!(
            Reference::parse(&format!("a@sha256:{}", HEX.to_uppercase())),
            Err(ReferenceError::Digest { .. })
        ));
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert_eq!(
            Reference::parse(&format!("a:{}", "t".repeat(129))),
            Err(ReferenceError::Format)
        );
        assert!(Reference::parse(&"a".repeat(255 - "docker.io/library/".len())).is_ok());
        assert_eq!(Reference::parse(&"a".repeat(255)), Err(ReferenceError::TooLong));
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_itself(text in "([a-zA-Z0-9.-]{1,8}(:[0-9]{1,5})?/)?[a-z0-9._/-]{1,20}(:[A-Za-z0-9_.-]{1,10})?(@sha256:[0-9a-f]{64})?") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                let tagged = Reference::parse(&reference.tagged()).unwrap();
                prop_assert_eq!(tagged.tagged(), reference.tagged());
                prop_assert!(reference.tagged().starts_with(&reference.repository()));
            }
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC*") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(!reference.repository().contains(".."));
            }
        }
    }
}

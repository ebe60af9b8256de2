//! The known name that an unknown one was probably meant to be.

/// Words of other tools for what Kubernetes calls otherwise.
const OTHER_WORDS: [(&str, &str); 10] = [
    ("arguments", "args"),
    ("cmd", "command"),
    ("cwd", "workingDir"),
    ("entrypoint", "command"),
    ("environment", "env"),
    ("mounts", "volumeMounts"),
    ("restart", "restartPolicy"),
    ("privileges", "privileged"),
    ("user", "runAsUser"),
    ("group", "runAsGroup"),
];

/// `, did you mean "command"?`, or nothing.
pub(super) fn question<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(unknown, known)
        .map(|meant| format!(", did you mean {meant:?}?"))
        .unwrap_or_default()
}

/// The nearest of the known names, if one is near enough to be worth saying.
fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain_unknown = plain(unknown);
    let word = OTHER_WORDS
        .iter()
        .find(|(other, _)| *other == plain_unknown)
        .map(|(_, ours)| *ours);
    known
        .filter_map(|name| {
            let plain_name = plain(name);
            let distance = strsim::damerau_levenshtein(&plain_unknown, &plain_name);
            // A third of the letters, at least one and at most three: `hostPth` is near, `foo` is near nothing.
            let threshold = (plain_unknown.chars().count().max(plain_name.chars().count()) / 3).clamp(1, 3);
            let rank = if Some(name) == word {
                0
            } else if distance <= threshold {
                1
            } else if starts_with_words(name, unknown) {
                2
            } else if starts_with_words(unknown, name) {
                3
            } else {
                return None;
            };
            Some((rank, distance, name))
        })
        .min()
        .map(|(_, _, name)| name)
}

/// `restartPolicy` begins with the words of `restart`, `environment` does not begin with those of `env`.
fn starts_with_words(long: &str, short: &str) -> bool {
    short.len() >= 3
        && long
            .strip_prefix(short)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_uppercase()))
}

/// Neither case nor separators count: `mount_path` is `mountPath`.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '_' | '-' | ' '))
        .take(128)
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_the_field_that_was_meant() {
        let container = [
            "args",
            "command",
            "env",
            "envFrom",
            "image",
            "imagePullPolicy",
            "name",
            "ports",
            "resources",
            "stdin",
            "tty",
            "volumeDevices",
            "volumeMounts",
            "workingDir",
        ];
        for (unknown, meant) in [
            ("conmmand", Some("command")),
            ("cammand", Some("command")),
            ("Command", Some("command")),
            ("comamnd", Some("command")),
            ("volumemounts", Some("volumeMounts")),
            ("volume_mounts", Some("volumeMounts")),
            ("volumeMount", Some("volumeMounts")),
            ("mounts", Some("volumeMounts")),
            ("environment", Some("env")),
            ("images", Some("image")),
            ("imagePull", Some("imagePullPolicy")),
            ("port", Some("ports")),
            ("workDir", Some("workingDir")),
            ("cmd", Some("command")),
            ("foo", None),
            ("bogusField", None),
            ("namespace", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(unknown, container.into_iter()), meant, "{unknown}");
        }
        assert_eq!(
            nearest("hostPth", ["emptyDir", "hostPath", "name", "nfs"].into_iter()),
            Some("hostPath")
        );
    }
}

//! AppArmor, where the kernel has it.
//!
//! **Invariant:** only reads: podd loads no profile and removes none.

use std::path::Path;

/// Whether the kernel of this machine has AppArmor and uses it. `root` is `/`, or what stands for it in a test.
pub fn is_enabled(root: &Path) -> bool {
    let told = std::fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled"));
    told.is_ok_and(|told| told.starts_with('Y'))
}

/// Whether the kernel has a profile of this name.
pub fn is_loaded(root: &Path, profile: &str) -> bool {
    // Each line is a name and its mode: `docker-default (enforce)`.
    let loaded = std::fs::read_to_string(root.join("sys/kernel/security/apparmor/profiles"));
    loaded.is_ok_and(|loaded| {
        let names = loaded.lines().filter_map(|line| Some(line.rsplit_once(" (")?.0));
        names.into_iter().any(|name| name == profile)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_it_has() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(!is_enabled(root.path()) && !is_loaded(root.path(), "own"));
        put("sys/module/apparmor/parameters/enabled", "N\n");
        assert!(!is_enabled(root.path()));
        put("sys/module/apparmor/parameters/enabled", "Y\n");
        assert!(is_enabled(root.path()));
        let list = "docker-default (enforce)\n/usr/bin/man (a b) (complain)\nown-more (enforce)\n";
        put("sys/kernel/security/apparmor/profiles", list);
        for (name, loaded) in [
            ("docker-default", true),
            ("/usr/bin/man (a b)", true),
            ("own", false),
            ("", false),
        ] {
            assert_eq!(is_loaded(root.path(), name), loaded, "{name}");
        }
    }
}

//! `podd doctor`: what this machine offers or lacks, and what podd does about each.
//!
//! Goes in: the settings that the agent would have. Comes out: one line for each fact, and whether podd can work:
//!
//! ```text
//! ok|warn|fail  <what>: <found>; <what podd does>
//! ```
//!
//! Only `fail` means that pods cannot run. Whatever can be tried is tried, in namespaces of its own.
//!
//! **Invariant:** nothing of the machine is changed.

use std::ffi::CStr;
use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use caps::{CapSet, Capability};

use crate::config::Config;
use crate::linux::cgroup::Cgroups;
use crate::linux::idmap;
use crate::linux::probe::{self, Namespace};
use crate::model::Protocol;
use crate::network::Cidr;
use crate::network::rules::{self, Mapping, RulesError};

/// `mount_setattr` and killing a whole cgroup at once.
const OLDEST_KERNEL: (u32, u32) = (5, 14);
/// Where the kernel's control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Below this share of what there is, in percent, there is a warning.
const SCARCE_PERCENT: u64 = 10;
/// Below this many bytes there is no room for an image.
const TOO_LITTLE: u64 = 64 << 20;

/// What podd itself needs, and so do most containers.
const NEEDED: [Capability; 14] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SETFCAP,
];

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// The lines, as they are written.
struct Report<'a> {
    out: &'a mut dyn Write,
    worst: Level,
}

impl Report<'_> {
    fn line(&mut self, level: Level, what: &str, found: impl Display, does: impl Display) -> io::Result<()> {
        self.worst = self.worst.max(level);
        let level = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        writeln!(self.out, "{level:<4}  {what}: {found}; {does}")
    }
}

/// Look at everything. `Ok(false)`: podd cannot work here.
///
/// # Errors
/// Only when `out` cannot be written.
pub fn run(out: &mut dyn Write, config: &Config) -> io::Result<bool> {
    let mut report = Report { out, worst: Level::Ok };
    kernel(&mut report)?;
    user(&mut report)?;
    capabilities(&mut report)?;
    cgroups(&mut report)?;
    namespaces(&mut report)?;
    calls(&mut report)?;
    overlay(&mut report, &config.root)?;
    mapped_mounts(&mut report, &config.root)?;
    seccomp(&mut report)?;
    network(&mut report, config)?;
    for (what, path) in [
        ("space of root", &config.root),
        ("space of run-dir", &config.run_dir),
        ("space of log-dir", &config.log_dir),
    ] {
        space(&mut report, what, path)?;
    }
    let sqlite: &CStr = libsqlite3_sys::SQLITE_VERSION;
    report.line(
        Level::Ok,
        "sqlite",
        sqlite.to_string_lossy(),
        "it is built in, the machine's own is not used",
    )?;
    Ok(report.worst < Level::Fail)
}

fn kernel(report: &mut Report<'_>) -> io::Result<()> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let (oldest_major, oldest_minor) = OLDEST_KERNEL;
    let found = format!("Linux {release} on {}", uname.machine().to_string_lossy());
    if version(&release).is_some_and(|version| version >= OLDEST_KERNEL) {
        report.line(
            Level::Ok,
            "kernel",
            found,
            format_args!("{oldest_major}.{oldest_minor} or later is enough"),
        )
    } else {
        let does = format!("podd needs {oldest_major}.{oldest_minor} or later and cannot start containers here");
        report.line(Level::Fail, "kernel", found, does)
    }
}

/// `6.18.44-custom` is (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn user(report: &mut Report<'_>) -> io::Result<()> {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        report.line(Level::Ok, "user", "root", "podd serve runs as root")
    } else {
        report.line(
            Level::Fail,
            "user",
            format_args!("uid {}", uid.as_raw()),
            "podd serve must be run by root",
        )
    }
}

fn capabilities(report: &mut Report<'_>) -> io::Result<()> {
    let have = match caps::read(None, CapSet::Effective) {
        Ok(have) => have,
        Err(error) => return report.line(Level::Warn, "capabilities", error, "podd tries what it needs"),
    };
    let mut missing: Vec<Capability> = caps::runtime::thread_all_supported()
        .difference(&have)
        .copied()
        .collect();
    missing.sort_unstable_by_key(Capability::index);
    if missing.is_empty() {
        let found = format!("all {} of this kernel, from CAP_CHOWN on", have.len());
        return report.line(Level::Ok, "capabilities", found, "containers get the usual few of them");
    }
    for capability in missing {
        let (level, does) = if NEEDED.contains(&capability) {
            (Level::Fail, "podd cannot work without it")
        } else if capability == Capability::CAP_SYS_RESOURCE {
            (
                Level::Warn,
                "limits above the hard ones and a lower oom_score_adj cannot be set: podd starts containers without \
                 and logs a warning",
            )
        } else {
            (
                Level::Warn,
                "no container can be given it: one that asks for it does without",
            )
        };
        report.line(level, "capabilities", format_args!("{capability} is missing"), does)?;
    }
    Ok(())
}

fn cgroups(report: &mut Report<'_>) -> io::Result<()> {
    let cgroups = match Cgroups::detect(Path::new(CGROUPS)) {
        Ok(cgroups) => cgroups,
        Err(error) => return report.line(Level::Fail, "cgroups", chain(&error), "podd cannot hold pods without"),
    };
    let all = cgroups.hierarchies();
    let layout = match (all.iter().any(|h| h.v2), all.iter().any(|h| !h.v2)) {
        (true, true) => "hybrid",
        (true, false) => "v2",
        (false, _) => "v1",
    };
    let of = |used: bool| {
        let names = all
            .iter()
            .filter(|h| h.used == used)
            .flat_map(|h| h.controllers.iter().map(String::as_str));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.join(" ")
    };
    let unused = of(false);
    let beside = if unused.is_empty() {
        String::new()
    } else {
        format!(", not used: {unused}")
    };
    report.line(
        Level::Ok,
        "cgroups",
        format_args!("{layout} with {}{beside}", of(true)),
        "podd makes a cgroup for each pod and container",
    )?;
    let has = |name: &str| {
        all.iter()
            .any(|h| h.used && h.controllers.iter().any(|have| have == name))
    };
    for (name, does) in [
        ("cpu", "cpu requests and limits are not kept"),
        (
            "memory",
            "memory limits are not kept, and no container is ever OOMKilled for its own",
        ),
        ("pids", "a fork bomb in one container reaches the others"),
        (
            "hugetlb",
            "the node has no huge pages to give: a pod that asks for some is refused (OutOfhugepages-...)",
        ),
    ] {
        if has(name) {
            report.line(Level::Ok, "cgroup controller", name, "limits are kept")?;
        } else {
            report.line(
                Level::Warn,
                "cgroup controller",
                format_args!("{name} is missing"),
                does,
            )?;
        }
    }
    // Version 2 guards devices with programs instead.
    if layout != "v2" && !has("devices") {
        let does = "a container may use every device that it can make a node of";
        report.line(Level::Warn, "cgroup controller", "devices is missing", does)?;
    }
    let name = format!("podd-doctor-{}", std::process::id());
    match cgroups.create(&name).and_then(|()| cgroups.remove(&name)) {
        Ok(_) => report.line(
            Level::Ok,
            "cgroup",
            "one could be made and removed",
            "nothing is to be done",
        ),
        Err(error) => report.line(Level::Fail, "cgroup", chain(&error), "podd cannot hold pods without"),
    }
}

/// What pods with `hostUsers: false` need of the file system of their volumes and roots.
fn mapped_mounts(report: &mut Report<'_>, root: &Path) -> io::Result<()> {
    let what = "id-mapped mounts";
    let there = existing(root);
    match idmap::try_mounts(there) {
        Ok(()) => report.line(
            Level::Ok,
            what,
            format_args!("they work on {} and in memory", there.display()),
            "pods can have user namespaces (hostUsers: false)",
        ),
        Err(error) => report.line(
            Level::Warn,
            what,
            chain(&error),
            "a pod with hostUsers: false stays Pending",
        ),
    }
}

fn namespaces(report: &mut Report<'_>) -> io::Result<()> {
    for kind in Namespace::ALL {
        let used = match kind {
            Namespace::Mount | Namespace::Pid | Namespace::Network | Namespace::Ipc | Namespace::Uts => true,
            Namespace::Cgroup | Namespace::User => false,
        };
        let what = format!("{} namespace", kind.name());
        match (probe::namespace(kind), used) {
            (Ok(()), true) => report.line(Level::Ok, &what, "one could be made", "pods have their own")?,
            (Ok(()), false) => report.line(Level::Ok, &what, "one could be made", "podd can do without")?,
            (Err(error), true) => report.line(Level::Fail, &what, error, "podd cannot isolate pods without")?,
            (Err(error), false) => report.line(Level::Warn, &what, error, "podd can do without")?,
        }
    }
    Ok(())
}

fn calls(report: &mut Report<'_>) -> io::Result<()> {
    let calls = probe::system_calls();
    let names = |there: bool| {
        let names: Vec<_> = calls
            .iter()
            .filter(|(_, is)| *is == there)
            .map(|(name, _)| *name)
            .collect();
        names.join(" ")
    };
    let missing = names(false);
    if missing.is_empty() {
        report.line(Level::Ok, "system calls", names(true), "podd is built on them")
    } else {
        let found = format!("missing or forbidden: {missing}");
        report.line(
            Level::Fail,
            "system calls",
            found,
            "podd cannot start containers safely without",
        )
    }
}

fn overlay(report: &mut Report<'_>, root: &Path) -> io::Result<()> {
    let place = existing(root);
    match probe::overlay(place) {
        Ok(()) => report.line(
            Level::Ok,
            "overlay",
            format_args!("mounted on the file system of {}", place.display()),
            "the root of each container is one",
        ),
        Err(error) => report.line(
            Level::Fail,
            "overlay",
            format_args!("not on the file system of {}: {error}", place.display()),
            "containers cannot have a root there: choose another --root",
        ),
    }
}

fn seccomp(report: &mut Report<'_>) -> io::Result<()> {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_ascii_whitespace().any(|action| action == "errno") => report.line(
            Level::Ok,
            "seccomp",
            "filters are there",
            "containers get the default profile",
        ),
        Ok(_) | Err(_) => report.line(
            Level::Fail,
            "seccomp",
            "this kernel has no filters",
            "containers that do not ask for Unconfined cannot be started",
        ),
    }
}

fn network(report: &mut Report<'_>, config: &Config) -> io::Result<()> {
    match probe::bridge_and_veth() {
        Ok(()) => report.line(
            Level::Ok,
            "bridge",
            "a bridge and a veth could be made",
            "every pod gets an address",
        ),
        Err(error) => report.line(
            Level::Fail,
            "bridge",
            chain(&error),
            "only pods with the host's network can run",
        ),
    }?;
    let outside = "pods reach each other and this machine, but not the outside";
    let cidr: Cidr = match config.pod_cidr.parse() {
        Ok(cidr) => cidr,
        Err(error) => return report.line(Level::Fail, "pod-cidr", error, "podd serve refuses to start"),
    };
    let plain = Mapping::new();
    match probe::in_new_network(|| rules::apply(&config.bridge, cidr, None, &plain)) {
        Ok(Ok(())) => {
            let does = format!(
                "pods reach the outside through a table of podd's own, {}",
                rules::table(&config.bridge)
            );
            report.line(Level::Ok, "nftables", "masquerading could be set up", does)?;
        }
        Ok(Err(RulesError::Absent)) => report.line(Level::Warn, "nftables", "there is no nft program", outside)?,
        Ok(Err(error)) => report.line(Level::Warn, "nftables", chain(&error), outside)?,
        Err(error) => report.line(Level::Warn, "nftables", error, outside)?,
    }
    let pending = "a pod with a hostPort stays Pending: it cannot be mapped";
    let one = Mapping::from([(
        rules::Port {
            protocol: Protocol::Tcp,
            ip: None,
            number: 1,
        },
        (cidr.pool().0, 1),
    )]);
    match probe::in_new_network(|| rules::apply(&config.bridge, cidr, None, &one)) {
        Ok(Ok(())) => report.line(
            Level::Ok,
            "hostPort",
            "a port of the machine could be mapped",
            "ports of pods are in the same table",
        )?,
        Ok(Err(error)) => report.line(Level::Warn, "hostPort", chain(&error), pending)?,
        Err(error) => report.line(Level::Warn, "hostPort", error, pending)?,
    }
    match fs::read_to_string("/proc/sys/net/ipv4/ip_forward") {
        Ok(value) if value.trim() != "0" => {
            report.line(Level::Ok, "net.ipv4.ip_forward", value.trim(), "pods reach the outside")
        }
        Ok(_) => report.line(
            Level::Ok,
            "net.ipv4.ip_forward",
            "0",
            "podd serve sets it to 1 and says so in its log",
        ),
        Err(error) => report.line(Level::Warn, "net.ipv4.ip_forward", error, outside),
    }?;
    if let Some(chain) = rules::list().ok().as_deref().and_then(dropping_chain) {
        let bridged = fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
        let also = if bridged.is_ok_and(|v| v.trim() == "1") {
            ", nor pods each other"
        } else {
            ""
        };
        report.line(
            Level::Warn,
            "packet filter",
            format_args!("{chain} drops what is forwarded unless a rule of its own accepts it"),
            format_args!(
                "podd touches no foreign rules: pods do not reach the outside{also}, until one accepts interface {}",
                config.bridge
            ),
        )?;
    }
    Ok(())
}

/// `ip filter FORWARD`, when a base chain of another program has the policy to drop what is forwarded.
fn dropping_chain(ruleset: &str) -> Option<String> {
    let (mut table, mut chain) = ("", "");
    for line in ruleset.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else if line.contains("hook forward") && line.contains("policy drop") && !table.starts_with("ip6 ") {
            return Some(format!("{table} {chain}"));
        }
    }
    None
}

fn space(report: &mut Report<'_>, what: &str, path: &Path) -> io::Result<()> {
    let place = existing(path);
    let stat = match rustix::fs::statvfs(place) {
        Ok(stat) => stat,
        Err(error) => return report.line(Level::Warn, what, error, "podd serve may not be able to start"),
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or(100);
    let of_bytes = percent(stat.f_bavail, stat.f_blocks);
    // Some file systems have as many inodes as there is room, and say 0.
    let of_inodes = percent(stat.f_favail, stat.f_files);
    let found = format!(
        "{} MiB free on {} ({of_bytes} %), {of_inodes} % of inodes free",
        free >> 20,
        place.display()
    );
    if free < TOO_LITTLE || (stat.f_files > 0 && stat.f_favail == 0) {
        report.line(Level::Fail, what, found, "there is no room for pods")
    } else if of_bytes < SCARCE_PERCENT || of_inodes < SCARCE_PERCENT {
        report.line(
            Level::Warn,
            what,
            found,
            "podd removes nothing by itself: pods fail when it is full",
        )
    } else {
        report.line(Level::Ok, what, found, "nothing is to be done")
    }
}

/// The path, or the nearest directory above that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

/// An error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn config(root: &Path) -> Config {
        let settings = Settings {
            root: Some(root.join("not/yet")),
            ..Settings::default()
        };
        Config::new(settings, "node").unwrap()
    }

    fn report(config: &Config) -> (bool, String) {
        let mut out = Vec::new();
        let well = run(&mut out, config).unwrap();
        (well, String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_line_says_what_was_found_and_what_follows() {
        let root = tempfile::tempdir().unwrap();
        let (well, text) = report(&config(root.path()));
        println!("{text}");
        for line in text.lines() {
            let (level, rest) = line.split_at(6);
            assert!(["ok    ", "warn  ", "fail  "].contains(&level), "{line}");
            let (what, rest) = rest.split_once(": ").expect(line);
            assert!(!what.is_empty() && rest.contains("; "), "{line}");
        }
        assert_eq!(well, !text.lines().any(|line| line.starts_with("fail")), "{text}");
        for what in [
            "kernel",
            "user",
            "capabilities",
            "cgroups",
            "cgroup controller",
            "id-mapped mounts",
            "mount namespace",
            "network namespace",
            "system calls",
            "overlay",
            "seccomp",
            "bridge",
            "nftables",
            "hostPort",
            "net.ipv4.ip_forward",
            "space of root",
            "space of run-dir",
            "space of log-dir",
            "sqlite",
        ] {
            assert!(
                text.lines().any(|line| line[6..].starts_with(&format!("{what}: "))),
                "{what} not in {text}"
            );
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn what_makes_podd_impossible_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let wrong = Config {
            pod_cidr: "10.0.0.0/31".to_owned(),
            ..config(root.path())
        };
        let (well, text) = report(&wrong);
        assert!(!well && text.contains("\nfail  pod-cidr: "), "{text}");
        let wrong = Config {
            root: "/proc/podd".into(),
            ..config(root.path())
        };
        let (well, text) = report(&wrong);
        assert!(!well && text.contains("\nfail  overlay: "), "{text}");
    }

    #[test]
    fn the_example_file_has_every_setting_and_its_default() {
        let example = include_str!("../../deploy/podd.toml");
        // Without the marks of a comment, but for the ones that are prose.
        let set: Vec<_> = example.lines().filter_map(|line| line.strip_prefix('#')).collect();
        let set = set
            .into_iter()
            .filter(|line| !line.starts_with(' '))
            .collect::<Vec<_>>()
            .join("\n");
        let settings: Settings = toml::from_str(&set).unwrap();
        assert_eq!(toml::from_str::<Settings>(example).unwrap(), Settings::default());
        assert_eq!(
            Config::new(settings, "other").unwrap(),
            Config::new(Settings::default(), "example").unwrap()
        );
        let Settings {
            root,
            run_dir,
            log_dir,
            container_log_dir,
            listen,
            socket,
            pod_cidr,
            bridge,
            cgroup_root,
            node_name,
            // Without a default: it stands there as prose.
            manifest_dir: None,
            system_reserved: None,
            allocatable: None,
            max_pods: None,
            max_restart_backoff,
            streaming_idle_timeout,
            eviction_hard,
            eviction_pressure_transition_period,
            image_gc_high_threshold,
            image_gc_low_threshold,
            image_minimum_gc_age,
            registry_config,
            default_registry,
            docker_config,
            max_image_size,
            service_account_issuer,
            seccomp_profile_root,
            pod_pids_limit: Some(-1),
            user_ids,
            // Lists, which are empty by default.
            allowed_unsafe_sysctls: _,
            runtime: _,
            runtimes: _,
        } = toml::from_str(&set).unwrap()
        else {
            panic!("a setting without a default has a value")
        };
        let paths = [
            root,
            run_dir,
            log_dir,
            container_log_dir,
            socket,
            registry_config,
            docker_config,
            seccomp_profile_root,
        ];
        assert!(paths.iter().all(Option::is_some));
        let words = [
            listen,
            pod_cidr,
            bridge,
            cgroup_root,
            node_name,
            max_restart_backoff,
            streaming_idle_timeout,
            eviction_hard,
            eviction_pressure_transition_period,
            image_minimum_gc_age,
            default_registry,
            max_image_size,
            service_account_issuer,
            user_ids,
        ];
        assert!(
            [image_gc_high_threshold, image_gc_low_threshold]
                .iter()
                .all(Option::is_some)
        );
        assert!(words.iter().all(Option::is_some));
    }

    #[test]
    fn kernel_releases() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.14-rc1"), Some((5, 14)));
        assert_eq!(version("strange"), None);
    }

    #[test]
    fn a_foreign_chain_that_drops_is_found() {
        let docker = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n";
        assert_eq!(dropping_chain(docker).as_deref(), Some("ip filter FORWARD"));
        assert_eq!(dropping_chain(&docker.replace("policy drop", "policy accept")), None);
        assert_eq!(dropping_chain(&docker.replace("table ip ", "table ip6 ")), None);
        assert_eq!(dropping_chain(""), None);
    }
}

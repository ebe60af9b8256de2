//! Profiles of the machine that a container names: seccomp filters from files, AppArmor profiles that the kernel has.
//!
//! Goes in: the container's security context, and where the profiles lie. Comes out: what its spec says of them.
//!
//! Files are in the OCI runtime spec's format, or in Docker's (moby `profiles/seccomp/seccomp_linux.go`), which adds
//! `archMap`, and `includes` and `excludes` to rules; anything else in them is an error.
//!
//! **Invariant:** a profile that cannot be read or understood starts no container; none is loaded into the kernel here.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Arch, Capability, LinuxSeccomp};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::StepError;
use super::machine::step;
use crate::linux::app_armor;
use crate::model::{AppArmorProfile, ContainerSecurity, FailureReason, SeccompProfile};

/// What `RuntimeDefault` means where the operator has loaded it.
const DEFAULT_APP_ARMOR: &str = "podd-default";

/// A seccomp profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    /// containerd's words.
    #[error("failed to generate seccomp spec opts: cannot load seccomp profile {:?}", path.display().to_string())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to generate seccomp spec opts: decoding seccomp profile failed {:?}", path.display().to_string())]
    Decode {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("failed to generate apparmor spec opts: apparmor profile not found {name}")]
    NoAppArmorProfile { name: String },
}

/// The profiles of one container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Profiles {
    /// Of `seccompProfile.type: Localhost` alone.
    pub(super) seccomp: Option<LinuxSeccomp>,
    /// The name of a profile that the kernel has; `None`: unconfined.
    pub(super) app_armor: Option<String>,
}

impl Profiles {
    /// `seccomp_root` is where files are named from, `machine` is `/`; `capabilities` are the container's.
    ///
    /// # Errors
    /// `CreateContainerError`: one is not there, or is not a profile.
    pub(super) fn of(
        security: &ContainerSecurity,
        capabilities: &[Capability],
        seccomp_root: &Path,
        machine: &Path,
    ) -> Result<Self, StepError> {
        let seccomp = match &security.seccomp {
            SeccompProfile::Localhost(file) => Some(read(&seccomp_root.join(file), capabilities)),
            SeccompProfile::RuntimeDefault | SeccompProfile::Unconfined => None,
        };
        let app_armor = match &security.app_armor {
            AppArmorProfile::Unconfined => None,
            // containerd `container_create_linux.go generateApparmorSpecOpts`: who names none gets the default too.
            AppArmorProfile::Unset | AppArmorProfile::RuntimeDefault => (!security.privileged
                && app_armor::is_loaded(machine, DEFAULT_APP_ARMOR))
            .then(|| Ok(DEFAULT_APP_ARMOR.to_owned())),
            AppArmorProfile::Localhost(name) if app_armor::is_loaded(machine, name) => Some(Ok(name.clone())),
            AppArmorProfile::Localhost(name) => Some(Err(ProfileError::NoAppArmorProfile { name: name.clone() })),
        };
        let failed = |error: ProfileError| step(FailureReason::CreateContainerError, &error);
        Ok(Self {
            seccomp: seccomp.transpose().map_err(failed)?,
            app_armor: app_armor.transpose().map_err(failed)?,
        })
    }
}

fn read(path: &Path, capabilities: &[Capability]) -> Result<LinuxSeccomp, ProfileError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| ProfileError::Read {
            path: path.to_owned(),
            source,
        })
    };
    let text = read(path)?;
    let kernel = read(Path::new("/proc/sys/kernel/osrelease"))?;
    let here = Here {
        kernel: &String::from_utf8_lossy(&kernel),
        capabilities: capabilities.iter().map(|c| plain(&c.to_string())).collect(),
    };
    parse(&text, &here).map_err(|source| ProfileError::Decode {
        path: path.to_owned(),
        source,
    })
}

/// What Docker's conditions are about.
struct Here<'a> {
    kernel: &'a str,
    /// Of the container, without `CAP_`.
    capabilities: Vec<String>,
}

fn plain(capability: &str) -> String {
    let upper = capability.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

/// The file, either format's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ProfileFile {
    default_action: Value,
    default_errno_ret: Option<u32>,
    #[expect(dead_code, reason = "it stands there for people: known, so that it is no error")]
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Value>,
    listener_path: Option<Value>,
    listener_metadata: Option<Value>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    /// Docker's older form.
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: Value,
    errno_ret: Option<u32>,
    #[expect(dead_code, reason = "it stands there for people: known, so that it is no error")]
    errno: Option<String>,
    args: Option<Value>,
    #[expect(dead_code, reason = "it stands there for people: known, so that it is no error")]
    comment: Option<String>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

/// When a rule counts (`includes`), or does not (`excludes`).
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

fn parse(text: &[u8], here: &Here<'_>) -> Result<LinuxSeccomp, serde_json::Error> {
    let ProfileFile {
        default_action,
        default_errno_ret,
        // Names of error numbers stand beside the numbers, for people.
        default_errno: _,
        architectures,
        arch_map,
        flags,
        listener_path,
        listener_metadata,
        syscalls,
    } = serde_json::from_slice(text)?;
    let mut profile = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            profile.insert(name.to_owned(), value);
        }
    };
    let native = native_arch();
    let mapped = arch_map.into_iter().flatten().find(|map| map.architecture == native);
    let mapped = mapped.map(|map| {
        let ArchMap {
            architecture,
            sub_architectures,
        } = map;
        std::iter::once(architecture)
            .chain(sub_architectures.unwrap_or_default())
            .collect()
    });
    put("defaultAction", Some(default_action));
    put("defaultErrnoRet", default_errno_ret.map(Value::from));
    put(
        "architectures",
        architectures.or(mapped).map(serde_json::to_value).transpose()?,
    );
    put("flags", flags);
    put("listenerPath", listener_path);
    put("listenerMetadata", listener_metadata);
    let rules = syscalls.into_iter().flatten().filter_map(|rule| oci_rule(rule, here));
    put("syscalls", Some(rules.collect()));
    serde_json::from_value(Value::Object(profile))
}

/// A rule in OCI's words; `None` where it does not count here.
fn oci_rule(rule: Rule, here: &Here<'_>) -> Option<Value> {
    let Rule {
        name,
        mut names,
        action,
        errno_ret,
        errno: _,
        args,
        comment: _,
        includes,
        excludes,
    } = rule;
    if includes.is_some_and(|filter| !filter.holds(here)) || excludes.is_some_and(|filter| filter.touches(here)) {
        return None;
    }
    names.extend(name);
    let mut rule = Map::from_iter([("names".to_owned(), Value::from(names)), ("action".to_owned(), action)]);
    if let Some(errno) = errno_ret {
        rule.insert("errnoRet".to_owned(), Value::from(errno));
    }
    if let Some(args) = args.filter(|args| !args.is_null()) {
        rule.insert("args".to_owned(), args);
    }
    Some(Value::Object(rule))
}

impl Filter {
    /// Everything that it asks for is so.
    fn holds(&self, here: &Here<'_>) -> bool {
        let Self {
            caps,
            arches,
            min_kernel,
        } = self;
        caps.iter().all(|cap| here.capabilities.contains(&plain(cap)))
            && (arches.is_empty() || arches.iter().any(|arch| arch == docker_arch()))
            && min_kernel.as_ref().is_none_or(|least| is_at_least(here.kernel, least))
    }

    /// Something that it names is so.
    fn touches(&self, here: &Here<'_>) -> bool {
        let Self {
            caps,
            arches,
            min_kernel,
        } = self;
        caps.iter().any(|cap| here.capabilities.contains(&plain(cap)))
            || arches.iter().any(|arch| arch == docker_arch())
            || min_kernel.as_ref().is_some_and(|least| is_at_least(here.kernel, least))
    }
}

fn native_arch() -> Arch {
    if cfg!(target_arch = "aarch64") {
        Arch::ScmpArchAarch64
    } else {
        Arch::ScmpArchX86_64
    }
}

fn docker_arch() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

/// By the first two numbers of both.
fn is_at_least(kernel: &str, least: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    numbers(kernel) >= numbers(least)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSeccompAction;
    use serde_json::json;

    use super::*;
    use crate::linux::seccomp;

    fn security() -> ContainerSecurity {
        ContainerSecurity {
            run_as_user: None,
            run_as_group: None,
            run_as_non_root: false,
            privileged: false,
            allow_privilege_escalation: true,
            read_only_root: false,
            capabilities: crate::model::Capabilities::default(),
            seccomp: SeccompProfile::Unconfined,
            app_armor: AppArmorProfile::Unset,
            unmasked_proc: false,
        }
    }

    fn read_as(value: &Value, capabilities: &[&str]) -> Result<LinuxSeccomp, serde_json::Error> {
        let here = Here {
            kernel: "6.1.0-13-amd64",
            capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
        };
        parse(value.to_string().as_bytes(), &here)
    }

    fn names(profile: &LinuxSeccomp) -> Vec<String> {
        let rules = profile.syscalls().iter().flatten();
        rules.flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn a_profile_of_the_oci_format_is_taken_as_it_is() {
        let text = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            ],
        });
        let profile = read_as(&text, &[]).unwrap();
        let expected: LinuxSeccomp = serde_json::from_value(text).unwrap();
        assert_eq!(profile, expected);
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
        seccomp::compile(&profile).unwrap();
    }

    #[test]
    fn dockers_conditions_are_kept() {
        let text = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
            "syscalls": [
                {"name": "read", "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
                {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["write"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
                {"names": ["s390_pci"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390"]}},
            ],
        });
        let plain = read_as(&text, &[]).unwrap();
        assert_eq!(names(&plain), ["read", "clone", "ptrace"]);
        assert_eq!(plain.architectures().as_ref().unwrap().len(), 2);
        assert_eq!(
            names(&read_as(&text, &["BPF", "SYS_ADMIN"]).unwrap()),
            ["read", "bpf", "ptrace"]
        );
        seccomp::compile(&plain).unwrap();
    }

    #[test]
    fn what_is_not_understood_is_no_profile() {
        for bad in [
            json!({}),
            json!({"defaultAction": "SCMP_ACT_MAYBE"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "more": 1}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"]}]}),
            json!([]),
        ] {
            assert!(read_as(&bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        let mut security = security();
        security.seccomp = SeccompProfile::Localhost("own/x.json".into());
        let error = Profiles::of(&security, &[], root.path(), root.path()).unwrap_err();
        assert_eq!(error.reason, FailureReason::CreateContainerError);
        let path = root.path().join("own/x.json");
        let expected = format!(
            "failed to generate seccomp spec opts: cannot load seccomp profile {:?}: No such file or directory (os error 2)",
            path.display().to_string()
        );
        assert_eq!(error.message, expected);
    }

    #[test]
    fn a_profile_of_app_armor_must_be_loaded() {
        let root = tempfile::tempdir().unwrap();
        let list = root.path().join("sys/kernel/security/apparmor");
        std::fs::create_dir_all(&list).unwrap();
        std::fs::write(list.join("profiles"), "own (enforce)\npodd-default (enforce)\n").unwrap();
        let of = |profile: AppArmorProfile, privileged: bool| {
            let mut security = security();
            security.app_armor = profile;
            security.privileged = privileged;
            let profiles = Profiles::of(&security, &[], root.path(), root.path());
            profiles
                .map(|profiles| profiles.app_armor)
                .map_err(|error| error.message)
        };
        let own = Ok(Some("own".to_owned()));
        assert_eq!(of(AppArmorProfile::Localhost("own".to_owned()), true), own);
        assert_eq!(
            of(AppArmorProfile::RuntimeDefault, false),
            Ok(Some("podd-default".to_owned()))
        );
        assert_eq!(of(AppArmorProfile::RuntimeDefault, true), Ok(None));
        assert_eq!(of(AppArmorProfile::Unconfined, false), Ok(None));
        let absent = of(AppArmorProfile::Localhost("other".to_owned()), false).unwrap_err();
        assert_eq!(
            absent,
            "failed to generate apparmor spec opts: apparmor profile not found other"
        );
    }
}

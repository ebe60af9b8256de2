//! The first process: what is run, as whom, with which environment and capabilities.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, User};

use super::{SpecError, SpecInput, Variables, oom_score_adj};
use crate::model::ContainerSecurity;

/// What every container has unless its pod drops it (containerd `defaultUnixCaps`).
const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// containerd `defaultUnixEnv`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn process(
    input: &SpecInput<'_>,
    variables: &Variables,
    capabilities: &[Capability],
) -> Result<Process, SpecError> {
    let (container, security) = (input.container, &input.container.security);
    let arguments = arguments(input, variables)?;
    let environment = environment(input, variables);
    let cwd = working_dir(input);
    let nul = |texts: &[String], what| {
        if texts.iter().any(|text| text.contains('\0')) {
            Err(SpecError::Nul { what })
        } else {
            Ok(())
        }
    };
    nul(&arguments, "an argument")?;
    nul(&environment, "an environment variable")?;
    nul(&[cwd.to_string_lossy().into_owned()], "the working directory")?;

    let mut process = Process::default();
    process
        .set_terminal(Some(container.tty))
        .set_user(user(input))
        .set_args(Some(arguments))
        .set_env(Some(environment))
        .set_cwd(cwd)
        .set_capabilities(Some(sets(capabilities)))
        // What the shim has is what containers get, as with containerd.
        .set_rlimits(None)
        .set_no_new_privileges(Some(!security.allow_privilege_escalation))
        .set_oom_score_adj(Some(oom_score_adj(input.pod, container, input.memory)));
    Ok(process)
}

/// Kubernetes' table of `command` and `args` against Entrypoint and Cmd (containerd `WithProcessArgs`): `command`
/// replaces Entrypoint and makes the image's Cmd void; `args` replaces Cmd.
fn arguments(input: &SpecInput<'_>, variables: &Variables) -> Result<Vec<String>, SpecError> {
    let (container, image) = (input.container, &input.image.config);
    // What the image says is taken as it is.
    let (command, args) = (
        variables.expand(&container.command)?,
        variables.expand(&container.args)?,
    );
    let (program, rest) = match (command.is_empty(), args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &args),
        (false, _) => (&command, &args),
    };
    let arguments: Vec<String> = program.iter().chain(rest).cloned().collect();
    if arguments.is_empty() {
        Err(SpecError::NoCommand)
    } else {
        Ok(arguments)
    }
}

/// In the order containerd's CRI plugin has: `PATH` unless somebody sets one, `TERM` with a terminal, `HOSTNAME`, `HOME`
/// (which runc adds), the image's, the container's. A later value of a name takes the place of the earlier one; an entry of the image without
/// `=` takes the name away.
pub fn environment(input: &SpecInput<'_>, given: &Variables) -> Vec<String> {
    let mut variables: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let mut set = |name: &str, value: &str| match variables.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => variables.push((name.to_owned(), value.to_owned())),
    };
    if input.container.tty {
        set("TERM", "xterm");
    }
    // One that is too long for the kernel has no sandbox.
    let own_name = input.pod.kernel_name();
    set(
        "HOSTNAME",
        match &own_name {
            _ if input.pod.host_network => input.node_name,
            Ok(name) => name,
            Err(_) => &input.pod.hostname,
        },
    );
    set("HOME", input.home);
    let mut removed = HashSet::new();
    for entry in &input.image.config.env {
        if let Some((name, value)) = entry.split_once('=') {
            set(name, value);
            removed.remove(name);
        } else {
            removed.insert(entry.as_str());
        }
    }
    for (name, value) in given.iter() {
        set(name, value);
        removed.remove(name);
    }
    variables.retain(|(name, _)| !removed.contains(name.as_str()));
    variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// The container's, else the image's, else `/`. Images may have relative ones, which begin at `/`.
fn working_dir(input: &SpecInput<'_>) -> PathBuf {
    let image = Path::new(&input.image.config.working_dir);
    Path::new("/").join(input.container.working_dir.as_deref().unwrap_or(image))
}

/// The primary group is among the additional ones too: without it a group that a file denies could be got rid of by
/// changing the primary one (CVE-2022-36109; containerd `ensureAdditionalGids`).
fn user(input: &SpecInput<'_>) -> User {
    let super::ResolvedUser {
        uid,
        gid,
        additional_gids,
    } = &input.user;
    let mut groups = vec![*gid];
    for group in additional_gids.iter().chain(&input.pod.security.supplemental_groups) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    let mut user = User::default();
    user.set_uid(*uid).set_gid(*gid).set_additional_gids(Some(groups));
    user
}

/// containerd `WithCapabilities`: the default set; `ALL` in `add` makes it everything, `ALL` in `drop` nothing; then the
/// single names are added, then those in `drop` taken away. A privileged container has everything. Sorted.
pub(super) fn capabilities(
    security: &ContainerSecurity,
    available: &[Capability],
) -> Result<Vec<Capability>, SpecError> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let (add, drop) = (&security.capabilities.add, &security.capabilities.drop);
    if security.privileged {
        return Ok(sorted(available.iter().copied().collect()));
    }
    let mut set: HashSet<Capability> = if drop.iter().any(is_all) {
        HashSet::new()
    } else if add.iter().any(is_all) {
        available.iter().copied().collect()
    } else {
        DEFAULT_CAPABILITIES
            .into_iter()
            .filter(|capability| available.contains(capability))
            .collect()
    };
    for name in add.iter().filter(|name| !is_all(name)) {
        let capability = parse(name)?;
        if !available.contains(&capability) {
            return Err(SpecError::CapabilityUnavailable { name: name.clone() });
        }
        set.insert(capability);
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set.remove(&parse(name)?);
    }
    Ok(sorted(set))
}

fn parse(name: &str) -> Result<Capability, SpecError> {
    name.to_ascii_uppercase()
        .parse()
        .map_err(|_| SpecError::UnknownCapability { name: name.to_owned() })
}

fn sorted(set: HashSet<Capability>) -> Vec<Capability> {
    let mut list: Vec<_> = set.into_iter().collect();
    list.sort_by_key(ToString::to_string);
    list
}

/// Bounding, permitted and effective; a user other than root loses the last two at exec. Inheritable stays empty
/// (CVE-2022-24769), and ambient with it.
fn sets(capabilities: &[Capability]) -> LinuxCapabilities {
    let set: HashSet<Capability> = capabilities.iter().copied().collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_permitted(Some(set.clone()))
        .set_effective(Some(set))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    sets
}

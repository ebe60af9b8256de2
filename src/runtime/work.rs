//! What an attempt of a container needs on disk before the shim can start it.
//!
//! Goes in: the pod, the container, its image and its volumes. Comes out: directories, config.json, and the request for
//! the shim.
//!
//! **Invariant:** nothing here starts anything; made already, it is made again with the same content.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::machine::step;
use super::parts::Settings;
use super::profiles::Profiles;
use super::spec::{self, EtcFiles, ResolvedUser, STOP_SIGNAL, SpecInput};
use super::{StepError, image_volume, propagation};
use crate::linux::cgroup::Controls;
use crate::linux::{host, path, privilege};
use crate::model::downward::Place;
use crate::model::{ContainerSpec, FailureReason, PodSpec, ResolvedImage, Sources, User};
use crate::shim::protocol::{Overlay, StartContainer};
use crate::volume::Prepared;

/// The directories of one attempt.
pub(super) struct Work {
    /// `ROOT/pods/<uid>/<container>/<attempt>`: what it writes.
    pub(super) state: PathBuf,
    /// `RUN_DIR/pods/<uid>/<sandbox>/<container>-<attempt>`: how it runs.
    pub(super) run: PathBuf,
    pub(super) log: PathBuf,
}

/// Whose namespaces an attempt joins, by pids in the shim's pid namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) infra_pid: i32,
    /// The first process of the container whose processes it sees.
    pub(super) target: Option<i32>,
    /// Of infra's user namespace, if it has one of its own: the machine's id of its 0.
    pub(super) first_id: Option<u32>,
}

/// The name, in an attempt's state directory, of the file that its last words are written to.
pub(super) const TERMINATION_LOG: &str = "termination-log";

impl Work {
    /// Make the directories, and write down what the shim is to start.
    #[expect(
        clippy::too_many_arguments,
        reason = "everything that one container is made of, used once"
    )]
    pub(super) fn prepare(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        attempt: u32,
        image: &ResolvedImage,
        user: &User,
        sources: &Sources,
        prepared: &Prepared,
        joined: &Joined,
        ip: Option<IpAddr>,
        settings: &Settings,
        controls: &Controls,
    ) -> Result<StartContainer, StepError> {
        let config_error = |message: String| StepError {
            reason: FailureReason::CreateContainerConfigError,
            message,
        };
        let create_error = |error: io::Error| StepError {
            reason: FailureReason::CreateContainerError,
            message: error.to_string(),
        };
        let security = &container.security;
        let upper = self.state.join("upper");
        let work = self.state.join("work");
        let target = self.run.join("rootfs");
        for dir in [&self.state, &work, &target] {
            std::fs::create_dir_all(dir).map_err(create_error)?;
        }
        // The container's `/` has its mode, whatever the agent's umask is.
        path::make_directory(&upper, 0o755).map_err(|error| step(FailureReason::CreateContainerError, &error))?;
        let termination_log = self.state.join(TERMINATION_LOG);
        if !termination_log.exists() {
            path::write_new(&termination_log, 0o666)
                .map_err(|error| step(FailureReason::CreateContainerError, &error))?;
        }
        // They come and go: a privileged container gets what is there now.
        let devices = if security.privileged {
            privilege::devices(Path::new("/dev"))
        } else {
            Ok(Vec::new())
        }
        .map_err(create_error)?;
        let class = pod.runtime.class.as_deref();
        propagation::check(container, &prepared.sources, class)?;
        let capabilities =
            spec::capabilities(security, &settings.capabilities).map_err(|error| config_error(error.to_string()))?;
        let profiles = Profiles::of(security, &capabilities, &settings.seccomp_root, Path::new("/"))?;
        let input = SpecInput {
            pod,
            container,
            attempt,
            image,
            sources,
            user: ResolvedUser {
                uid: user.uid,
                gid: user.gid,
                additional_gids: user.groups.clone(),
            },
            home: &user.home,
            infra_pid: joined.infra_pid,
            target_pid: joined.target,
            first_id: joined.first_id,
            cgroup_parent: &spec::pod_cgroup(&settings.cgroup_root, pod),
            volumes: &prepared.sources,
            etc: EtcFiles {
                hosts: prepared.hosts.clone(),
                hostname: prepared.hostname.clone(),
                resolv_conf: prepared.resolv_conf.clone(),
                termination_log,
            },
            memory: settings.memory,
            pids_limit: settings.pids_limit,
            controls,
            node_name: &settings.node_name,
            place: &Place {
                node_name: settings.node_name.clone(),
                host_ips: settings.host_ips.clone(),
                pod_ips: if pod.host_network {
                    settings.host_ips.clone()
                } else {
                    ip.into_iter().collect()
                },
            },
            api: settings.api,
            allocatable: &settings.allocatable,
            capabilities: &settings.capabilities,
            host_devices: &devices,
            profiles: &profiles,
        };
        let built = spec::build(&input).map_err(|error| config_error(error.to_string()))?;
        image_volume::check_parts(pod, container, prepared, &built.sub_paths)?;
        let config = self.run.join("config.json");
        let text = spec::text(&built.spec).map_err(|error| config_error(error.to_string()))?;
        // A shim may be reading it, if it was made ready ahead.
        if std::fs::read(&config).ok().as_ref() != Some(&text) {
            std::fs::write(&config, text).map_err(create_error)?;
        }
        Ok(StartContainer {
            container: container.name.clone(),
            attempt,
            spec: config,
            rootfs: Overlay {
                lower: image.layers.iter().chain([&settings.mount_points]).cloned().collect(),
                upper,
                work,
                target,
            },
            sub_paths: built.sub_paths,
            log: self.log.clone(),
            stdin: container.stdin,
            stdin_once: container.stdin_once,
            target: joined.target.and(container.life.target.clone()),
        })
    }
}

/// Make what lies beneath every image: the places that every container has something mounted on. What an image brings
/// itself lies above and is what counts; what it does not bring need not be made on the disk at each start.
pub(super) fn make_mount_points(dir: &Path) -> io::Result<()> {
    let inside = |name: &str| dir.join(name);
    for directory in [
        dir.to_owned(),
        inside("dev"),
        inside("etc"),
        inside("proc"),
        inside("sys"),
    ] {
        path::make_directory(&directory, 0o755).map_err(io::Error::other)?;
    }
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        let file = inside(file);
        if !file.exists() {
            path::write_new(&file, 0o644)?;
        }
    }
    Ok(())
}

/// The stop signal that the container or its image asked for, as kept in the container's configuration.
pub(super) fn stop_signal(config: &Path) -> Option<i32> {
    let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(config).ok()?).ok()?;
    host::signal_number(spec.get("annotations")?.get(STOP_SIGNAL)?.as_str()?)
}

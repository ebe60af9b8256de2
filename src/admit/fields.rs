//! THE TABLE: what podd does with every field of a pod that has a choice.
//!
//! Each function takes one struct of the wire apart without leaving anything out, so a field that a newer Kubernetes
//! brings breaks the build here until someone decides. The rules of the honoured fields stand in the neighbouring
//! modules; what is refused, warned of or harmless is decided in this file alone.

use std::net::Ipv6Addr;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, EnvVar, EnvVarSource, PodSecurityContext, PodSpec, ResourceRequirements,
    SecurityContext, Volume, VolumeMount, VolumeProjection,
};

use super::fault::{Findings, Path};

/// What becomes of a field that is set.
#[derive(Clone, Copy)]
pub(super) enum Treatment {
    /// podd does what it says; its values are checked elsewhere.
    Honoured,
    /// Ignoring it changes nothing on one machine.
    Harmless,
    /// Ignoring it changes little; the client is told.
    Warned(&'static str),
    /// Ignoring it would change what runs: 422, "podd does not support ... yet".
    Refused(&'static str),
}

use Treatment::{Harmless, Honoured, Refused, Warned};

const NO_PRIORITIES: &str = "podd never preempts a pod for another: priorities change nothing";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Field, whether it is set to something of consequence, what becomes of it.
type Row = (&'static str, bool, Treatment);

fn apply(rows: &[Row], at: &Path, findings: &mut Findings) {
    for (name, set, treatment) in rows {
        if *set {
            match treatment {
                Honoured | Harmless => {}
                Warned(text) => findings.warn(&at.child(name), text),
                Refused(what) => findings.unsupported(&at.child(name), what),
            }
        }
    }
}

fn filled<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

fn given<T: Default + PartialEq>(field: Option<&T>) -> bool {
    field.is_some_and(|value| *value != T::default())
}

fn other_than(field: Option<&String>, usual: &[&str]) -> bool {
    field.is_some_and(|value| !value.is_empty() && !usual.contains(&value.as_str()))
}

pub(super) fn pod_spec(spec: &PodSpec, at: &Path, findings: &mut Findings) {
    let PodSpec {
        active_deadline_seconds,
        affinity,
        automount_service_account_token,
        containers: _,
        dns_config,
        dns_policy,
        enable_service_links,
        ephemeral_containers,
        host_aliases,
        host_ipc,
        host_network,
        host_pid,
        host_users,
        hostname,
        hostname_override,
        image_pull_secrets,
        init_containers,
        node_name,
        node_selector,
        os,
        overhead,
        preemption_policy,
        priority,
        priority_class_name,
        readiness_gates,
        resource_claims,
        resources,
        restart_policy,
        runtime_class_name,
        scheduler_name,
        scheduling_gates,
        scheduling_group,
        security_context,
        service_account,
        service_account_name,
        set_hostname_as_fqdn,
        share_process_namespace,
        subdomain,
        termination_grace_period_seconds,
        tolerations,
        topology_spread_constraints,
        volumes,
    } = spec;
    apply(
        &[
            ("activeDeadlineSeconds", active_deadline_seconds.is_some(), Honoured),
            // What it requires of its neighbours is refused by `affinity` below; preferences have one node to choose from.
            ("affinity", given(affinity.as_ref()), Honoured),
            (
                "automountServiceAccountToken",
                automount_service_account_token.is_some(),
                Honoured,
            ),
            ("containers", true, Honoured),
            ("dnsConfig", dns_config.is_some(), Honoured),
            ("dnsPolicy", dns_policy.is_some(), Honoured),
            // There are no Services whose variables could be set.
            ("enableServiceLinks", enable_service_links.is_some(), Harmless),
            ("ephemeralContainers", filled(ephemeral_containers.as_ref()), Honoured),
            ("hostAliases", filled(host_aliases.as_ref()), Honoured),
            ("hostIPC", *host_ipc == Some(true), Honoured),
            ("hostNetwork", *host_network == Some(true), Honoured),
            ("hostPID", *host_pid == Some(true), Honoured),
            ("hostUsers", *host_users == Some(false), Honoured),
            ("hostname", hostname.is_some(), Honoured),
            ("hostnameOverride", hostname_override.is_some(), Honoured),
            ("imagePullSecrets", filled(image_pull_secrets.as_ref()), Honoured),
            ("initContainers", filled(init_containers.as_ref()), Honoured),
            ("nodeName", node_name.is_some(), Honoured),
            ("nodeSelector", node_selector.is_some(), Honoured),
            ("os", os.is_some(), Honoured),
            ("overhead", overhead.is_some(), Honoured),
            ("preemptionPolicy", preemption_policy.is_some(), Harmless),
            ("priority", priority.is_some_and(|p| p != 0), Warned(NO_PRIORITIES)),
            (
                "priorityClassName",
                other_than(priority_class_name.as_ref(), &[]),
                Warned(NO_PRIORITIES),
            ),
            ("readinessGates", filled(readiness_gates.as_ref()), Honoured),
            (
                "resourceClaims",
                filled(resource_claims.as_ref()),
                Refused("resource claims"),
            ),
            ("resources", resources.is_some(), Honoured),
            ("restartPolicy", restart_policy.is_some(), Honoured),
            ("runtimeClassName", runtime_class_name.is_some(), Honoured),
            ("schedulerName", scheduler_name.is_some(), Honoured),
            ("schedulingGates", filled(scheduling_gates.as_ref()), Honoured),
            (
                "schedulingGroup",
                scheduling_group.is_some(),
                Refused("scheduling groups"),
            ),
            ("securityContext", security_context.is_some(), Honoured),
            ("serviceAccount", service_account.is_some(), Honoured),
            ("serviceAccountName", service_account_name.is_some(), Honoured),
            ("setHostnameAsFQDN", *set_hostname_as_fqdn == Some(true), Honoured),
            ("shareProcessNamespace", share_process_namespace.is_some(), Honoured),
            ("subdomain", subdomain.is_some(), Honoured),
            (
                "terminationGracePeriodSeconds",
                termination_grace_period_seconds.is_some(),
                Honoured,
            ),
            ("tolerations", filled(tolerations.as_ref()), Honoured),
            // On one node nothing can be spread.
            (
                "topologySpreadConstraints",
                filled(topology_spread_constraints.as_ref()),
                Harmless,
            ),
            ("volumes", filled(volumes.as_ref()), Honoured),
        ],
        at,
        findings,
    );
    affinity_terms(affinity.as_ref(), &at.child("affinity"), findings);
}

/// What a pod requires of its neighbours would decide whether it runs at all.
fn affinity_terms(affinity: Option<&Affinity>, at: &Path, findings: &mut Findings) {
    let Some(Affinity {
        // Honoured; its rules stand in `placement.rs`.
        node_affinity: _,
        pod_affinity,
        pod_anti_affinity,
    }) = affinity
    else {
        return;
    };
    let to_pods = pod_affinity.as_ref();
    let from_pods = pod_anti_affinity.as_ref();
    for (child, set) in [
        (
            "podAffinity",
            to_pods.is_some_and(|a| filled(a.required_during_scheduling_ignored_during_execution.as_ref())),
        ),
        (
            "podAntiAffinity",
            from_pods.is_some_and(|a| filled(a.required_during_scheduling_ignored_during_execution.as_ref())),
        ),
    ] {
        apply(
            &[(REQUIRED, set, Refused("required affinities to pods"))],
            &at.child(child),
            findings,
        );
    }
}

pub(super) fn container(container: &Container, at: &Path, findings: &mut Findings) {
    let Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name: _,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = container;
    apply(
        &[
            ("args", args.is_some(), Honoured),
            ("command", command.is_some(), Honoured),
            ("env", env.is_some(), Honoured),
            ("envFrom", filled(env_from.as_ref()), Honoured),
            ("image", image.is_some(), Honoured),
            ("imagePullPolicy", image_pull_policy.is_some(), Honoured),
            ("lifecycle", lifecycle.is_some(), Honoured),
            ("livenessProbe", liveness_probe.is_some(), Honoured),
            ("name", true, Honoured),
            ("ports", ports.is_some(), Honoured),
            ("readinessProbe", readiness_probe.is_some(), Honoured),
            ("resizePolicy", filled(resize_policy.as_ref()), Honoured),
            ("resources", resources.is_some(), Honoured),
            ("restartPolicy", other_than(restart_policy.as_ref(), &[]), Honoured),
            ("restartPolicyRules", filled(restart_policy_rules.as_ref()), Honoured),
            ("securityContext", security_context.is_some(), Honoured),
            ("startupProbe", startup_probe.is_some(), Honoured),
            ("stdin", stdin.is_some(), Honoured),
            ("stdinOnce", stdin_once.is_some(), Honoured),
            ("terminationMessagePath", termination_message_path.is_some(), Honoured),
            (
                "terminationMessagePolicy",
                termination_message_policy.is_some(),
                Honoured,
            ),
            ("tty", tty.is_some(), Honoured),
            (
                "volumeDevices",
                filled(volume_devices.as_ref()),
                Refused("block devices as volumes"),
            ),
            ("volumeMounts", volume_mounts.is_some(), Honoured),
            ("workingDir", working_dir.is_some(), Honoured),
        ],
        at,
        findings,
    );
}

pub(super) fn env(variable: &EnvVar, at: &Path, findings: &mut Findings) {
    let EnvVar {
        name: _,
        value,
        value_from,
    } = variable;
    apply(
        &[
            ("name", true, Honoured),
            ("value", value.is_some(), Honoured),
            ("valueFrom", value_from.is_some(), Honoured),
        ],
        at,
        findings,
    );
}

pub(super) fn env_source(source: &EnvVarSource, at: &Path, findings: &mut Findings) {
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = source;
    apply(
        &[
            ("configMapKeyRef", config_map_key_ref.is_some(), Honoured),
            ("fieldRef", field_ref.is_some(), Honoured),
            (
                "fileKeyRef",
                file_key_ref.is_some(),
                Refused("variables from files of volumes"),
            ),
            ("resourceFieldRef", resource_field_ref.is_some(), Honoured),
            ("secretKeyRef", secret_key_ref.is_some(), Honoured),
        ],
        at,
        findings,
    );
}

pub(super) fn port(port: &ContainerPort, host_network: bool, at: &Path, findings: &mut Findings) {
    let ContainerPort {
        container_port: _,
        host_ip,
        host_port,
        name,
        protocol,
    } = port;
    apply(
        &[
            ("containerPort", true, Honoured),
            // A process on the host's network listens where it likes.
            (
                "hostIP",
                host_network && other_than(host_ip.as_ref(), &["0.0.0.0", "::"]),
                Warned("with hostNetwork the process itself decides on which addresses it listens"),
            ),
            (
                "hostIP",
                // Pods have none, and no port leads from one family to the other.
                !host_network && host_ip.as_deref().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
                Refused("IPv6 addresses of the host"),
            ),
            // On the host's network the port is the host's by itself.
            ("hostPort", host_port.is_some_and(|p| p != 0), Honoured),
            ("name", name.is_some(), Honoured),
            ("protocol", protocol.is_some(), Honoured),
        ],
        at,
        findings,
    );
}

pub(super) fn volume_mount(mount: &VolumeMount, at: &Path, findings: &mut Findings) {
    let VolumeMount {
        mount_path: _,
        mount_propagation,
        name: _,
        read_only,
        recursive_read_only,
        sub_path,
        sub_path_expr,
    } = mount;
    apply(
        &[
            ("mountPath", true, Honoured),
            (
                "mountPropagation",
                other_than(mount_propagation.as_ref(), &["None"]),
                Honoured,
            ),
            ("name", true, Honoured),
            ("readOnly", read_only.is_some(), Honoured),
            ("recursiveReadOnly", recursive_read_only.is_some(), Honoured),
            ("subPath", sub_path.is_some(), Honoured),
            ("subPathExpr", sub_path_expr.is_some(), Honoured),
        ],
        at,
        findings,
    );
}

/// `of_pod`: of the pod as a whole, which can have no claims at all.
pub(super) fn resources(resources: &ResourceRequirements, of_pod: bool, at: &Path, findings: &mut Findings) {
    let ResourceRequirements {
        claims,
        limits,
        requests,
    } = resources;
    apply(
        &[
            ("claims", !of_pod && filled(claims.as_ref()), Refused("resource claims")),
            ("limits", limits.is_some(), Honoured),
            ("requests", requests.is_some(), Honoured),
        ],
        at,
        findings,
    );
}

pub(super) fn pod_security(context: &PodSecurityContext, at: &Path, findings: &mut Findings) {
    let PodSecurityContext {
        app_armor_profile,
        fs_group,
        fs_group_change_policy,
        run_as_group,
        run_as_non_root,
        run_as_user,
        se_linux_change_policy,
        se_linux_options,
        seccomp_profile,
        supplemental_groups,
        supplemental_groups_policy,
        sysctls,
        windows_options,
    } = context;
    apply(
        &[
            ("appArmorProfile", app_armor_profile.is_some(), Honoured),
            ("fsGroup", fs_group.is_some(), Honoured),
            // It is about volumes of other kinds than podd has: "no effect on ephemeral volume types such as: secret,
            // configmaps and emptydir" (Kubernetes `core/v1/types.go`).
            ("fsGroupChangePolicy", fs_group_change_policy.is_some(), Harmless),
            // It only says how something is to be done that is refused itself.
            ("seLinuxChangePolicy", se_linux_change_policy.is_some(), Harmless),
            ("runAsGroup", run_as_group.is_some(), Honoured),
            ("runAsNonRoot", run_as_non_root.is_some(), Honoured),
            ("runAsUser", run_as_user.is_some(), Honoured),
            (
                "seLinuxOptions",
                given(se_linux_options.as_ref()),
                Refused("SELinux labels"),
            ),
            ("seccompProfile", seccomp_profile.is_some(), Honoured),
            ("supplementalGroups", supplemental_groups.is_some(), Honoured),
            (
                "supplementalGroupsPolicy",
                supplemental_groups_policy.is_some(),
                Honoured,
            ),
            ("sysctls", filled(sysctls.as_ref()), Honoured),
            (
                "windowsOptions",
                given(windows_options.as_ref()),
                Refused("Windows options"),
            ),
        ],
        at,
        findings,
    );
}

pub(super) fn container_security(context: &SecurityContext, at: &Path, findings: &mut Findings) {
    let SecurityContext {
        allow_privilege_escalation,
        app_armor_profile,
        capabilities,
        privileged,
        proc_mount,
        read_only_root_filesystem,
        run_as_group,
        run_as_non_root,
        run_as_user,
        se_linux_options,
        seccomp_profile,
        windows_options,
    } = context;
    apply(
        &[
            (
                "allowPrivilegeEscalation",
                allow_privilege_escalation.is_some(),
                Honoured,
            ),
            ("appArmorProfile", app_armor_profile.is_some(), Honoured),
            ("capabilities", capabilities.is_some(), Honoured),
            ("privileged", privileged.is_some(), Honoured),
            ("procMount", proc_mount.is_some(), Honoured),
            ("readOnlyRootFilesystem", read_only_root_filesystem.is_some(), Honoured),
            ("runAsGroup", run_as_group.is_some(), Honoured),
            ("runAsNonRoot", run_as_non_root.is_some(), Honoured),
            ("runAsUser", run_as_user.is_some(), Honoured),
            (
                "seLinuxOptions",
                given(se_linux_options.as_ref()),
                Refused("SELinux labels"),
            ),
            ("seccompProfile", seccomp_profile.is_some(), Honoured),
            (
                "windowsOptions",
                given(windows_options.as_ref()),
                Refused("Windows options"),
            ),
        ],
        at,
        findings,
    );
}

/// Every source a volume may have: its name, whether it is set, and what becomes of it.
pub(super) fn volume_sources(volume: &Volume) -> [Row; 30] {
    let Volume {
        aws_elastic_block_store,
        azure_disk,
        azure_file,
        cephfs,
        cinder,
        config_map,
        csi,
        downward_api,
        empty_dir,
        ephemeral,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        host_path,
        image,
        iscsi,
        name: _,
        nfs,
        persistent_volume_claim,
        photon_persistent_disk,
        portworx_volume,
        projected,
        quobyte,
        rbd,
        scale_io,
        secret,
        storageos,
        vsphere_volume,
    } = volume;
    [
        (
            "awsElasticBlockStore",
            aws_elastic_block_store.is_some(),
            Refused("awsElasticBlockStore volumes"),
        ),
        ("azureDisk", azure_disk.is_some(), Refused("azureDisk volumes")),
        ("azureFile", azure_file.is_some(), Refused("azureFile volumes")),
        ("cephfs", cephfs.is_some(), Refused("cephfs volumes")),
        ("cinder", cinder.is_some(), Refused("cinder volumes")),
        ("configMap", config_map.is_some(), Honoured),
        ("csi", csi.is_some(), Refused("csi volumes")),
        ("downwardAPI", downward_api.is_some(), Honoured),
        ("emptyDir", empty_dir.is_some(), Honoured),
        ("ephemeral", ephemeral.is_some(), Refused("ephemeral volumes")),
        ("fc", fc.is_some(), Refused("fc volumes")),
        ("flexVolume", flex_volume.is_some(), Refused("flexVolume volumes")),
        ("flocker", flocker.is_some(), Refused("flocker volumes")),
        (
            "gcePersistentDisk",
            gce_persistent_disk.is_some(),
            Refused("gcePersistentDisk volumes"),
        ),
        ("gitRepo", git_repo.is_some(), Refused("gitRepo volumes")),
        ("glusterfs", glusterfs.is_some(), Refused("glusterfs volumes")),
        ("hostPath", host_path.is_some(), Honoured),
        ("image", image.is_some(), Honoured),
        ("iscsi", iscsi.is_some(), Refused("iscsi volumes")),
        ("nfs", nfs.is_some(), Refused("nfs volumes")),
        (
            "persistentVolumeClaim",
            persistent_volume_claim.is_some(),
            Refused("persistentVolumeClaim volumes"),
        ),
        (
            "photonPersistentDisk",
            photon_persistent_disk.is_some(),
            Refused("photonPersistentDisk volumes"),
        ),
        (
            "portworxVolume",
            portworx_volume.is_some(),
            Refused("portworxVolume volumes"),
        ),
        ("projected", projected.is_some(), Honoured),
        ("quobyte", quobyte.is_some(), Refused("quobyte volumes")),
        ("rbd", rbd.is_some(), Refused("rbd volumes")),
        ("scaleIO", scale_io.is_some(), Refused("scaleIO volumes")),
        ("secret", secret.is_some(), Honoured),
        ("storageos", storageos.is_some(), Refused("storageos volumes")),
        (
            "vsphereVolume",
            vsphere_volume.is_some(),
            Refused("vsphereVolume volumes"),
        ),
    ]
}

/// Every source of a projected volume.
pub(super) fn volume_projection(source: &VolumeProjection, at: &Path, findings: &mut Findings) {
    let VolumeProjection {
        cluster_trust_bundle,
        config_map,
        downward_api,
        pod_certificate,
        secret,
        service_account_token,
    } = source;
    apply(
        &[
            (
                "clusterTrustBundle",
                cluster_trust_bundle.is_some(),
                Refused("cluster trust bundles"),
            ),
            ("configMap", config_map.is_some(), Honoured),
            ("downwardAPI", downward_api.is_some(), Honoured),
            ("podCertificate", pod_certificate.is_some(), Refused("pod certificates")),
            ("secret", secret.is_some(), Honoured),
            ("serviceAccountToken", service_account_token.is_some(), Honoured),
        ],
        at,
        findings,
    );
}

//! Capabilities as bits.

use std::collections::HashSet;

use nix::errno::Errno;
use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::sys::{self, CapSets};

/// What a process shall be left with, each as one bit for each capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) bounding: u64,
    pub(super) sets: CapSets,
    pub(super) ambient: u64,
}

impl Capabilities {
    /// The spec's sets, without those that `available` (our own permitted set) has not: nobody can give what he has not,
    /// and a missing one must not keep a pod from running.
    pub(super) fn of(spec: Option<&LinuxCapabilities>, available: u64) -> Self {
        let Some(spec) = spec else {
            return Self::default();
        };
        let bounding = mask(spec.bounding().as_ref()) & available;
        let permitted = mask(spec.permitted().as_ref()) & available;
        let inheritable = mask(spec.inheritable().as_ref()) & available;
        let effective = mask(spec.effective().as_ref()) & permitted;
        // The kernel wants an ambient capability to be permitted and inheritable.
        let ambient = mask(spec.ambient().as_ref()) & permitted & inheritable;
        Self {
            bounding,
            sets: CapSets {
                effective,
                permitted,
                inheritable,
            },
            ambient,
        }
    }
}

/// The capabilities this process may hand on.
pub(super) fn available() -> Result<u64, Errno> {
    Ok(sys::capget()?.permitted)
}

fn mask(set: Option<&HashSet<Capability>>) -> u64 {
    set.into_iter()
        .flatten()
        .map(|capability| 1 << number(*capability))
        .fold(0, |bits, bit: u64| bits | bit)
}

/// include/uapi/linux/capability.h
pub(super) fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxCapabilitiesBuilder;

    fn set(capabilities: &[Capability]) -> HashSet<Capability> {
        capabilities.iter().copied().collect()
    }

    #[test]
    fn what_is_not_available_is_left_out_of_every_set() {
        let spec = LinuxCapabilitiesBuilder::default()
            .bounding(set(&[Capability::Chown, Capability::SysResource]))
            .permitted(set(&[Capability::Chown, Capability::SysResource]))
            .effective(set(&[Capability::Chown, Capability::SysResource]))
            .build()
            .unwrap();
        let capabilities = Capabilities::of(Some(&spec), !(1 << number(Capability::SysResource)));
        assert_eq!(capabilities.bounding, 1);
        assert_eq!(capabilities.sets.permitted, 1);
        assert_eq!(capabilities.sets.effective, 1);
    }

    #[test]
    fn an_ambient_capability_must_be_permitted_and_inheritable() {
        let net = set(&[Capability::NetBindService]);
        let spec = LinuxCapabilitiesBuilder::default()
            .permitted(net.clone())
            .ambient(net.clone())
            .inheritable(set(&[]));
        assert_eq!(Capabilities::of(Some(&spec.build().unwrap()), u64::MAX).ambient, 0);
        let spec = LinuxCapabilitiesBuilder::default()
            .permitted(net.clone())
            .ambient(net.clone())
            .inheritable(net);
        assert_eq!(
            Capabilities::of(Some(&spec.build().unwrap()), u64::MAX).ambient,
            1 << 10
        );
    }

    #[test]
    fn none_given_means_none_left() {
        assert_eq!(Capabilities::of(None, u64::MAX), Capabilities::default());
    }
}

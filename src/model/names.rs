//! What a pod is called by its own processes, and what it is known by.

use super::PodSpec;

/// What a kubelet without a cluster domain of its own is given everywhere.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The annotation of a pod that stands for a file of the machine (a static pod); its value is that file's hash.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Linux' `__NEW_UTS_LEN`.
const NAME_MAX: usize = 64;

/// The kernel has no room for the whole name. The words are the kubelet's (`pkg/kubelet/util/nodename GetNodenameForKernel`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({NAME_MAX} characters is \
     the max, {} characters requested)",
    name.len()
)]
pub struct NameTooLong {
    pub name: String,
}

impl PodSpec {
    /// The name with its domain, where `subdomain` gives it one.
    pub fn fqdn(&self) -> Option<String> {
        let subdomain = self.subdomain.as_ref()?;
        let Self {
            hostname, namespace, ..
        } = self;
        Some(format!("{hostname}.{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}"))
    }

    /// What the kernel tells the pod's processes that they run on: the short name or, with `setHostnameAsFQDN`, the whole.
    ///
    /// # Errors
    /// [`NameTooLong`]
    pub fn kernel_name(&self) -> Result<String, NameTooLong> {
        match self.fqdn().filter(|_| self.isolation.hostname_is_fqdn) {
            Some(name) if name.len() > NAME_MAX => Err(NameTooLong { name }),
            Some(name) => Ok(name),
            None => Ok(self.hostname.clone()),
        }
    }
}

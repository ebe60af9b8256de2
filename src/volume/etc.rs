//! What containers find in `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, as a kubelet writes it.
//!
//! Goes in: the pod and the node's own files. Comes out: text. Nothing here reads or writes a file but
//! [`EtcContext::of_node`].

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::model::{DnsPolicy, DnsSpec, HostAlias, PodSpec};

/// Kubernetes `kubelet_pods.go managedHostsHeader`.
const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";

/// Kubernetes `apis/core/validation MaxDNSNameservers`, `MaxDNSSearchPaths`, `MaxDNSSearchListChars`.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
/// `DNS1123SubdomainMaxLength`: some resolvers abort on a longer one.
const MAX_SEARCH_LENGTH: usize = 253;

/// Where systemd-resolved keeps the real name servers, when `/etc/resolv.conf` names only itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What the files depend on beside the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcContext {
    /// The pod's address; `None` with the host's network.
    pub ip: Option<IpAddr>,
    /// The host name of a pod with the host's network.
    pub node_name: String,
    /// The node's `/etc/hosts`.
    pub node_hosts: String,
    /// The node's `resolv.conf`: with the host's network the very file, else one without a resolver on loopback
    /// where there is such a file.
    pub node_resolv_conf: String,
}

impl EtcContext {
    /// Read the node's own files. One that is not there counts as empty.
    pub fn of_node(ip: Option<IpAddr>, node_name: String) -> Self {
        let mut resolv_conf = read(Path::new("/etc/resolv.conf"));
        if ip.is_some() && only_loopback(&resolv_conf) {
            let real = read(Path::new(RESOLVED));
            if !real.is_empty() {
                resolv_conf = real;
            }
        }
        Self {
            ip,
            node_name,
            node_hosts: read(Path::new("/etc/hosts")),
            node_resolv_conf: resolv_conf,
        }
    }
}

fn read(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "cannot read a file of the node: it counts as empty");
            }
            String::new()
        }
    }
}

/// All its name servers are the node's own, which no pod reaches under that address.
fn only_loopback(resolv_conf: &str) -> bool {
    let servers = Resolver::parse(resolv_conf).nameservers;
    !servers.is_empty()
        && servers
            .iter()
            .all(|s| s.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

/// `/etc/hosts`: Kubernetes `kubelet_pods.go managedHostsFileContent` and `nodeHostsFileContent`.
pub fn hosts(pod: &PodSpec, context: &EtcContext) -> String {
    if pod.host_network {
        return format!(
            "{HEADER_HOST_NETWORK}{}{}",
            context.node_hosts,
            aliases(&pod.host_aliases)
        );
    }
    let mut text = HEADER.to_owned();
    text.push_str(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    if let Some(ip) = context.ip {
        let name = &pod.hostname;
        let _ = match pod.fqdn() {
            Some(whole) => writeln!(text, "{ip}\t{whole}\t{name}"),
            None => writeln!(text, "{ip}\t{name}"),
        };
    }
    text.push_str(&aliases(&pod.host_aliases));
    text
}

fn aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
    }
    text
}

/// `/etc/hostname`: what the kernel says, too.
pub fn hostname(pod: &PodSpec, context: &EtcContext) -> String {
    let name = if pod.host_network {
        context.node_name.clone()
    } else {
        // One that is too long for the kernel has no sandbox.
        pod.kernel_name().unwrap_or_else(|_| pod.hostname.clone())
    };
    format!("{name}\n")
}

/// `/etc/resolv.conf`: Kubernetes `network/dns/dns.go GetPodDNS`, written as containerd writes it.
pub fn resolv_conf(dns: &DnsSpec, context: &EtcContext) -> String {
    let mut resolver = match dns.policy {
        DnsPolicy::Default => Resolver::parse(&context.node_resolv_conf),
        DnsPolicy::None => Resolver::default(),
    };
    resolver.append(dns);
    resolver.limit();
    resolver.to_text()
}

/// The content of a `resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// `dns.go parseResolvConf`: the last `search` line counts, `options` add up, everything else is passed over.
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = words.map(search_domain).collect(),
                Some("options") => resolver.merge_options(words),
                Some(_) | None => {}
            }
        }
        resolver
    }

    /// `dns.go appendDNSConfig`.
    fn append(&mut self, dns: &DnsSpec) {
        self.nameservers.extend(dns.nameservers.iter().cloned());
        self.nameservers = without_duplicates(&self.nameservers);
        self.searches.extend(dns.searches.iter().cloned());
        self.searches = without_duplicates(&self.searches);
        self.merge_options(dns.options.iter().map(String::as_str));
    }

    /// `dns.go mergeDNSOptions`: an option of the same name takes the older one's place.
    fn merge_options<'a>(&mut self, options: impl Iterator<Item = &'a str>) {
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        for option in options {
            match self.options.iter_mut().find(|old| name(old) == name(option)) {
                Some(old) => option.clone_into(old),
                None => self.options.push(option.to_owned()),
            }
        }
    }

    /// `dns.go formDNSConfigFitsLimits`: what is too much is left out, from the end.
    fn limit(&mut self) {
        self.nameservers.truncate(MAX_NAMESERVERS);
        self.searches.truncate(MAX_SEARCHES);
        self.searches.retain(|search| search.len() <= MAX_SEARCH_LENGTH);
        let mut length = 0;
        let fits = self.searches.iter().take_while(|search| {
            length += search.len() + 1;
            length - 1 <= MAX_SEARCH_CHARS
        });
        let fits = fits.count();
        self.searches.truncate(fits);
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// A domain counts once, with its final dot or without.
fn search_domain(word: &str) -> String {
    if word == "." {
        word.to_owned()
    } else {
        word.strip_suffix('.').unwrap_or(word).to_owned()
    }
}

fn without_duplicates(words: &[String]) -> Vec<String> {
    let mut seen = Vec::new();
    for word in words {
        if !seen.contains(word) {
            seen.push(word.clone());
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::pod;
    use super::*;

    fn dns(policy: DnsPolicy, nameservers: &[&str], searches: &[&str], options: &[&str]) -> DnsSpec {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        DnsSpec {
            policy,
            nameservers: owned(nameservers),
            searches: owned(searches),
            options: owned(options),
        }
    }

    fn context(resolv_conf: &str) -> EtcContext {
        EtcContext {
            ip: Some("10.244.0.7".parse().unwrap()),
            node_name: "node-1".to_owned(),
            node_hosts: "127.0.0.1 localhost\n192.0.2.1 node-1\n".to_owned(),
            node_resolv_conf: resolv_conf.to_owned(),
        }
    }

    fn with_aliases(mut pod: PodSpec) -> PodSpec {
        let alias = |ip: &str, names: &[&str]| HostAlias {
            ip: ip.parse().unwrap(),
            hostnames: names.iter().map(|&name| name.to_owned()).collect(),
        };
        pod.host_aliases = vec![alias("10.1.2.3", &["foo", "foo.local"]), alias("fd00::1", &["bar"])];
        pod
    }

    #[test]
    fn hosts_of_a_pod() {
        insta::assert_snapshot!(hosts(&pod(), &context("")).replace('\t', "<TAB>"), @r"
        # Kubernetes-managed hosts file.
        127.0.0.1<TAB>localhost
        ::1<TAB>localhost ip6-localhost ip6-loopback
        fe00::0<TAB>ip6-localnet
        fe00::0<TAB>ip6-mcastprefix
        fe00::1<TAB>ip6-allnodes
        fe00::2<TAB>ip6-allrouters
        10.244.0.7<TAB>web
        ");
    }

    #[test]
    fn hosts_with_a_subdomain_and_aliases() {
        let pod = PodSpec {
            subdomain: Some("sub".to_owned()),
            ..with_aliases(pod())
        };
        insta::assert_snapshot!(hosts(&pod, &context("")).replace('\t', "<TAB>"), @r"
        # Kubernetes-managed hosts file.
        127.0.0.1<TAB>localhost
        ::1<TAB>localhost ip6-localhost ip6-loopback
        fe00::0<TAB>ip6-localnet
        fe00::0<TAB>ip6-mcastprefix
        fe00::1<TAB>ip6-allnodes
        fe00::2<TAB>ip6-allrouters
        10.244.0.7<TAB>web.sub.default.svc.cluster.local<TAB>web

        # Entries added by HostAliases.
        10.1.2.3<TAB>foo<TAB>foo.local
        fd00::1<TAB>bar
        ");
    }

    #[test]
    fn with_the_hosts_network_the_files_are_the_hosts() {
        let pod = PodSpec {
            host_network: true,
            ..with_aliases(pod())
        };
        let context = EtcContext {
            ip: None,
            ..context("")
        };
        insta::assert_snapshot!(hosts(&pod, &context).replace('\t', "<TAB>"), @r"
        # Kubernetes-managed hosts file (host network).
        127.0.0.1 localhost
        192.0.2.1 node-1

        # Entries added by HostAliases.
        10.1.2.3<TAB>foo<TAB>foo.local
        fd00::1<TAB>bar
        ");
        assert_eq!(hostname(&pod, &context), "node-1\n");
        assert_eq!(hostname(&super::super::tests::pod(), &context), "web\n");
    }

    #[test]
    fn the_default_policy_is_the_nodes_resolver_and_what_the_pod_adds() {
        let node = "# made by hand\ndomain ignored.example\nsearch old.example\n\tnameserver 192.0.2.53 \nnameserver\n\
                    search a.example. b.example .\noptions ndots:5 timeout:1\noptions ndots:1\n";
        let plain = dns(DnsPolicy::Default, &[], &[], &[]);
        insta::assert_snapshot!(resolv_conf(&plain, &context(node)), @r"
        search a.example b.example .
        nameserver 192.0.2.53
        options ndots:1 timeout:1
        ");
        let more = dns(
            DnsPolicy::Default,
            &["192.0.2.54", "192.0.2.53", "192.0.2.55", "192.0.2.56"],
            &["b.example", "c.example"],
            &["timeout:9", "edns0"],
        );
        insta::assert_snapshot!(resolv_conf(&more, &context(node)), @r"
        search a.example b.example . c.example
        nameserver 192.0.2.53
        nameserver 192.0.2.54
        nameserver 192.0.2.55
        options ndots:1 timeout:9 edns0
        ");
    }

    #[test]
    fn the_policy_none_is_only_what_the_pod_says() {
        let node = "nameserver 192.0.2.53\nsearch node.example\n";
        let own = dns(DnsPolicy::None, &["1.2.3.4"], &["a.example"], &["ndots:2"]);
        let text = resolv_conf(&own, &context(node));
        assert_eq!(text, "search a.example\nnameserver 1.2.3.4\noptions ndots:2\n");
        assert_eq!(resolv_conf(&dns(DnsPolicy::None, &[], &[], &[]), &context(node)), "");
    }

    #[test]
    fn a_resolver_on_loopback_is_known() {
        assert!(only_loopback("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(only_loopback("nameserver 127.0.0.1\nnameserver ::1\n"));
        assert!(!only_loopback("nameserver 127.0.0.1\nnameserver 192.0.2.1\n"));
        assert!(!only_loopback(""));
    }

    proptest! {
        #[test]
        fn limits_hold_and_the_beginning_is_kept(
            servers in prop::collection::vec("[0-9]{1,3}", 0..8),
            searches in prop::collection::vec("[a-z]{1,300}", 0..60),
        ) {
            let all = DnsSpec { policy: DnsPolicy::None, nameservers: servers, searches, options: Vec::new() };
            let text = resolv_conf(&all, &context(""));
            let result = Resolver::parse(&text);
            prop_assert!(result.nameservers.len() <= 3 && result.searches.len() <= 32);
            prop_assert!(result.searches.join(" ").len() <= 2048);
            prop_assert!(result.searches.iter().all(|search| search.len() <= 253));
            let wanted: Vec<_> = without_duplicates(&all.searches).into_iter().take(32).filter(|s| s.len() <= 253).collect();
            prop_assert_eq!(&result.searches[..], &wanted[..result.searches.len()]);
            if let Some(next) = wanted.get(result.searches.len()) {
                prop_assert!(result.searches.join(" ").len() + 1 + next.len() > 2048);
            }
            prop_assert!(without_duplicates(&all.nameservers).starts_with(&result.nameservers));
        }
    }
}

//! The files of /etc that a kubelet writes for a pod: pure text.
//!
//! Kubernetes `pkg/kubelet/kubelet_pods.go` (hosts) and `pkg/kubelet/network/dns/dns.go` (resolv.conf).

use super::EtcContext;
use crate::model::{DnsPolicy, PodSpec};

/// Kubernetes `MaxDNSNameservers`, `MaxDNSSearchPaths`, `MaxDNSSearchListChars`.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_CHARACTERS_MAX: usize = 2048;

pub(super) fn hosts(pod: &PodSpec, context: &EtcContext) -> String {
    let mut text = String::new();
    if pod.host_network {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(&context.hosts);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        if let Some(ip) = context.ip {
            // A subdomain has a domain only where there is a cluster domain: podd has none.
            text.push_str(&format!("{ip}\t{}\n", pod.hostname));
        }
    }
    if !pod.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.host_aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
    }
    text
}

pub(super) fn hostname(pod: &PodSpec, context: &EtcContext) -> String {
    let name = if pod.host_network {
        &context.node_name
    } else {
        &pod.hostname
    };
    format!("{name}\n")
}

pub(super) fn resolv_conf(pod: &PodSpec, context: &EtcContext) -> String {
    let mut settings = match pod.dns.policy {
        DnsPolicy::Default => Resolver::parse(&context.resolv_conf),
        DnsPolicy::None => Resolver::default(),
    };
    append(&mut settings.nameservers, &pod.dns.nameservers);
    append(&mut settings.searches, &pod.dns.searches);
    for option in &pod.dns.options {
        let name = option.split(':').next().unwrap_or(option);
        settings.options.retain(|known| known.split(':').next() != Some(name));
        settings.options.push(option.clone());
    }
    settings.nameservers.truncate(NAMESERVERS_MAX);
    settings.searches.truncate(SEARCHES_MAX);
    while settings.searches.join(" ").len() > SEARCHES_CHARACTERS_MAX {
        settings.searches.pop();
    }
    settings.text()
}

fn append(to: &mut Vec<String>, from: &[String]) {
    for value in from {
        if !to.contains(value) {
            to.push(value.clone());
        }
    }
}

/// resolv.conf(5), as far as a kubelet reads it.
#[derive(Debug, Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.nameservers.extend(words.next().map(str::to_owned)),
                // The last one counts.
                Some("search") => found.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect(),
                Some("options") => append(&mut found.options, &words.map(str::to_owned).collect::<Vec<_>>()),
                _ => {}
            }
        }
        found.searches.retain(|search| !search.is_empty());
        found
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for nameserver in &self.nameservers {
            text.push_str(&format!("nameserver {nameserver}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use crate::model::HostAlias;
    use crate::reconcile::testing;

    use super::*;

    fn context() -> EtcContext {
        EtcContext {
            ip: Some("10.0.0.7".parse().unwrap()),
            resolv_conf: "# of the machine\nnameserver 9.9.9.9\nsearch a.example b.example.\noptions edns0 ndots:1\n"
                .to_owned(),
            hosts: "127.0.0.1 localhost\n1.1.1.1 machine".to_owned(),
            node_name: "node-1".to_owned(),
        }
    }

    #[test]
    fn hosts_is_a_kubelets() {
        let mut pod = testing::pod(crate::model::RestartPolicy::Always, &["c"]);
        pod.hostname = "web".to_owned();
        pod.host_aliases = vec![HostAlias {
            ip: "1.2.3.4".parse().unwrap(),
            hostnames: vec!["foo".to_owned(), "bar".to_owned()],
        }];
        assert_eq!(
            hosts(&pod, &context()),
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
             10.0.0.7\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n"
        );
        pod.host_network = true;
        pod.host_aliases.clear();
        assert_eq!(
            hosts(&pod, &context()),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n1.1.1.1 machine\n"
        );
        assert_eq!(hostname(&pod, &context()), "node-1\n");
    }

    #[test]
    fn the_pods_dns_settings_come_after_the_machines_and_its_options_win() {
        let mut pod = testing::pod(crate::model::RestartPolicy::Always, &["c"]);
        pod.dns.searches = vec!["c.example".to_owned(), "a.example".to_owned()];
        pod.dns.nameservers = vec!["1.1.1.1".to_owned(), "2.2.2.2".to_owned(), "3.3.3.3".to_owned()];
        pod.dns.options = vec!["ndots:5".to_owned()];
        assert_eq!(
            resolv_conf(&pod, &context()),
            "search a.example b.example c.example\nnameserver 9.9.9.9\nnameserver 1.1.1.1\nnameserver 2.2.2.2\n\
             options edns0 ndots:5\n"
        );
        pod.dns.policy = DnsPolicy::None;
        assert_eq!(
            resolv_conf(&pod, &context()),
            "search c.example a.example\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\noptions ndots:5\n"
        );
    }
}

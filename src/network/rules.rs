//! The packet filter's part: pods reach the outside under the machine's own address, and ports of the machine lead to
//! pods.
//!
//! Goes in: a bridge, its range, and which port leads where. Comes out: one nftables table of our own, written by the
//! `nft` program, each time in one transaction: made anew as a whole, or only what has changed of its ports.
//!
//! The table's name holds the bridge's, so several agents live side by side. An accepting verdict ends only our own
//! chain: where another program's rules drop forwarded packets (Docker sets such a policy), they still drop; `podd
//! doctor` looks for that.
//!
//! The rules for ports are there only while some port is. Each port is one element of a map, so their number costs a
//! packet nothing. What they do to a packet that is sent to an address of this machine:
//!
//! * Its destination becomes the pod's. Its source stays, for that is whom the pod shall see, but in two cases. From
//!   the machine's own `127.0.0.0/8` the pod could not answer it: it gets the bridge's address. A pod of the same
//!   bridge, be it the same pod, would be answered directly, past this machine, by an address that it never asked: its
//!   packets get the bridge's address too.
//! * So that packets from `127.0.0.0/8` may leave through the bridge, the bridge has `route_localnet`; it would let pods
//!   reach what listens on the machine's 127.0.0.1 alone (CVE-2020-8558). The guard drops such packets as they come in,
//!   before anything else looks at them. An answer is sent to the bridge's address and passes.
//!
//! **Invariant:** no table but our own is changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};

use super::cidr::Cidr;
use crate::model::Protocol;

/// Where `nft` may be when PATH has no administrator's directories.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// Each has two maps.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The rules could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("there is no nft program")]
    Absent,
    #[error("cannot run nft")]
    Run(#[source] io::Error),
    #[error("nft refused: {words}")]
    Refused { words: String },
}

/// A port of the machine: at one of its addresses, or at all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) protocol: Protocol,
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) number: u16,
}

/// Where each port leads: address and port of a pod.
pub(crate) type Mapping = BTreeMap<Port, (Ipv4Addr, u16)>;

/// The name of the table of the agent that has this bridge.
pub(crate) fn table(bridge: &str) -> String {
    format!("podd-{bridge}")
}

/// How `nft` calls a protocol.
fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl Port {
    fn map(self) -> String {
        map(self.protocol, self.ip.is_some())
    }

    /// The element that leads to `target`.
    fn element(self, (ip, number): (Ipv4Addr, u16)) -> String {
        let Self {
            protocol: _,
            ip: at,
            number: port,
        } = self;
        match at {
            Some(at) => format!("{at} . {port} : {ip} . {number}"),
            None => format!("{port} : {ip} . {number}"),
        }
    }
}

fn map(protocol: Protocol, one_address: bool) -> String {
    format!("{}_{}", word(protocol), if one_address { "ip" } else { "any" })
}

/// All of it anew.
fn whole(bridge: &str, cidr: Cidr, ports: &Mapping) -> String {
    let table = table(bridge);
    // Adding before deleting: a table that is not there could not be deleted. All of it is one transaction.
    let mut script = format!(
        r#"add table ip {table}
delete table ip {table}
table ip {table} {{
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr {cidr} ip daddr != {cidr} oifname != "{bridge}" masquerade
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{bridge}" accept
		oifname "{bridge}" accept
	}}
}}
"#
    );
    if !ports.is_empty() {
        script.push_str(&opening(bridge, cidr, ports));
    }
    script
}

/// To a table without ports, the rules for ports and these ports.
fn opening(bridge: &str, cidr: Cidr, ports: &Mapping) -> String {
    let mut script = format!("table ip {} {{\n", table(bridge));
    let mut rules = String::new();
    // What is said of one address comes before what is said of all.
    for protocol in PROTOCOLS {
        for one_address in [true, false] {
            let map = map(protocol, one_address);
            let key = if one_address {
                "ipv4_addr . inet_service"
            } else {
                "inet_service"
            };
            let elements: Vec<_> = ports
                .iter()
                .filter(|(port, _)| port.protocol == protocol && port.ip.is_some() == one_address)
                .map(|(port, target)| port.element(*target))
                .collect();
            let elements = if elements.is_empty() {
                String::new()
            } else {
                format!("\t\telements = {{ {} }}\n", elements.join(", "))
            };
            let _ = write!(
                script,
                "\tmap {map} {{\n\t\ttype {key} : ipv4_addr . inet_service\n{elements}\t}}\n"
            );
            let word = word(protocol);
            let asked = if one_address {
                format!("ip daddr . {word} dport")
            } else {
                format!("{word} dport")
            };
            let _ = writeln!(rules, "\t\tdnat ip to {asked} map @{map}");
        }
    }
    let _ = write!(
        script,
        r#"	chain ports {{
{rules}	}}
	chain guard {{
		type filter hook prerouting priority raw; policy accept;
		iifname "{bridge}" ip daddr 127.0.0.0/8 drop
		iifname "{bridge}" ip saddr 127.0.0.0/8 drop
	}}
	chain arriving {{
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local jump ports
	}}
	chain own {{
		type nat hook output priority -100; policy accept;
		fib daddr type local jump ports
	}}
	chain answerable {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
		ct status dnat ip saddr {cidr} oifname "{bridge}" masquerade
	}}
}}
"#
    );
    script
}

/// To a table with the ports `old`, what makes them `new`.
fn change(bridge: &str, old: &Mapping, new: &Mapping) -> String {
    let table = table(bridge);
    let mut script = String::new();
    let gone = old.iter().filter(|(port, target)| new.get(*port) != Some(*target));
    for (port, target) in gone {
        let (map, element) = (port.map(), port.element(*target));
        let _ = writeln!(script, "delete element ip {table} {map} {{ {element} }}");
    }
    let come = new.iter().filter(|(port, target)| old.get(*port) != Some(*target));
    for (port, target) in come {
        let (map, element) = (port.map(), port.element(*target));
        let _ = writeln!(script, "add element ip {table} {map} {{ {element} }}");
    }
    script
}

/// Make the table as it must be, in the calling thread's network namespace. `known`: it is there, unchanged, with these
/// ports.
pub(crate) fn apply(bridge: &str, cidr: Cidr, known: Option<&Mapping>, ports: &Mapping) -> Result<(), RulesError> {
    let script = match known {
        Some(known) if known == ports => return Ok(()),
        Some(known) if known.is_empty() => opening(bridge, cidr, ports),
        Some(known) if !ports.is_empty() => change(bridge, known, ports),
        Some(_) | None => whole(bridge, cidr, ports),
    };
    run(&["-f", "-"], &script).map(drop)
}

/// Remove the table. Not there: nothing happens.
pub(crate) fn remove(bridge: &str) -> Result<(), RulesError> {
    let table = table(bridge);
    run(
        &["-f", "-"],
        &format!("add table ip {table}\ndelete table ip {table}\n"),
    )
    .map(drop)
}

/// Everything that is loaded, as `nft` prints it.
pub(crate) fn list() -> Result<String, RulesError> {
    run(&["list", "ruleset"], "")
}

fn run(arguments: &[&str], input: &str) -> Result<String, RulesError> {
    let mut last = RulesError::Absent;
    for program in PROGRAMS {
        match execute(program, arguments, input) {
            Ok(output) if output.status.success() => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => {
                // One line: what it says first is what is wrong.
                let words = String::from_utf8_lossy(&output.stderr);
                let words = words.lines().next().unwrap_or_default().trim().to_owned();
                return Err(RulesError::Refused { words });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                last = RulesError::Run(error);
                break;
            }
        }
    }
    Err(last)
}

fn execute(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have ended without reading: its own words are of more use then.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

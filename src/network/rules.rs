//! The packet filter's part: pods reach the outside under the machine's own address.
//!
//! Goes in: a bridge and its range. Comes out: one nftables table of our own, made anew as a whole in one transaction.
//!
//! The table's name holds the bridge's, so several agents live side by side. An accepting verdict ends only our own
//! chain: where another program's rules drop forwarded packets (Docker sets such a policy), they still drop; `podd
//! doctor` looks for that.
//!
//! **Invariant:** no table but our own is changed.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use super::cidr::Cidr;

/// Where `nft` may be when PATH has no administrator's directories.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

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

/// The name of the table of the agent that has this bridge.
pub(crate) fn table(bridge: &str) -> String {
    format!("podd-{bridge}")
}

fn script(bridge: &str, cidr: Cidr) -> String {
    let table = table(bridge);
    // Adding before deleting: a table that is not there could not be deleted. All of it is one transaction.
    format!(
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
    )
}

/// Make the table as it must be, in the calling thread's network namespace.
pub(crate) fn apply(bridge: &str, cidr: Cidr) -> Result<(), RulesError> {
    run(&["-f", "-"], &script(bridge, cidr)).map(drop)
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

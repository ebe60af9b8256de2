//! Ports of the machine that lead to pods.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, signal, uid, wait_dead, wait_for, with};

/// A web server that tells whom it sees, and its container's name.
const SERVER: &str = "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo $REMOTE_ADDR by $NAME\\n' > /www/cgi-bin/who; \
                      chmod 755 /www/cgi-bin/who; exec httpd -f -p 0.0.0.0:80 -h /www";

/// A number that no other agent under test has.
fn port(agent: &Agent) -> u16 {
    agent.port() + 3000
}

/// A pod with one server and these ports.
fn server(name: &str, ports: &Value) -> Value {
    with(pod(name, &[("server", SERVER)]), |p| {
        p["spec"]["containers"][0]["ports"] = ports.clone();
        p["spec"]["containers"][0]["env"] = json!([{"name": "NAME", "value": name}]);
    })
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn shell(command: &str) -> String {
    let output = run("sh", &["-c", command]);
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The words of the server at this address, once it answers.
fn who(what: &str, with: &[&str], to: &str, port: u16) -> String {
    let url = format!("http://{to}:{port}/cgi-bin/who");
    let (program, first) = with
        .split_first()
        .map_or(("curl", &[][..]), |(program, rest)| (*program, rest));
    let curl = if with.is_empty() { &[][..] } else { &["curl"][..] };
    let rest = ["-sS", "--fail", "--max-time", "20", &url];
    let arguments: Vec<_> = first.iter().chain(curl).chain(&rest).copied().collect();
    wait_for(&format!("{what}: {url}"), || {
        let output = run(program, &arguments);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(format!("{output:?}"))
        }
    })
}

/// Nobody answers at this address.
fn nobody(to: &str, port: u16) -> bool {
    let output = run("curl", &["-sS", &format!("http://{to}:{port}/")]);
    // curl(1): it could not connect.
    output.status.code() == Some(7)
}

fn table(agent: &Agent) -> String {
    shell(&format!("nft list table ip podd-{}", agent.bridge()))
}

/// Another machine: it has one link to this one, and knows nothing of pods.
struct Outside {
    name: String,
    /// This machine's address on the link, and its own.
    here: String,
    there: String,
}

impl Outside {
    fn new(agent: &Agent) -> Self {
        let name = format!("{}out", agent.bridge());
        let [_, _, number, _] = agent.gateway().octets();
        let outside = Self {
            here: format!("198.18.{number}.1"),
            there: format!("198.18.{number}.2"),
            name,
        };
        outside.remove();
        let Self { name, here, there } = &outside;
        shell(&format!(
            "ip netns add {name}; ip link add {name}0 type veth peer name {name}1 netns {name}; \
             ip addr add {here}/30 dev {name}0; ip link set {name}0 up; \
             ip -n {name} addr add {there}/30 dev {name}1; ip -n {name} link set {name}1 up"
        ));
        outside
    }

    fn remove(&self) {
        run("ip", &["netns", "del", &self.name]);
        run("ip", &["link", "del", &format!("{}0", self.name)]);
    }

    fn run(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.remove();
    }
}

/// In the network of a pod.
fn within(infra: i32) -> [String; 4] {
    ["nsenter", "-n", "-t", &infra.to_string()].map(ToOwned::to_owned)
}

#[test]
fn a_port_is_reached_from_everywhere_and_the_client_is_seen() {
    let agent = Agent::start();
    let outside = Outside::new(&agent);
    let port = port(&agent);
    agent.create(&server("web", &json!([{"containerPort": 80, "hostPort": port}])));
    agent.create(&pod("other", &[("c", "exec sleep 1000")]));
    let web = agent.wait_running("web");
    let other = agent.wait_running("other");
    let gateway = agent.gateway().to_string();
    let seen = |ip: &str| format!("{ip} by web");

    assert_eq!(who("localhost", &[], "127.0.0.1", port), seen(&gateway));
    assert_eq!(who("the bridge", &[], &gateway, port), seen(&gateway));
    assert_eq!(who("another address", &[], &outside.here, port), seen(&outside.here));
    assert_eq!(
        who("outside", &outside.run(), &outside.here, port),
        seen(&outside.there)
    );
    for (what, pod) in [("another pod", &other), ("the pod itself", &web)] {
        let within = within(agent.infra_pid(&uid(pod)));
        let within = [&*within[0], &within[1], &within[2], &within[3]];
        for to in [&gateway, &outside.here] {
            assert_eq!(who(what, &within, to, port), seen(&gateway));
        }
    }
    let address = web["status"]["podIP"].as_str().unwrap();
    assert_eq!(who("the pod's address", &[], address, 80), seen(&gateway));

    agent.delete("web", Some(0));
    agent.wait_gone("web");
    assert!(nobody("127.0.0.1", port));
    agent.delete("other", Some(0));
    agent.wait_gone("other");
    agent.wait_no_leftovers();
}

#[test]
fn one_number_may_lead_to_many_by_address_and_protocol() {
    let agent = Agent::start();
    let port = port(&agent);
    let gateway = agent.gateway().to_string();
    let plain = table(&agent);
    let of =
        |ip: &str, protocol: &str| json!([{"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]);
    agent.create(&server("local", &of("127.0.0.1", "TCP")));
    agent.create(&server("bridge", &of(&gateway, "TCP")));
    agent.create(&server("datagrams", &of(&gateway, "UDP")));
    for name in ["local", "bridge", "datagrams"] {
        agent.wait_running(name);
    }
    assert_eq!(who("localhost", &[], "127.0.0.1", port), format!("{gateway} by local"));
    assert_eq!(who("the bridge", &[], &gateway, port), format!("{gateway} by bridge"));
    // As Kubernetes' own test asks: from one address of the machine to another.
    let url = format!("http://127.0.0.1:{port}/cgi-bin/who");
    let asked = shell(&format!("curl -sS --fail --max-time 20 --interface {gateway} {url}"));
    assert_eq!(asked.trim(), format!("{gateway} by local"));
    assert!(
        table(&agent).contains(&format!("{gateway} . {port} : ")),
        "{}",
        table(&agent)
    );

    for name in ["local", "bridge", "datagrams"] {
        agent.delete(name, Some(0));
        agent.wait_gone(name);
    }
    assert_eq!(table(&agent), plain, "no rule is left");
}

#[test]
fn a_port_outlives_its_container_its_sandbox_and_the_agent() {
    let mut agent = Agent::start();
    let port = port(&agent);
    agent.create(&server("web", &json!([{"containerPort": 80, "hostPort": port}])));
    let web = agent.wait_running("web");
    let id = uid(&web);
    let answer = who("before", &[], "127.0.0.1", port);
    let rules = table(&agent);

    signal(agent.container_pid(&id, "server"), "KILL");
    agent.wait_pod("web", "to run again", |p| {
        container(p, "server")["restartCount"] == 1 && container(p, "server")["state"]["running"].is_object()
    });
    assert_eq!(who("after a restart", &[], "127.0.0.1", port), answer);

    let infra = agent.infra_pid(&id);
    signal(infra, "KILL");
    wait_dead(infra);
    assert_eq!(who("in a new sandbox", &[], "127.0.0.1", port), answer);
    agent.wait_pod("web", "to run in a new sandbox", |p| {
        container(p, "server")["restartCount"] == 2 && container(p, "server")["state"]["running"].is_object()
    });

    agent.kill();
    assert_eq!(who("without an agent", &[], "127.0.0.1", port), answer);
    agent.start_again();
    assert_eq!(who("with a new agent", &[], "127.0.0.1", port), answer);
    assert_eq!(table(&agent), rules);

    // It goes with its pod, be the end of that asked for while nobody is there to see to it.
    agent.delete("web", Some(1));
    agent.kill();
    agent.start_again();
    agent.wait_gone("web");
    assert!(nobody("127.0.0.1", port));
    assert!(!table(&agent).contains("dnat"), "{}", table(&agent));
}

#[test]
fn rules_that_somebody_removes_come_back_and_foreign_ones_stay() {
    let agent = Agent::start();
    let port = port(&agent);
    let bridge = agent.bridge();
    // What the harness removes when the agent goes ends with the bridge's name.
    let foreign = format!("foreign-{bridge}");
    shell(&format!(
        "nft add table ip {foreign}; nft add chain ip {foreign} keep; nft add rule ip {foreign} keep tcp dport {port} counter"
    ));
    let foreign = || shell(&format!("nft -a list table ip {foreign}"));
    let before = foreign();
    agent.create(&server("web", &json!([{"containerPort": 80, "hostPort": port}])));
    agent.wait_running("web");
    let answer = who("before", &[], "127.0.0.1", port);
    let rules = table(&agent);
    for harm in [
        format!("nft delete table ip podd-{bridge}"),
        format!("nft flush table ip podd-{bridge}"),
        format!("nft flush map ip podd-{bridge} tcp_any"),
    ] {
        shell(&harm);
        wait_for(&format!("the rules after {harm}"), || {
            let now = run("nft", &["list", "table", "ip", &format!("podd-{bridge}")]);
            let now = String::from_utf8_lossy(&now.stdout).into_owned();
            if now == rules { Ok(()) } else { Err(now) }
        });
        assert_eq!(who("after", &[], "127.0.0.1", port), answer);
    }
    agent.delete("web", Some(0));
    agent.wait_gone("web");
    assert_eq!(foreign(), before);
}

/// Answers each message or connection on port 80 of its protocol with whom it sees. Debian always has perl, and no
/// busybox speaks these protocols.
const OTHER_SERVER: &str = r#"use Socket;
my ($kind, $protocol) = @ARGV;
socket(S, PF_INET, $kind, $protocol) or die "socket: $!";
bind(S, sockaddr_in(80, INADDR_ANY)) or die "bind: $!";
my $who = sub { my (undef, $ip) = sockaddr_in($_[0]); inet_ntoa($ip) . " by $ENV{NAME}\n" };
$| = 1;
if ($kind == SOCK_DGRAM) {
    print "ready\n";
    while (my $from = recv(S, my $text, 999, 0)) { send(S, $who->($from), 0, $from) }
} else {
    listen(S, 5) or die "listen: $!";
    print "ready\n";
    while (my $from = accept(C, S)) { send(C, $who->($from), 0); close(C) }
}"#;

/// Says what comes back from an address; ends with an error when nothing does within two seconds.
const OTHER_CLIENT: &str = r#"use Socket;
my ($kind, $protocol, $to, $port) = @ARGV;
socket(S, PF_INET, $kind, $protocol) or die "socket: $!";
alarm 2;
connect(S, sockaddr_in($port, inet_aton($to))) or die "connect: $!";
$kind == SOCK_DGRAM and send(S, "who", 0);
defined(recv(S, my $text, 999, 0)) or die "recv: $!";
print $text;"#;

/// Kind and number of a protocol, as socket(2) takes them.
fn numbers(protocol: &str) -> [&'static str; 2] {
    match protocol {
        "UDP" => ["2", "17"],
        "SCTP" => ["1", "132"],
        other => panic!("{other}"),
    }
}

/// The same as [`server`] for another protocol: it runs this machine's perl.
fn other_server(name: &str, protocol: &str, port: u16) -> Value {
    let [kind, number] = numbers(protocol);
    with(pod(name, &[("server", "")]), |p| {
        p["spec"]["volumes"] = json!([{"name": "machine", "hostPath": {"path": "/"}}]);
        let container = &mut p["spec"]["containers"][0];
        container["command"] = json!(["chroot", "/machine", "/usr/bin/perl", "-e", OTHER_SERVER, kind, number]);
        container["volumeMounts"] = json!([{"name": "machine", "mountPath": "/machine", "readOnly": true}]);
        container["ports"] = json!([{"containerPort": 80, "hostPort": port, "protocol": protocol}]);
        container["env"] = json!([{"name": "NAME", "value": name}]);
    })
}

/// What the server at this address says, asked with these words before the client's.
fn other_who(what: &str, with: &[&str], protocol: &str, to: &str, port: u16) -> String {
    let [kind, number] = numbers(protocol);
    let port = port.to_string();
    let client = ["/usr/bin/perl", "-e", OTHER_CLIENT, kind, number, to, &port];
    let words: Vec<_> = with.iter().copied().chain(client).collect();
    wait_for(&format!("{what}: {to}:{port}"), || {
        let output = run(words[0], &words[1..]);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(format!("{output:?}"))
        }
    })
}

/// A port of this protocol leads to its pod from everywhere, clients from outside are seen as they are, and it goes with
/// the pod.
fn leads_from_everywhere(protocol: &str) {
    let agent = Agent::start();
    let outside = Outside::new(&agent);
    let port = port(&agent);
    let plain = table(&agent);
    agent.create(&other_server("web", protocol, port));
    agent.create(&pod("other", &[("c", "exec sleep 1000")]));
    let web = agent.wait_running("web");
    let other = agent.wait_running("other");
    agent.wait_log("web", "", "ready");
    let gateway = agent.gateway().to_string();
    let seen = |ip: &str| format!("{ip} by web");
    let ask = |what: &str, with: &[&str], to: &str| other_who(what, with, protocol, to, port);

    assert_eq!(ask("localhost", &[], "127.0.0.1"), seen(&gateway));
    assert_eq!(ask("the bridge", &[], &gateway), seen(&gateway));
    assert_eq!(ask("outside", &outside.run(), &outside.here), seen(&outside.there));
    for (what, pod) in [("another pod", &other), ("the pod itself", &web)] {
        let within = within(agent.infra_pid(&uid(pod)));
        let within = [&*within[0], &within[1], &within[2], &within[3]];
        assert_eq!(ask(what, &within, &gateway), seen(&gateway));
    }

    // A server of another protocol beside it on the same number.
    agent.create(&server("tcp", &json!([{"containerPort": 80, "hostPort": port}])));
    agent.wait_running("tcp");
    assert_eq!(who("over TCP", &[], "127.0.0.1", port), format!("{gateway} by tcp"));
    assert_eq!(ask("still", &[], "127.0.0.1"), seen(&gateway));

    // Who takes its place is reached at once by who asked before: no connection is remembered.
    agent.delete("web", Some(0));
    agent.wait_gone("web");
    agent.create(&other_server("next", protocol, port));
    agent.wait_log("next", "", "ready");
    assert_eq!(
        ask("the next", &outside.run(), &outside.here),
        format!("{} by next", outside.there)
    );
    for name in ["next", "tcp", "other"] {
        agent.delete(name, Some(0));
        agent.wait_gone(name);
    }
    assert_eq!(table(&agent), plain, "no rule is left");
    agent.wait_no_leftovers();
}

#[test]
fn datagrams_are_led_too() {
    leads_from_everywhere("UDP");
}

#[test]
fn sctp_is_led_too_where_the_kernel_has_it() {
    // The kernel loads the module when somebody asks for the protocol.
    let [kind, number] = numbers("SCTP");
    let script = "use Socket; socket(S, PF_INET, $ARGV[0], $ARGV[1]) or exit 1";
    if !run("perl", &["-e", script, kind, number]).status.success() {
        eprintln!("skipped: the kernel has no SCTP");
        return;
    }
    leads_from_everywhere("SCTP");
}

#[test]
fn a_pod_that_has_ended_gives_its_port_to_the_next() {
    let agent = Agent::start();
    let port = port(&agent);
    let ports = json!([{"containerPort": 80, "hostPort": port}]);
    agent.create(&with(server("first", &ports), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["containers"][0]["command"] = json!(["true"]);
    }));
    agent.wait_phase("first", "Succeeded");
    agent.create(&server("second", &ports));
    agent.wait_running("second");
    let answer = format!("{} by second", agent.gateway());
    assert_eq!(who("the second", &[], "127.0.0.1", port), answer);
    agent.delete("first", Some(0));
    agent.wait_gone("first");
    assert_eq!(who("the second still", &[], "127.0.0.1", port), answer);
}

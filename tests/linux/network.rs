//! Who reaches whom.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use crate::common::{Agent, patience, pod, wait_for, with};

fn fetch(address: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(address).map_err(|e| format!("{address}: {e}"))?;
    stream.set_read_timeout(Some(patience())).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

#[test]
fn containers_meet_on_localhost_and_pods_by_address() {
    let agent = Agent::start();
    agent.create(&pod(
        "server",
        &[
            ("serve", "while true; do echo from-server | nc -l -p 8000; done"),
            (
                "near",
                "while ! nc 127.0.0.1 8000 < /dev/null | grep from-server; do sleep 0.05; done; exec sleep 1000",
            ),
        ],
    ));
    agent.wait_log("server", "container=near", "from-server");
    let ip = agent.wait_running("server")["status"]["podIP"]
        .as_str()
        .unwrap()
        .to_owned();
    let script = format!("while ! nc {ip} 8000 < /dev/null | grep from-server; do sleep 0.05; done; exec sleep 1000");
    agent.create(&pod("client", &[("c", &script)]));
    agent.wait_log("client", "", "from-server");
    wait_for("the host to reach the pod", || match fetch(&format!("{ip}:8000")) {
        Ok(text) if text == "from-server\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_pod_reaches_its_host_and_has_one_interface() {
    let agent = Agent::start();
    let listener = TcpListener::bind((agent.gateway(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(b"from-host\n").unwrap();
        from
    });
    agent.create(&with(
        pod(
            "p",
            &[(
                "c",
                &format!("ip -o addr; ip route; nc {} {port} < /dev/null", agent.gateway()),
            )],
        ),
        |p| p["spec"]["restartPolicy"] = json!("Never"),
    ));
    let ended = agent.wait_phase("p", "Succeeded");
    let log = agent.log("p", "");
    assert!(log.contains("from-host"), "{log}");
    let ip = ended["status"]["podIP"].as_str().unwrap();
    assert!(log.contains(&format!("inet {ip}/")), "{log}");
    assert!(log.contains(&format!("default via {}", agent.gateway())), "{log}");
    assert!(log.contains("inet 127.0.0.1/8"), "{log}");
    assert_eq!(server.join().unwrap().ip().to_string(), ip);
}

#[test]
fn the_host_network_is_the_hosts() {
    let agent = Agent::start();
    agent.create(&with(
        pod(
            "host",
            &[("c", "readlink /proc/self/ns/net; head -1 /etc/hosts; hostname")],
        ),
        |p| {
            p["spec"]["restartPolicy"] = json!("Never");
            p["spec"]["hostNetwork"] = json!(true);
        },
    ));
    let ended = agent.wait_phase("host", "Succeeded");
    let log = agent.log("host", "");
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(log.starts_with(&format!("{}\n", host.display())), "{log}");
    assert!(log.contains("# Kubernetes-managed hosts file (host network)."), "{log}");
    assert_eq!(ended["status"]["podIP"], ended["status"]["hostIP"]);
}

#[test]
fn the_rules_are_in_a_table_of_their_own() {
    let agent = Agent::start();
    let tables = std::process::Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&tables.stdout).into_owned();
    assert!(text.contains(&agent.bridge()) && text.contains("masquerade"), "{text}");
}

//! Real bridges and namespaces, each test with its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};

use super::*;

/// A bridge, a range and a table that go with the test.
struct Own {
    network: Network,
    config: NetworkConfig,
}

impl Own {
    async fn open(number: u8) -> Self {
        let config = NetworkConfig {
            bridge: format!("pn{}-{number}", std::process::id() % 100_000),
            cidr: format!("10.79.{number}.0/24").parse().unwrap(),
        };
        Self { network: Network::open(config.clone()).await.unwrap(), config }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.config.bridge]).output();
        let _ = Command::new("nft").args(["delete", "table", "ip", &table_name(&self.config.bridge)]).output();
    }
}

/// A process in a network namespace of its own, as infra is.
struct Infra(Child);

impl Infra {
    fn start() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        let infra = Self(child);
        let host = std::fs::read_link("/proc/self/ns/net").unwrap();
        // It is not there until unshare(2) has been called.
        while std::fs::read_link(format!("/proc/{}/ns/net", infra.pid())).is_ok_and(|own| own == host) {
            std::thread::yield_now();
        }
        infra
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Infra {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn uid(n: u8) -> Uid {
    Uid(format!("00000000-0000-0000-0000-0000000000{n:02x}"))
}

#[tokio::test]
async fn pods_and_host_reach_each_other_and_attaching_twice_changes_nothing() {
    let own = Own::open(1).await;
    let (one, two) = (Infra::start(), Infra::start());
    let (first, _) = own.network.pool();
    let second = Ipv4Addr::from(u32::from(first) + 1);
    for _ in 0..2 {
        own.network.attach(&uid(1), 0, one.pid(), first).await.unwrap();
        own.network.attach(&uid(2), 0, two.pid(), second).await.unwrap();
    }
    let one_space = netns::of_process(one.pid()).unwrap();
    let two_space = netns::of_process(two.pid()).unwrap();
    let listener = netns::within(&one_space, || TcpListener::bind((first, 80))).unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, from) = listener.accept().unwrap();
            stream.write_all(from.ip().to_string().as_bytes()).unwrap();
        }
    });
    let ask = |mut stream: TcpStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let from_pod = netns::within(&two_space, || TcpStream::connect((first, 80))).unwrap();
    assert_eq!(ask(from_pod), second.to_string());
    let from_host = TcpStream::connect((first, 80)).unwrap();
    assert_eq!(ask(from_host), own.network.gateway().to_string());
    server.join().unwrap();

    let routes = netns::within(&two_space, || Command::new("ip").args(["route"]).output()).unwrap();
    let routes = String::from_utf8(routes.stdout).unwrap();
    assert!(routes.contains(&format!("default via {}", own.network.gateway())), "{routes}");
}

#[tokio::test]
async fn opening_again_finds_what_is_there_and_leaves_other_tables_alone() {
    let own = Own::open(2).await;
    let list = || {
        let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let foreign = format!("foreign_{}", std::process::id());
    nft(&format!("add table ip {foreign}\n")).unwrap();
    let again = Network::open(own.config.clone()).await.unwrap();
    assert_eq!(again.bridge, own.network.bridge);
    let rules = list();
    nft(&format!("delete table ip {foreign}\n")).unwrap();
    assert!(rules.contains(&foreign), "{rules}");
    assert_eq!(rules.matches(&format!("oifname != \"{}\" masquerade", own.config.bridge)).count(), 1, "{rules}");
}

#[tokio::test]
async fn a_bridge_with_another_address_is_left_alone_and_said() {
    let own = Own::open(3).await;
    let other = NetworkConfig { cidr: "10.79.4.0/24".parse().unwrap(), ..own.config.clone() };
    let error = Network::open(other).await.unwrap_err().to_string();
    assert!(error.contains("10.79.3.1/24") && error.contains("10.79.4.1/24"), "{error}");
}

#[test]
fn link_names_fit_and_differ() {
    let names: std::collections::BTreeSet<String> = (0..100).map(|n| link_name(&uid(1), n)).collect();
    assert_eq!(names.len(), 100);
    assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
}

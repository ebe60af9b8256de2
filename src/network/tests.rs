//! Each test has a machine of its own: a network namespace in which bridge, rules and settings are made for real, and
//! which takes all of it along when it goes.

mod ports;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use super::*;

/// Run a test on a machine of its own.
fn on_a_machine<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            netns::enter_new().unwrap();
            Netlink::open().unwrap().set_up(LOOPBACK).unwrap();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A process with a network namespace of its own, as a sandbox has one.
struct Infra {
    process: Child,
    netns: OwnedFd,
}

impl Infra {
    fn start() -> Self {
        std::thread::spawn(|| {
            netns::enter_new().unwrap();
            let process = Command::new("sleep")
                .arg("infinity")
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            Self {
                process,
                netns: netns::of_this_thread().unwrap(),
            }
        })
        .join()
        .unwrap()
    }

    fn pid(&self) -> i32 {
        self.process.id().try_into().unwrap()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.netns.as_fd(), work).unwrap()
    }
}

impl Drop for Infra {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn config(bridge: &str, cidr: &str) -> NetworkConfig {
    NetworkConfig {
        bridge: bridge.to_owned(),
        cidr: cidr.parse().unwrap(),
    }
}

fn uid(number: u8) -> Uid {
    Uid(format!("00000000-0000-4000-8000-0000000000{number:02x}"))
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, last)
}

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `from` gets when it connects to a server at `at` in `to`, and whom the server saw.
fn tcp(from: &dyn Fn(SocketAddr) -> String, to: &dyn Fn() -> TcpListener) -> (String, SocketAddr) {
    let listener = to();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer
    });
    (from(address), server.join().unwrap())
}

fn fetch(address: SocketAddr) -> String {
    let mut text = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn pods_and_host_reach_each_other() {
    on_a_machine(async || {
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        assert_eq!(network.gateway(), ip(1));
        assert_eq!(network.pool(), (ip(2), ip(254)));
        let (a, b) = (Infra::start(), Infra::start());
        network.attach(&uid(1), 0, a.pid(), ip(2)).await.unwrap();
        network.attach(&uid(2), 0, b.pid(), ip(3)).await.unwrap();

        let (text, peer) = tcp(&|at| a.inside(|| fetch(at)), &|| {
            b.inside(|| TcpListener::bind((ip(3), 0)).unwrap())
        });
        assert_eq!((text.as_str(), peer.ip()), ("hello", ip(2).into()), "pod to pod");
        let (text, peer) = tcp(&|at| b.inside(|| fetch(at)), &|| {
            a.inside(|| TcpListener::bind((ip(2), 0)).unwrap())
        });
        assert_eq!((text.as_str(), peer.ip()), ("hello", ip(3).into()), "and back");
        let (text, peer) = tcp(&|at| fetch(at), &|| a.inside(|| TcpListener::bind((ip(2), 0)).unwrap()));
        assert_eq!((text.as_str(), peer.ip()), ("hello", ip(1).into()), "host to pod");
        let (text, peer) = tcp(&|at| a.inside(|| fetch(at)), &|| TcpListener::bind((ip(1), 0)).unwrap());
        assert_eq!((text.as_str(), peer.ip()), ("hello", ip(2).into()), "pod to host");
        let (text, _) = tcp(&|at| a.inside(|| fetch(at)), &|| {
            a.inside(|| TcpListener::bind("127.0.0.1:0").unwrap())
        });
        assert_eq!(text, "hello", "containers of a pod on localhost");

        let server = a.inside(|| UdpSocket::bind((ip(2), 0)).unwrap());
        let client = b.inside(|| UdpSocket::bind((ip(3), 0)).unwrap());
        client.send_to(b"datagram", server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from),
            (&b"datagram"[..], client.local_addr().unwrap())
        );
    });
}

#[test]
fn inside_there_is_loopback_and_one_interface_with_a_default_route() {
    on_a_machine(async || {
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        let pod = Infra::start();
        network.attach(&uid(1), 7, pod.pid(), ip(9)).await.unwrap();
        let (links, addresses) = pod.inside(|| {
            let mut netlink = Netlink::open().unwrap();
            (netlink.links().unwrap(), netlink.addresses().unwrap())
        });
        let names: Vec<_> = links
            .iter()
            .filter(|link| link.up)
            .map(|link| link.name.as_str())
            .collect();
        assert_eq!(names, ["lo", "eth0"]);
        let eth0 = links.iter().find(|link| link.name == "eth0").unwrap();
        assert_eq!(eth0.mac, mac(ip(9)));
        assert_eq!(eth0.mtu, Netlink::open().unwrap().link("br0").unwrap().unwrap().mtu);
        let found: BTreeSet<_> = addresses.iter().map(|a| (a.ip, a.prefix)).collect();
        assert_eq!(found, BTreeSet::from([(Ipv4Addr::LOCALHOST, 8), (ip(9), 24)]));
        let routes = pod.inside(|| shell("ip -4 route show"));
        assert!(routes.starts_with("default via 10.99.0.1 dev eth0"), "{routes}");
        assert_eq!(
            pod.inside(|| shell("cat /proc/sys/net/ipv6/conf/eth0/accept_ra")),
            "0\n"
        );
        assert_eq!(shell("cat /proc/sys/net/ipv6/conf/br0/accept_ra"), "0\n");

        let name = link_name(&uid(1), 7);
        assert_eq!(name.len(), 14);
        assert_eq!(
            network.links().await.unwrap(),
            [PodLink {
                uid: uid(1),
                sandbox: 7,
                name: name.clone()
            }]
        );
        let outside = shell(&format!("ip -6 addr show dev {name}"));
        assert_eq!(outside, "", "the host's end has no address of its own");
    });
}

#[test]
fn attaching_again_changes_nothing() {
    on_a_machine(async || {
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        let pod = Infra::start();
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        let before = Netlink::open().unwrap().links().unwrap();
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        assert_eq!(Netlink::open().unwrap().links().unwrap(), before);

        // Only half done, as when the agent is killed in the middle.
        pod.inside(|| shell("ip addr flush dev eth0; ip link set lo down"));
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        assert_eq!(Netlink::open().unwrap().links().unwrap(), before);
        let (text, _) = tcp(&fetch, &|| pod.inside(|| TcpListener::bind((ip(2), 0)).unwrap()));
        assert_eq!(text, "hello");

        // An agent that starts again finds everything in place.
        let again = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        again.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        assert_eq!(Netlink::open().unwrap().links().unwrap(), before);
        let (text, _) = tcp(&fetch, &|| pod.inside(|| TcpListener::bind((ip(2), 0)).unwrap()));
        assert_eq!(text, "hello");
    });
}

#[test]
fn a_new_sandbox_takes_over_name_and_address() {
    on_a_machine(async || {
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        let other = Infra::start();
        network.attach(&uid(2), 0, other.pid(), ip(3)).await.unwrap();
        let old = Infra::start();
        network.attach(&uid(1), 0, old.pid(), ip(2)).await.unwrap();
        let (text, _) = tcp(&|at| other.inside(|| fetch(at)), &|| {
            old.inside(|| TcpListener::bind((ip(2), 0)).unwrap())
        });
        assert_eq!(text, "hello");

        // A link of the same name that leads to another namespace is replaced.
        let new = Infra::start();
        network.attach(&uid(1), 0, new.pid(), ip(2)).await.unwrap();
        // Whoever knew the old one's hardware address finds the new one with it.
        let (text, _) = tcp(&|at| other.inside(|| fetch(at)), &|| {
            new.inside(|| TcpListener::bind((ip(2), 0)).unwrap())
        });
        assert_eq!(text, "hello");
        assert_eq!(network.links().await.unwrap().len(), 2);
        assert!(old.inside(|| Netlink::open().unwrap().link("eth0").unwrap()).is_none());

        network.remove_link(&uid(1), 0).await.unwrap();
        network.remove_link(&uid(1), 0).await.unwrap();
        assert_eq!(network.links().await.unwrap().len(), 1);
    });
}

#[test]
fn a_removed_bridge_is_made_again() {
    on_a_machine(async || {
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        let mut netlink = Netlink::open().unwrap();
        netlink.delete_link("br0").unwrap();
        shell("nft flush ruleset");
        let pod = Infra::start();
        let error = network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap_err();
        assert_eq!(error.to_string(), "bridge br0 is gone");
        network.repair().await.unwrap();
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        assert!(shell("nft list ruleset").contains("podd-br0"));
    });
}

#[test]
fn a_pod_reaches_the_outside_under_the_machines_address() {
    on_a_machine(async || {
        // The outside: a host behind the machine's other interface that knows nothing of pods.
        let outside = Infra::start();
        shell(&format!(
            "ip link add up0 type veth peer name up1 netns {}; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up",
            outside.pid()
        ));
        outside.inside(|| shell("ip addr add 192.0.2.9/24 dev up1; ip link set up1 up"));
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        assert!(network.masquerades());
        assert_eq!(shell("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
        let pod = Infra::start();
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        let (text, peer) = tcp(&|at| pod.inside(|| fetch(at)), &|| {
            outside.inside(|| TcpListener::bind("192.0.2.9:0").unwrap())
        });
        assert_eq!((text.as_str(), peer.ip().to_string().as_str()), ("hello", "192.0.2.1"));
    });
}

#[test]
fn foreign_tables_and_agents_are_left_alone() {
    on_a_machine(async || {
        shell("nft add table ip mine; nft add chain ip mine keep; nft add rule ip mine keep counter accept");
        let foreign = || shell("nft list table ip mine");
        let before = foreign();
        let a = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        let b = Network::open(config("br1", "10.98.0.0/16"), Vec::new()).await.unwrap();
        assert_eq!(foreign(), before);
        let own = shell("nft list table ip podd-br1");
        assert!(
            own.contains("ip saddr 10.98.0.0/16 ip daddr != 10.98.0.0/16 oifname != \"br1\" masquerade"),
            "{own}"
        );
        let tables = || {
            shell("nft list tables")
                .lines()
                .map(ToOwned::to_owned)
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(
            tables(),
            BTreeSet::from(["table ip mine", "table ip podd-br0", "table ip podd-br1"].map(String::from))
        );

        // Opening again makes no second set of rules.
        let again = Network::open(config("br1", "10.98.0.0/16"), Vec::new()).await.unwrap();
        assert_eq!(shell("nft list table ip podd-br1"), own);
        drop(b);

        // Pods of two agents reach each other through the machine.
        let (left, right) = (Infra::start(), Infra::start());
        a.attach(&uid(1), 0, left.pid(), ip(2)).await.unwrap();
        again
            .attach(&uid(2), 0, right.pid(), Ipv4Addr::new(10, 98, 4, 4))
            .await
            .unwrap();
        let (text, _) = tcp(&|at| left.inside(|| fetch(at)), &|| {
            right.inside(|| TcpListener::bind("10.98.4.4:0").unwrap())
        });
        assert_eq!(text, "hello");

        again.close().await.unwrap();
        again.close().await.unwrap();
        assert_eq!(
            tables(),
            BTreeSet::from(["table ip mine", "table ip podd-br0"].map(String::from))
        );
        let names: BTreeSet<_> = Netlink::open()
            .unwrap()
            .links()
            .unwrap()
            .into_iter()
            .map(|link| link.name)
            .collect();
        assert_eq!(
            names,
            BTreeSet::from(["lo".to_owned(), "br0".to_owned(), link_name(&uid(1), 0)])
        );
        assert_eq!(foreign(), before);
    });
}

#[test]
fn what_cannot_be_is_said_clearly() {
    on_a_machine(async || {
        let error = Network::open(config("lo", "10.99.0.0/24"), Vec::new())
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with("lo is no bridge"), "{error}");

        shell("ip link add other type bridge; ip addr add 10.99.0.77/28 dev other");
        let error = Network::open(config("br0", "10.99.0.0/24"), Vec::new())
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("10.99.0.0/24 overlaps 10.99.0.77/28, the network of interface other")
        );
        assert!(
            Netlink::open().unwrap().link("br0").unwrap().is_none(),
            "nothing is made then"
        );
        shell("ip link del other");
        // A wider network around the pods' is no hindrance: the narrower route wins.
        shell("ip link add other type bridge; ip addr add 10.0.0.1/8 dev other");
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();

        let pod = Infra::start();
        for wrong in [ip(0), ip(1), ip(255), Ipv4Addr::new(10, 98, 0, 2)] {
            let error = network.attach(&uid(1), 0, pod.pid(), wrong).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{wrong} is not an address for a pod of 10.99.0.0/24")
            );
        }
        let error = network.attach(&uid(1), 0, i32::MAX, ip(2)).await.unwrap_err();
        assert!(matches!(error, NetworkError::Infra { pid: i32::MAX, .. }), "{error}");

        let error = Netlink::open().unwrap().add_bridge("br0", mac(ip(1))).unwrap_err();
        assert_eq!(error.to_string(), "cannot make bridge br0");
        assert!(
            error.refusal.to_string().starts_with("File exists"),
            "{}",
            error.refusal
        );
        let error = Netlink::open()
            .unwrap()
            .add_default_route(1, Ipv4Addr::new(198, 51, 100, 1))
            .unwrap_err();
        assert!(
            error.refusal.to_string().contains("Nexthop has invalid gateway"),
            "{}",
            error.refusal
        );
    });
}

#[test]
fn a_lingering_namespace_does_not_keep_the_address() {
    on_a_machine(async || {
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        for sandbox in 0..5 {
            let (old, new) = (Infra::start(), Infra::start());
            network.attach(&uid(1), 2 * sandbox, old.pid(), ip(2)).await.unwrap();
            let (text, _) = tcp(&fetch, &|| old.inside(|| TcpListener::bind((ip(2), 0)).unwrap()));
            assert_eq!(text, "hello");
            network
                .attach(&uid(1), 2 * sandbox + 1, new.pid(), ip(2))
                .await
                .unwrap();
            let (text, _) = tcp(&fetch, &|| new.inside(|| TcpListener::bind((ip(2), 0)).unwrap()));
            assert_eq!(text, "hello");
            network.remove_link(&uid(1), 2 * sandbox).await.unwrap();
            let (text, _) = tcp(&fetch, &|| new.inside(|| TcpListener::bind((ip(2), 0)).unwrap()));
            assert_eq!(text, "hello", "also when the old one is gone at last");
            network.remove_link(&uid(1), 2 * sandbox + 1).await.unwrap();
        }
    });
}

/// How often this machine had to repeat the first packet of a connection (a column of two lines, by name).
fn repeated_beginnings() -> String {
    let table = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "TCPSynRetrans").unwrap();
    values.split(' ').nth(at).unwrap().to_owned()
}

#[test]
fn a_pod_is_reached_as_soon_as_it_is_attached() {
    on_a_machine(async || {
        let network = Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap();
        for number in 2..12 {
            let pod = Infra::start();
            let listener = pod.inside(|| TcpListener::bind("0.0.0.0:0").unwrap());
            let port = listener.local_addr().unwrap().port();
            network.attach(&uid(number), 0, pod.pid(), ip(number)).await.unwrap();
            TcpStream::connect((ip(number), port)).unwrap();
        }
        assert_eq!(repeated_beginnings(), "0", "a packet was lost: a second each");
    });
}

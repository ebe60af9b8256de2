//! Ports of the machine that lead to pods.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::model::{HostPort, Protocol};

const PATIENCE: Duration = Duration::from_mins(1);

fn port(protocol: Protocol, host_ip: Option<&str>, host_port: u16, container_port: u16) -> HostPort {
    HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port,
        protocol,
    }
}

fn tcp_and_udp(host_port: u16, container_port: u16) -> [HostPort; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| port(protocol, None, host_port, container_port))
}

/// The host that a machine of our own is reached from: behind its other interface, and it knows nothing of pods.
fn outside() -> Infra {
    let outside = Infra::start();
    shell(&format!(
        "ip link add up0 type veth peer name up1 netns {}; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up",
        outside.pid()
    ));
    outside.inside(|| shell("ip addr add 192.0.2.9/24 dev up1; ip link set up1 up"));
    outside
}

/// In a pod: who asks over TCP and UDP is told whom the pod sees.
fn serve(pod: &Infra, number: u16) {
    let listener = pod.inside(|| TcpListener::bind(("0.0.0.0", number)).unwrap());
    let socket = pod.inside(|| UdpSocket::bind(("0.0.0.0", number)).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// Whom the server at this address sees over TCP and over UDP.
fn ask(to: &str, number: u16) -> [IpAddr; 2] {
    let mut by_tcp = String::new();
    let mut stream = TcpStream::connect((to, number)).unwrap_or_else(|error| panic!("{to}:{number}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_string(&mut by_tcp).unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((to, number)).unwrap();
    let by_udp = ask_udp(&socket);
    [by_tcp.parse().unwrap(), by_udp.parse().unwrap()]
}

fn ask_udp(socket: &UdpSocket) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"who").unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

fn refused(to: &str, number: u16) -> bool {
    TcpStream::connect((to, number)).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn table() -> String {
    shell("nft list table ip podd-br0")
}

/// Whoever has the port leads to a pod with this address, as the packet filter has it.
fn leads(number: u16, to: Ipv4Addr) -> bool {
    table().contains(&format!("{number} : {to} . "))
}

/// Wait until it is so; other tasks go on meanwhile.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

async fn machine() -> Network {
    Network::open(config("br0", "10.99.0.0/24"), Vec::new()).await.unwrap()
}

#[test]
fn everybody_reaches_a_port_and_is_seen_as_far_as_can_be() {
    on_a_machine(async || {
        let outside = outside();
        let network = machine().await;
        let (pod, other) = (Infra::start(), Infra::start());
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        network.attach(&uid(2), 0, other.pid(), ip(3)).await.unwrap();
        serve(&pod, 80);
        network.reflect(&uid(1), 0).await.unwrap();
        network.set_ports(&uid(1), ip(2), &tcp_and_udp(8001, 80)).await.unwrap();

        let gateway = [IpAddr::from(ip(1)); 2];
        let up = [IpAddr::from([192, 0, 2, 1]); 2];
        let filtered = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
        // Bridges have the packets that they pass filtered, or not.
        for value in ["1", "0"] {
            if filtered.exists() {
                fs::write(filtered, value).unwrap();
            }
            assert_eq!(ask("127.0.0.1", 8001), gateway, "the machine's localhost");
            assert_eq!(ask("127.7.7.7", 8001), gateway, "any address of it");
            assert_eq!(ask("10.99.0.1", 8001), gateway, "the bridge");
            assert_eq!(ask("192.0.2.1", 8001), up, "the machine's other address");
            for at in ["10.99.0.1", "192.0.2.1"] {
                assert_eq!(other.inside(|| ask(at, 8001)), gateway, "another pod, {at}");
                assert_eq!(pod.inside(|| ask(at, 8001)), gateway, "the pod itself, {at}");
            }
            let client = [IpAddr::from([192, 0, 2, 9]); 2];
            assert_eq!(outside.inside(|| ask("192.0.2.1", 8001)), client, "from outside");
        }
        // The pod's own address is reached as before, and the port is no port of another machine.
        assert_eq!(ask("10.99.0.2", 80), gateway);
        assert!(refused("10.99.0.2", 8001));
        assert!(other.inside(|| refused("10.99.0.2", 8001)));
    });
}

#[test]
fn a_port_may_be_of_one_address_or_protocol_alone() {
    on_a_machine(async || {
        let _outside = outside();
        let network = machine().await;
        let pods = [2, 3, 4].map(|last| (last, Infra::start()));
        for (last, pod) in &pods {
            network.attach(&uid(*last), 0, pod.pid(), ip(*last)).await.unwrap();
            let listener = pod.inside(|| TcpListener::bind("0.0.0.0:80").unwrap());
            let answer = last.to_string();
            std::thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
        let set = async |last: u8, port: HostPort| network.set_ports(&uid(last), ip(last), &[port]).await.unwrap();
        set(2, port(Protocol::Tcp, Some("127.0.0.1"), 8001, 80)).await;
        set(3, port(Protocol::Tcp, Some("192.0.2.1"), 8001, 80)).await;
        set(4, port(Protocol::Udp, None, 8001, 80)).await;
        let fetch = |to: &str| fetch(SocketAddr::new(to.parse().unwrap(), 8001));
        assert_eq!(fetch("127.0.0.1"), "2");
        assert_eq!(fetch("192.0.2.1"), "3");
        assert!(refused("10.99.0.1", 8001));
        let socket = pods[2].1.inside(|| UdpSocket::bind("0.0.0.0:80").unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .send_to(b"x", "127.0.0.1:8001")
            .unwrap();
        assert_eq!(socket.recv_from(&mut [0; 8]).unwrap().1.ip(), ip(1));

        // All addresses but those that have their own.
        set(4, port(Protocol::Tcp, None, 8001, 80)).await;
        assert_eq!(["127.0.0.1", "192.0.2.1", "10.99.0.1"].map(fetch), ["2", "3", "4"]);
        // SCTP is a protocol like the others.
        set(4, port(Protocol::Sctp, None, 8001, 80)).await;
        assert!(table().contains("map sctp_any") && leads(8001, ip(4)), "{}", table());
    });
}

#[test]
fn nothing_is_left_of_ports() {
    on_a_machine(async || {
        let network = machine().await;
        let plain = table();
        assert!(!plain.contains("dnat"), "{plain}");
        let localnet = || shell("cat /proc/sys/net/ipv4/conf/br0/route_localnet");
        assert_eq!(localnet(), "0\n");
        let (a, b) = (Infra::start(), Infra::start());
        network.attach(&uid(1), 0, a.pid(), ip(2)).await.unwrap();
        network.attach(&uid(2), 0, b.pid(), ip(3)).await.unwrap();
        network.set_ports(&uid(1), ip(2), &tcp_and_udp(8001, 80)).await.unwrap();
        let one = table();
        network.set_ports(&uid(2), ip(3), &tcp_and_udp(8002, 80)).await.unwrap();
        let two = table();
        assert!(leads(8001, ip(2)) && leads(8002, ip(3)), "{two}");
        assert_eq!(localnet(), "1\n");
        // Again: nothing happens.
        network.set_ports(&uid(2), ip(3), &tcp_and_udp(8002, 80)).await.unwrap();
        assert_eq!(table(), two);
        network.remove_ports(&uid(2)).await.unwrap();
        network.remove_ports(&uid(2)).await.unwrap();
        assert_eq!(table(), one);
        network.remove_ports(&uid(1)).await.unwrap();
        assert_eq!(table(), plain);
        assert_eq!(localnet(), "0\n");
        network.close().await.unwrap();
        assert_eq!(shell("nft list tables"), "");
    });
}

#[test]
fn the_later_pod_has_what_two_want() {
    on_a_machine(async || {
        let network = machine().await;
        let (old, new) = (Infra::start(), Infra::start());
        network.attach(&uid(1), 0, old.pid(), ip(2)).await.unwrap();
        network.attach(&uid(2), 0, new.pid(), ip(3)).await.unwrap();
        network.set_ports(&uid(1), ip(2), &tcp_and_udp(8001, 80)).await.unwrap();
        network.set_ports(&uid(2), ip(3), &tcp_and_udp(8001, 81)).await.unwrap();
        assert!(leads(8001, ip(3)) && !leads(8001, ip(2)));
        // The old one goes at last.
        network.remove_ports(&uid(1)).await.unwrap();
        assert!(leads(8001, ip(3)));

        // The same after a new agent's start, and from its first moment.
        drop(network);
        let wanted = |number: u8, last: u8| PodPorts {
            uid: uid(number),
            ip: ip(last),
            ports: tcp_and_udp(8001, 80).to_vec(),
        };
        let again = Network::open(config("br0", "10.99.0.0/24"), vec![wanted(1, 2), wanted(2, 3)])
            .await
            .unwrap();
        assert!(leads(8001, ip(3)) && !leads(8001, ip(2)));
        again.remove_ports(&uid(2)).await.unwrap();
        assert!(leads(8001, ip(2)));
    });
}

#[test]
fn whatever_is_done_to_the_table_it_comes_back() {
    on_a_machine(async || {
        shell("nft add table ip mine; nft add chain ip mine keep; nft add rule ip mine keep counter accept");
        let foreign = || shell("nft -a list table ip mine");
        let before = foreign();
        let network = machine().await;
        let plain = table();
        shell("nft delete table ip podd-br0");
        until("masquerading to come back", || {
            shell("nft list tables").contains("podd-br0")
        })
        .await;
        assert_eq!(table(), plain);

        let pod = Infra::start();
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        serve(&pod, 80);
        network.set_ports(&uid(1), ip(2), &tcp_and_udp(8001, 80)).await.unwrap();
        let whole = table();
        for harm in [
            "nft delete table ip podd-br0",
            "nft flush table ip podd-br0",
            "nft flush chain ip podd-br0 ports",
            "nft flush map ip podd-br0 tcp_any",
            "nft delete element ip podd-br0 tcp_any '{ 8001 : 10.99.0.2 . 80 }'",
            "nft insert rule ip podd-br0 guard tcp dport 8001 drop",
        ] {
            shell(harm);
            until(harm, || {
                let tables = shell("nft list tables");
                tables.contains("podd-br0") && table() == whole
            })
            .await;
            assert_eq!(ask("127.0.0.1", 8001), [IpAddr::from(ip(1)); 2], "{harm}");
        }
        // A pod that comes between harm and repair is not lost.
        shell("nft delete table ip podd-br0");
        network.set_ports(&uid(1), ip(2), &tcp_and_udp(8002, 80)).await.unwrap();
        assert!(leads(8002, ip(2)));
        assert_eq!(foreign(), before);
    });
}

#[test]
fn our_own_changes_are_not_mended() {
    on_a_machine(async || {
        let network = machine().await;
        let pod = Infra::start();
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        let mut nfnetlink = crate::linux::nfnetlink::Nfnetlink::open().unwrap();
        let mut monitor = Monitor::open("podd-br0").unwrap();
        let before = nfnetlink.generation().unwrap();
        for number in 1..=5 {
            network
                .set_ports(&uid(1), ip(2), &tcp_and_udp(8000 + number, 80))
                .await
                .unwrap();
        }
        // A change by somebody else is mended once: that makes seven in all.
        shell("nft flush map ip podd-br0 tcp_any");
        let mut heard = Vec::new();
        while heard.len() < 7 {
            let more = tokio::time::timeout(PATIENCE, monitor.next()).await.unwrap().unwrap();
            let crate::linux::nfnetlink::Heard::Changed(more) = more else {
                panic!("the monitor lost something");
            };
            heard.extend(more);
        }
        assert_eq!(heard, (1..=7).map(|n| before.wrapping_add(n)).collect::<Vec<_>>());
        assert_eq!(nfnetlink.generation().unwrap(), before.wrapping_add(7));
    });
}

#[test]
fn a_client_that_goes_on_sending_reaches_the_new_pod() {
    on_a_machine(async || {
        let outside = outside();
        let network = machine().await;
        let pods = [2, 3].map(|last| (last, Infra::start()));
        for (last, pod) in &pods {
            network.attach(&uid(*last), 0, pod.pid(), ip(*last)).await.unwrap();
            let socket = pod.inside(|| UdpSocket::bind("0.0.0.0:80").unwrap());
            let answer = format!("pod {last}");
            std::thread::spawn(move || {
                while let Ok((_, peer)) = socket.recv_from(&mut [0; 16]) {
                    let _ = socket.send_to(answer.as_bytes(), peer);
                }
            });
        }
        let clients = [
            ("127.0.0.1", UdpSocket::bind("127.0.0.1:0").unwrap()),
            ("192.0.2.1", outside.inside(|| UdpSocket::bind("192.0.2.9:0").unwrap())),
        ];
        // They begin before there is anybody.
        for (at, client) in &clients {
            client.connect((*at, 8001)).unwrap();
            client.send(b"who").unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.recv(&mut [0; 8]).unwrap_err();
        }
        for last in [2, 3] {
            network
                .set_ports(&uid(last), ip(last), &tcp_and_udp(8001, 80))
                .await
                .unwrap();
            for (at, client) in &clients {
                assert_eq!(ask_udp(client), format!("pod {last}"), "at {at}");
            }
        }
        // A TCP connection to whoever has listened on the machine itself goes on.
        let listener = TcpListener::bind("127.0.0.1:8002").unwrap();
        let mut ours = TcpStream::connect("127.0.0.1:8002").unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        network.set_ports(&uid(3), ip(3), &tcp_and_udp(8002, 80)).await.unwrap();
        theirs.write_all(b"hello").unwrap();
        drop(theirs);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    });
}

#[test]
fn what_listens_on_localhost_is_not_the_pods() {
    on_a_machine(async || {
        let network = machine().await;
        let pod = Infra::start();
        network.attach(&uid(1), 0, pod.pid(), ip(2)).await.unwrap();
        network.set_ports(&uid(1), ip(2), &tcp_and_udp(8001, 80)).await.unwrap();
        let socket = UdpSocket::bind("0.0.0.0:9000").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // A pod that may do anything with its network sends to the machine's 127.0.0.1, and from it.
        pod.inside(|| {
            shell("ip addr flush dev lo; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
            shell("ip route add 127.0.0.1 via 10.99.0.1; ip addr add 127.0.0.5/32 dev eth0");
            let to = |from: &str, at: &str| UdpSocket::bind((from, 0)).unwrap().send_to(from.as_bytes(), (at, 9000));
            to("10.99.0.2", "127.0.0.1").unwrap();
            to("127.0.0.5", "10.99.0.1").unwrap();
            to("10.99.0.2", "10.99.0.1").unwrap();
        });
        let mut buffer = [0; 16];
        let (_, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), ip(2), "only the last one arrives");
        socket.set_nonblocking(true).unwrap();
        assert_eq!(
            socket.recv_from(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );

        // It would arrive, if nothing stood in its way (nobody mends rules while this test does not wait).
        shell("nft flush chain ip podd-br0 guard");
        socket.set_nonblocking(false).unwrap();
        pod.inside(|| {
            let client = UdpSocket::bind(("10.99.0.2", 0)).unwrap();
            client.send_to(b"x", ("127.0.0.1", 9000)).unwrap();
        });
        assert_eq!(socket.recv_from(&mut buffer).unwrap().1.ip(), ip(2));
    });
}

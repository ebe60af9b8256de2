//! Registries that only a proxy reaches.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::common::{Agent, busybox_root_tar};
use crate::fake_registry::{FakeRegistry, Guard};
use crate::pull::{CREDENTIALS, Registry, write_hosts};

const PASSWORD: &str = "ann:hunter2";

/// A proxy that knows names which nobody else knows, and wants a password.
struct Proxy {
    address: SocketAddr,
    /// First lines of requests.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(known: BTreeMap<&'static str, String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&seen);
        let known = Arc::new(known);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (told, known) = (Arc::clone(&told), Arc::clone(&known));
                std::thread::spawn(move || drop(relay(connection, &told, &known)));
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn relay(mut client: TcpStream, told: &Mutex<Vec<String>>, known: &BTreeMap<&str, String>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        head.push(line);
    }
    let first = head.first().cloned().unwrap_or_default();
    told.lock().unwrap().push(first.trim().to_owned());
    let password = format!("Basic {}", STANDARD.encode(PASSWORD));
    let is_password =
        |line: &String| line.to_lowercase().starts_with("proxy-authorization:") && line.contains(&password);
    if !head.iter().any(is_password) {
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let authority = target.strip_prefix("http://").unwrap_or(target);
    let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
    let Some(address) = known.get(authority) else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
    };
    let mut server = TcpStream::connect(address)?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        write!(server, "{method} {path} HTTP/1.1\r\n")?;
        for line in &head[1..] {
            server.write_all(line.as_bytes())?;
        }
        server.write_all(b"\r\n")?;
    }
    let (mut up, mut down) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut down, &mut up);
        let _ = up.shutdown(std::net::Shutdown::Write);
    });
    io::copy(&mut reader, &mut server)?;
    server.shutdown(std::net::Shutdown::Write)
}

#[test]
fn registries_are_asked_through_the_proxies_of_the_environment_and_this_machine_is_not() {
    let secure = Registry::guarded();
    secure.push("team/app:v1", "through a tunnel");
    let plain = FakeRegistry::start(Guard::Open);
    let scratch = tempfile::tempdir().unwrap();
    plain.put("team/app", "v1", &[fs::read(busybox_root_tar(scratch.path())).unwrap()]);
    let proxy = Proxy::start(BTreeMap::from([
        ("registry.test:443", secure.host()),
        ("plain.test", plain.host()),
    ]));
    let hosts = secure.hosts_for("registry.test");
    write_hosts(&hosts, "plain.test", "server = \"http://plain.test\"\n");
    let config = scratch.path().join("config.json");
    let auth = json!({"auths": {"registry.test": {"auth": STANDARD.encode(CREDENTIALS)}}});
    fs::write(&config, auth.to_string()).unwrap();
    let extra = [
        format!("--registry-config={}", hosts.display()),
        format!("--docker-config={}", config.display()),
    ];
    let extra = extra.each_ref().map(String::as_str);

    let address = format!("http://{PASSWORD}@{}", proxy.address);
    let agent = Agent::start_empty_in(&extra, &[("HTTPS_PROXY", &address), ("http_proxy", &address)]);
    for image in ["registry.test/team/app:v1", "plain.test/team/app:v1"] {
        let pulled = agent.podd(&["image", "pull", image]);
        assert!(pulled.status.success(), "{image}: {pulled:?} {:?}", proxy.seen());
    }
    let seen = proxy.seen();
    let absolute = "GET http://plain.test/v2/team/app/blobs/";
    assert!(
        seen.iter().any(|line| line == "CONNECT registry.test:443 HTTP/1.1"),
        "{seen:?}"
    );
    assert!(seen.iter().any(|line| line.starts_with(absolute)), "{seen:?}");
    let direct = agent.podd(&["image", "pull", &plain.name("team/app:v1")]);
    assert!(direct.status.success(), "{direct:?}");
    assert_eq!(proxy.seen(), seen, "the machine itself is asked directly");
    assert!(!agent.agent_log().contains("hunter2"), "a password was logged");
    drop(agent);

    // What is excepted is asked directly, where nobody knows its name; a refusal is the proxy's, which is named.
    let wrong = format!("http://ann:wrong@{}", proxy.address);
    let agent = Agent::start_empty_in(
        &extra,
        &[("HTTPS_PROXY", &wrong), ("NO_PROXY", "other.example,.test:80")],
    );
    let refused = agent.podd(&["image", "pull", "registry.test/team/app:v1"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    let named = format!(
        "proxy http://{}/: tunnel error: proxy authorization required",
        proxy.address
    );
    assert!(said.contains(&named), "{said}");
    drop(agent);
    let agent = Agent::start_empty_in(&extra, &[("HTTPS_PROXY", &wrong), ("NO_PROXY", "other.example,.test")]);
    let before = proxy.seen().len();
    let refused = agent.podd(&["image", "pull", "registry.test/team/app:v1"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("lookup registry.test"), "{said}");
    assert_eq!(proxy.seen().len(), before);
    drop(agent);
    let agent = Agent::start_empty_in(&extra, &[("HTTPS_PROXY", "socks5://127.0.0.1:1")]);
    let refused = agent.podd(&["image", "pull", "registry.test/team/app:v1"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("HTTPS_PROXY is not the address of a proxy"), "{said}");
}

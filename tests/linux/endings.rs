//! Probes and hooks that fail, and grace that is used up: what ends a container before its time, and what is told of it.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Response, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::common::{Agent, container, pod, uid, wait_for, with};

/// The messages of a pod's events with this reason.
fn told(agent: &Agent, name: &str, reason: &str) -> Vec<String> {
    let path = format!("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={name},reason={reason}");
    let listed = agent.request("GET", &path, None).json();
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect()
}

fn wait_told(agent: &Agent, name: &str, reason: &str, is: impl Fn(&str) -> bool) {
    wait_for(&format!("an event {reason} of {name}"), || {
        let all = told(agent, name, reason);
        if all.iter().any(|message| is(message)) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
}

fn restarted(pod: &Value) -> bool {
    container(pod, "c")["restartCount"]
        .as_i64()
        .is_some_and(|count| count >= 1)
}

#[test]
fn a_container_that_does_not_start_up_is_started_again() {
    let agent = Agent::start();
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["terminationGracePeriodSeconds"] = json!(0);
        let c = &mut p["spec"]["containers"][0];
        c["startupProbe"] = json!({"exec": {"command": ["/bin/sh", "-c", "echo not yet; exit 3"]}, "periodSeconds": 1, "failureThreshold": 2});
        // Neither of these is asked before the startup probe has succeeded.
        c["livenessProbe"] = json!({"exec": {"command": ["/bin/sh", "-c", "touch /asked"]}, "periodSeconds": 1});
        c["readinessProbe"] = json!({"exec": {"command": ["/bin/sh", "-c", "touch /asked"]}, "periodSeconds": 1});
    }));
    let made = agent.wait_running("p");
    let root = format!("/proc/{}/root", agent.container_pid(&uid(&made), "c"));
    let after = agent.wait_pod("p", "to be started again", |p| {
        assert!(!Path::new(&root).join("asked").exists(), "probed before it had started");
        assert!(
            container(p, "c")["started"] != true && container(p, "c")["ready"] != true,
            "{p:#}"
        );
        restarted(p)
    });
    let last = &container(&after, "c")["lastState"]["terminated"];
    assert_eq!(
        (&last["exitCode"], &last["reason"]),
        (&json!(137), &json!("Error")),
        "{after:#}"
    );
    wait_told(&agent, "p", "Unhealthy", |message| {
        message == "Startup probe failed: not yet\n"
    });
    wait_told(&agent, "p", "Killing", |message| {
        message == "Container c failed startup probe, will be restarted"
    });
}

/// A web server with a certificate that nobody knows, on one address of the machine.
struct Secure {
    child: Child,
    port: u16,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Secure {
    fn start(dir: &Path, address: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["somebody.else".to_owned()]).unwrap();
        fs::write(
            dir.join("both.pem"),
            format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem()),
        )
        .unwrap();
        fs::create_dir_all(dir.join("www")).unwrap();
        let program = "import http.server, ssl, sys
server = http.server.ThreadingHTTPServer((sys.argv[1], 0), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('../both.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()";
        let mut child = Command::new("python3")
            .args(["-c", program, address])
            .current_dir(dir.join("www"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is installed");
        let mut stdout = child.stdout.take().unwrap();
        let (mut text, mut byte) = (String::new(), [0]);
        while stdout.read_exact(&mut byte).is_ok() && byte != *b"\n" {
            text.push(char::from(byte[0]));
        }
        let port = text.parse().unwrap();
        Self { child, port }
    }
}

#[test]
fn an_https_probe_asks_whoever_has_the_certificate() {
    let agent = Agent::start();
    let gateway = agent.gateway().to_string();
    let server = Secure::start(&agent.dir, &gateway);
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["containers"][0]["readinessProbe"] = json!({"periodSeconds": 1, "failureThreshold": 1,
            "httpGet": {"scheme": "HTTPS", "host": gateway, "port": server.port, "path": "/here"}});
    }));
    wait_told(&agent, "p", "Unhealthy", |message| {
        message == "Readiness probe failed: HTTP probe failed with statuscode: 404"
    });
    fs::write(agent.dir.join("www/here"), "").unwrap();
    agent.wait_pod("p", "to be ready", |p| container(p, "c")["ready"] == true);
}

/// `grpc.health.v1.Health` on a port of every address; `status` is what it answers.
fn health(status: Arc<AtomicU8>) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let status = Arc::clone(&status);
                let service = service_fn(move |_request| {
                    let answer = Bytes::from(vec![0, 0, 0, 0, 2, 8, status.load(Ordering::Relaxed)]);
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    let frames = [
                        Ok::<_, std::io::Error>(Frame::data(answer)),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let response = Response::builder().header("content-type", "application/grpc");
                    std::future::ready(response.body(StreamBody::new(stream::iter(frames))))
                });
                tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service));
            }
        });
    });
    port
}

#[test]
fn a_grpc_probe_asks_for_the_health_of_a_service() {
    const SERVING: u8 = 1;
    const NOT_SERVING: u8 = 2;
    let status = Arc::new(AtomicU8::new(NOT_SERVING));
    let port = health(Arc::clone(&status));
    let agent = Agent::start();
    // On the machine's network its address is the machine's.
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["hostNetwork"] = json!(true);
        p["spec"]["containers"][0]["readinessProbe"] =
            json!({"grpc": {"port": port}, "periodSeconds": 1, "failureThreshold": 1});
    }));
    wait_told(&agent, "p", "Unhealthy", |message| {
        message == "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")"
    });
    status.store(SERVING, Ordering::Relaxed);
    agent.wait_pod("p", "to be ready", |p| container(p, "c")["ready"] == true);
    status.store(NOT_SERVING, Ordering::Relaxed);
    agent.wait_pod("p", "to be unready", |p| container(p, "c")["ready"] == false);
}

#[test]
fn a_post_start_hook_that_fails_is_told_as_such() {
    let agent = Agent::start();
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["terminationGracePeriodSeconds"] = json!(0);
        p["spec"]["containers"][0]["lifecycle"] =
            json!({"postStart": {"exec": {"command": ["/bin/sh", "-c", "exit 7"]}}});
    }));
    agent.wait_pod("p", "to say so", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "PostStartHookError" || restarted(p)
    });
    wait_told(&agent, "p", "FailedPostStartHook", |message| {
        message.starts_with("PostStartHook failed")
    });
    wait_told(&agent, "p", "Killing", |message| message == "FailedPostStartHook");
    agent.wait_pod("p", "to be started again", restarted);
}

#[test]
fn a_pre_stop_hook_that_does_not_end_uses_up_the_grace_and_no_more() {
    let agent = Agent::start();
    let said = agent.dir.join("said");
    let script = "trap 'echo asked >> /out/log; exit 0' TERM; while :; do sleep 0.1; done";
    agent.create(&with(pod("p", &[("c", script)]), |p| {
        p["spec"]["volumes"] = json!([{"name": "out", "hostPath": {"path": said, "type": "DirectoryOrCreate"}}]);
        let c = &mut p["spec"]["containers"][0];
        c["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
        c["lifecycle"] =
            json!({"preStop": {"exec": {"command": ["/bin/sh", "-c", "echo hook >> /out/log; sleep 1000"]}}});
    }));
    agent.wait_running("p");
    agent.delete("p", Some(2));
    agent.wait_gone("p");
    // The hook was run; the container was then asked, in the two seconds that Kubernetes always leaves for that.
    assert_eq!(fs::read_to_string(said.join("log")).unwrap(), "hook\nasked\n");
}

#[test]
fn a_container_is_stopped_with_the_signal_it_asked_for() {
    let agent = Agent::start();
    let said = agent.dir.join("said");
    let script = "trap 'echo TERM >> /out/log; exit 1' TERM; trap 'echo USR1 >> /out/log; exit 0' USR1; \
                  while :; do sleep 0.1; done";
    let made = agent.create(&with(pod("p", &[("c", script)]), |p| {
        p["spec"]["os"] = json!({"name": "linux"});
        p["spec"]["volumes"] = json!([{"name": "out", "hostPath": {"path": said, "type": "DirectoryOrCreate"}}]);
        let c = &mut p["spec"]["containers"][0];
        c["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
        c["lifecycle"] = json!({"stopSignal": "SIGUSR1"});
    }));
    assert_eq!(made["spec"]["containers"][0]["lifecycle"]["stopSignal"], "SIGUSR1");
    let running = agent.wait_running("p");
    assert_eq!(container(&running, "c")["stopSignal"], "SIGUSR1", "{running:#}");
    // Its traps are set once it waits.
    let id = uid(&running);
    wait_for("the container to wait for signals", || {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.container_pid(&id, "c"))).unwrap_or_default();
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .unwrap_or_default()
            .trim()
            .to_owned();
        let caught = u64::from_str_radix(&caught, 16).unwrap_or_default();
        if caught & (1 << 9) != 0 {
            Ok(())
        } else {
            Err(format!("{caught:x}"))
        }
    });
    agent.delete("p", Some(20));
    agent.wait_gone("p");
    assert_eq!(fs::read_to_string(said.join("log")).unwrap(), "USR1\n");
}

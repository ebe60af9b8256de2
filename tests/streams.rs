//! exec, attach, cp and port-forward as kubectl of every version does them: router, store and TLS listener, the real
//! command, and processes of this machine in the place of a pod's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "../src/api/stream/tests/fake.rs"]
mod fake;

/// Where the fake looks for them.
mod model {
    pub(crate) use podd::model::Uid;
}
mod runtime {
    pub(crate) use podd::runtime::stream;
}

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fake::Local;
use podd::account::{self, Accounts};
use podd::api::auth::Bearers;
use podd::api::tls::Pki;
use podd::api::{self, ApiState};
use podd::garbage;
use podd::model::Timestamp;
use podd::store::Store;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[expect(clippy::disallowed_methods, reason = "kubectl has no other clock either")]
fn now() -> Timestamp {
    Timestamp::now()
}

struct Server {
    dir: tempfile::TempDir,
    local: Arc<Local>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// With one pod `web` that runs: its containers are `main` and `side`.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        let settings = garbage::Settings {
            ca: String::new(),
            api: "10.1.2.3:6443".parse().unwrap(),
            kinds: Vec::new(),
            clock: now,
        };
        garbage::bootstrap(&store, &settings).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listening = listener.local_addr().unwrap();
        let pki = Pki::open(dir.path(), "node-1", listening, None, now()).unwrap();
        pki.write_kubeconfig(&dir.path().join("admin.kubeconfig"), listening)
            .unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let local = Local::new(inside);
        let (_ready, ready) = watch::channel(true);
        let accounts = account::Settings {
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            node_name: "node-1".to_owned(),
            clock: now,
        };
        let accounts = Accounts::new(store.clone(), pki.account_key().unwrap(), accounts);
        let bearers = Bearers::open(dir.path(), Arc::new(accounts));
        let state = ApiState {
            store: store.clone(),
            node_name: "node-1".to_owned(),
            log_dir: dir.path().join("logs"),
            ready,
            streams: Arc::<Local>::clone(&local),
            streaming_idle_timeout: Duration::from_hours(4),
            bearers: bearers.clone(),
            address: listening,
            clock: now,
        };
        let (stop, stopping) = watch::channel(false);
        let router = api::router(state);
        let task = tokio::spawn(api::serve_tls(
            listener,
            pki.server_config(bearers).unwrap(),
            router,
            stopping,
        ));
        let server = Self { dir, local, stop, task };
        server.pod(&store).await;
        server
    }

    async fn pod(&self, store: &Store) {
        let container =
            |name: &str| json!({"name": name, "image": "busybox:test", "command": ["sleep", "1"], "stdin": true});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {"containers": [container("main"), container("side")]},
        });
        let path = self.dir.path().join("web.json");
        std::fs::write(&path, pod.to_string()).unwrap();
        self.kubectl(
            &kubectls()[0],
            &["create", "--validate=false", "-f", path.to_str().unwrap()],
        )
        .await;
        let uid = store.get("Pod", "default", "web").await.unwrap().unwrap().uid;
        let running = |name: &str| -> Value {
            json!({"name": name, "image": "busybox:test", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
        };
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [running("main"), running("side")]});
        store.set_status(&uid, status).await.unwrap();
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        self.local.until_alive(0).await;
    }

    fn command(&self, kubectl: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl);
        command
            .arg(format!(
                "--kubeconfig={}",
                self.dir.path().join("admin.kubeconfig").display()
            ))
            .arg(format!("--cache-dir={}", self.dir.path().join("cache").display()))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, kubectl: &Path, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(kubectl, arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeding = tokio::spawn(async move {
            // A program that reads nothing closes early.
            let _closed = stdin.write_all(&input).await;
        });
        let output = child.wait_with_output().await.unwrap();
        feeding.abort();
        output
    }

    async fn kubectl(&self, kubectl: &Path, arguments: &[&str]) -> String {
        let output = self.run(kubectl, arguments, b"").await;
        assert!(
            output.status.success(),
            "{} {arguments:?}: {output:?}",
            kubectl.display()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// A port-forward to this port, and the port it listens on itself.
    async fn forward(&self, kubectl: &Path, port: u16) -> (Child, u16) {
        let mut child = self
            .command(
                kubectl,
                &["port-forward", "pod/web", &format!(":{port}"), "--address=127.0.0.1"],
            )
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).await.unwrap();
        // Forwarding from 127.0.0.1:40001 -> 80
        let local = line.split([':', ' ']).nth(3).and_then(|p| p.parse().ok());
        (
            child,
            local.unwrap_or_else(|| panic!("{}: {line:?}", kubectl.display())),
        )
    }
}

/// Every kubectl of this machine, oldest first: by SPDY alone up to 1.28, by WebSocket from 1.30 on.
fn kubectls() -> Vec<PathBuf> {
    let found = std::process::Command::new("sh")
        .args(["-c", "command -v kubectl"])
        .output()
        .unwrap();
    let first = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    let Ok(real) = std::fs::canonicalize(&first) else {
        return Vec::new();
    };
    let versions = std::fs::read_dir(real.parent().unwrap()).unwrap();
    let mut all: Vec<PathBuf> = versions
        .map(|e| e.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("kubectl.1."))
        .collect();
    all.sort();
    if all.is_empty() { vec![first] } else { all }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_every_version_runs_programs() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        let version = kubectl.display();
        let exec = |rest: &[&'static str]| [&["exec", "web", "-c", "main"], rest].concat();
        let said = server
            .run(
                &kubectl,
                &exec(&["--", "sh", "-c", "echo out; echo err >&2; exit 3"]),
                b"",
            )
            .await;
        assert_eq!(said.status.code(), Some(3), "{version}: {said:?}");
        assert_eq!(text(&said.stdout), "out\n", "{version}");
        assert!(
            text(&said.stderr).starts_with("err\n") && text(&said.stderr).contains("exit code 3"),
            "{version}: {said:?}"
        );
        let said = server.run(&kubectl, &exec(&["-i", "--", "sort"]), b"b\na\nc\n").await;
        assert!(said.status.success(), "{version}: {said:?}");
        assert_eq!(
            text(&said.stdout),
            "a\nb\nc\n",
            "{version}: the end of the input arrives"
        );
        let said = server.run(&kubectl, &exec(&["--", "no-such-program"]), b"").await;
        assert!(
            text(&said.stderr).contains("exec: \"no-such-program\": no such file or directory"),
            "{version}: {said:?}"
        );
        // Input that nobody reads holds nothing up.
        let said = server
            .run(&kubectl, &exec(&["-i", "--", "true"]), &vec![0; 4_000_000])
            .await;
        assert!(said.status.success(), "{version}: {said:?}");
        let said = server
            .run(&kubectl, &["exec", "web", "-c", "nobody", "--", "true"], b"")
            .await;
        assert!(
            text(&said.stderr).contains("container nobody is not valid for pod web")
                || text(&said.stderr).contains("container not found"),
            "{version}: {said:?}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_every_version_works_in_a_terminal() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        // kubectl's own terminal is made by Python, 33 rows and 99 columns.
        let python = "import os,pty,sys,fcntl,termios,struct\n\
            pid,fd=pty.fork()\n\
            if pid==0:\n\
            \x20 fcntl.ioctl(0,termios.TIOCSWINSZ,struct.pack('HHHH',33,99,0,0))\n\
            \x20 os.execv(sys.argv[1],sys.argv[1:])\n\
            out=b''\n\
            sent=False\n\
            while True:\n\
            \x20 try: piece=os.read(fd,4096)\n\
            \x20 except OSError: break\n\
            \x20 if not piece: break\n\
            \x20 out+=piece\n\
            \x20 if b'ready' in out and not sent:\n\
            \x20   os.write(fd,b'hello\\n'); sent=True\n\
            sys.stdout.write(out.decode())\n\
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]))\n";
        let config = format!("--kubeconfig={}", server.dir.path().join("admin.kubeconfig").display());
        let script = "\"test -t 0 && echo re''ady; read line; echo got \\$line; exit 5\"";
        let said = Command::new("python3")
            .args(["-c", python])
            .arg(&kubectl)
            .args([&config, "exec", "-it", "web", "-c", "main", "--", "sh", "-c", script])
            .output()
            .await
            .unwrap();
        let version = kubectl.display();
        assert_eq!(said.status.code(), Some(5), "{version}: {said:?}");
        assert!(text(&said.stdout).contains("got hello"), "{version}: {said:?}");
        let sizes = std::mem::take(&mut *server.local.sizes.lock().unwrap());
        let first = sizes.first().map(|size| (size.width, size.height));
        assert_eq!(first, Some((99, 33)), "{version}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_every_version_attaches() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        let said = server
            .run(&kubectl, &["attach", "-i", "web", "-c", "side"], b"to the container\n")
            .await;
        assert!(said.status.success(), "{}: {said:?}", kubectl.display());
        assert_eq!(
            text(&said.stdout),
            "attached to side\nto the container\n",
            "{}: {said:?}",
            kubectl.display()
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_every_version_copies_both_ways() {
    let server = Server::start().await;
    let (here, inside) = (server.dir.path().join("here"), server.dir.path().join("inside"));
    std::fs::create_dir_all(here.join("tree/deep")).unwrap();
    std::fs::write(here.join("tree/deep/file"), vec![7; 3_000_000]).unwrap();
    for kubectl in kubectls() {
        let run = |from: String, to: String| {
            let kubectl = kubectl.clone();
            let server = &server;
            async move { server.kubectl(&kubectl, &["cp", "-c", "main", &from, &to]).await }
        };
        run(
            here.join("tree").display().to_string(),
            format!("web:{}/tree", inside.display()),
        )
        .await;
        let arrived = std::fs::read(inside.join("tree/deep/file")).unwrap();
        assert_eq!(arrived, vec![7; 3_000_000], "{}", kubectl.display());
        run(
            format!("web:{}/tree", inside.display()),
            here.join("back").display().to_string(),
        )
        .await;
        let back = std::fs::read(here.join("back/deep/file")).unwrap();
        assert_eq!(back, vec![7; 3_000_000], "{}", kubectl.display());
        std::fs::remove_dir_all(inside.join("tree")).unwrap();
        std::fs::remove_dir_all(here.join("back")).unwrap();
    }
    server.stop().await;
}

/// Answers each connection with what it got, once it has got all of it.
async fn echo_at_the_end() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                connection.read_to_end(&mut all).await.unwrap();
                connection.write_all(&all).await.unwrap();
            });
        }
    });
    port
}

async fn asked(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    connection.write_all(bytes).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_every_version_forwards_ports() {
    let server = Server::start().await;
    let port = echo_at_the_end().await;
    for kubectl in kubectls() {
        let (mut forwarding, local) = server.forward(&kubectl, port).await;
        let many = (0..8_u8).map(|i| async move {
            let sent = vec![i; 1_000_000];
            assert!(asked(local, &sent).await == sent, "what was sent comes back");
        });
        futures_util::future::join_all(many).await;
        forwarding.kill().await.unwrap();
        // A port that nobody listens on.
        let (forwarding, local) = server.forward(&kubectl, 1).await;
        assert!(asked(local, b"").await.is_empty());
        let mut forwarding = forwarding;
        let mut line = String::new();
        let stderr = forwarding.stderr.as_mut().unwrap();
        let mut lines = BufReader::new(stderr);
        while !line.contains("connection refused") {
            assert!(
                lines.read_line(&mut line).await.unwrap() > 0,
                "{}: {line}",
                kubectl.display()
            );
        }
        assert!(
            line.contains("error forwarding port 1 to pod web"),
            "{}: {line}",
            kubectl.display()
        );
        forwarding.kill().await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_arrive_by_either_transport() {
    const SIZE: usize = 100_000_000;
    let server = Server::start().await;
    let all = kubectls();
    for kubectl in all.first().into_iter().chain(all.last()) {
        let mut child = server
            .command(kubectl, &["exec", "-i", "web", "-c", "main", "--", "cat"])
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sending = tokio::spawn(async move {
            let piece: Vec<u8> = (0..=255).cycle().take(65_536 + 1).collect();
            let mut left = SIZE;
            while left > 0 {
                let length = left.min(piece.len());
                stdin.write_all(&piece[..length]).await.unwrap();
                left -= length;
            }
        });
        let mut stdout = child.stdout.take().unwrap();
        let (mut received, mut buffer, mut wrong) = (0, vec![0; 65_536], 0);
        loop {
            let length = stdout.read(&mut buffer).await.unwrap();
            if length == 0 {
                break;
            }
            for byte in &buffer[..length] {
                wrong += usize::from(usize::from(*byte) != received % (65_536 + 1) % 256);
                received += 1;
            }
        }
        sending.await.unwrap();
        assert_eq!((received, wrong), (SIZE, 0), "{}", kubectl.display());
        assert!(child.wait().await.unwrap().success(), "{}", kubectl.display());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubectl_that_is_killed_takes_its_program_with_it() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        let mut child = server
            .command(&kubectl, &["exec", "-i", "web", "-c", "main", "--", "sleep", "1000"])
            .spawn()
            .unwrap();
        server.local.until_alive(1).await;
        child.kill().await.unwrap();
        server.local.until_alive(0).await;
    }
    server.stop().await;
}

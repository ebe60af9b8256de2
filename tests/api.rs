//! The API as kubectl meets it: router, store and TLS listener, and the real command.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use podd::api::kinds::{KINDS, Kind};
use podd::api::tls::Pki;
use podd::api::{self, ApiState};
use podd::garbage::{self, Garbage, OwnerKind, Settings};
use podd::model::{Timestamp, Uid};
use podd::store::{Change, Store};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[expect(clippy::disallowed_methods, reason = "kubectl has no other clock either")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn owner_kind(kind: &Kind) -> OwnerKind {
    OwnerKind {
        group: kind.group.to_owned(),
        kind: kind.kind.to_owned(),
        stored_as: kind.stored_as.to_owned(),
        namespaced: kind.namespaced,
    }
}

struct Server {
    dir: tempfile::TempDir,
    store: Store,
    stop: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listening = listener.local_addr().unwrap();
        let pki = Pki::open(dir.path(), "node-1", listening, now()).unwrap();
        pki.write_kubeconfig(&dir.path().join("admin.kubeconfig"), listening)
            .unwrap();
        let garbage = Garbage {
            store: store.clone(),
            settings: Settings {
                ca: pki.authority().to_owned(),
                api: listening,
                kinds: KINDS.iter().map(|kind| owner_kind(kind)).collect(),
                clock: now,
            },
        };
        garbage::bootstrap(&store, &garbage.settings).await.unwrap();
        let (_ready, ready) = watch::channel(true);
        let log_dir = dir.path().join("logs");
        let state = ApiState {
            store: store.clone(),
            node_name: "node-1".to_owned(),
            log_dir,
            ready,
            clock: now,
        };
        let (stop, stopping) = watch::channel(false);
        let router = api::router(state);
        let garbage = tokio::spawn(garbage.run(stopping.clone()));
        let task = tokio::spawn(api::serve_tls(listener, pki.server_config().unwrap(), router, stopping));
        Self {
            dir,
            store,
            stop,
            tasks: [task, garbage],
        }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    async fn run(&self, kubectl: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(kubectl);
        command
            .arg(format!(
                "--kubeconfig={}",
                self.dir.path().join("admin.kubeconfig").display()
            ))
            .arg(format!("--cache-dir={}", self.dir.path().join("cache").display()))
            .args(arguments);
        tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap()
    }

    /// What kubectl says; it must succeed.
    async fn kubectl(&self, kubectl: &Path, arguments: &[&str]) -> String {
        let output = self.run(kubectl, arguments).await;
        assert!(
            output.status.success(),
            "{} {arguments:?}: {output:?}",
            kubectl.display()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What kubectl complains of; it must fail.
    async fn refused(&self, kubectl: &Path, arguments: &[&str]) -> String {
        let output = self.run(kubectl, arguments).await;
        assert!(
            !output.status.success(),
            "{} {arguments:?}: {output:?}",
            kubectl.display()
        );
        String::from_utf8(output.stderr).unwrap()
    }

    fn manifest(&self, name: &str, labels: &Value) -> String {
        let path = self.dir.path().join(format!("{name}.json"));
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "main", "image": "busybox:test", "command": ["sleep", "1"]}]},
        });
        std::fs::write(&path, pod.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn uid(&self, name: &str) -> Uid {
        self.store.get("Pod", "default", name).await.unwrap().unwrap().uid
    }
}

/// Every kubectl of this machine: the one on the path, and those of other versions beside it.
fn kubectls() -> Vec<PathBuf> {
    let found = Command::new("sh").args(["-c", "command -v kubectl"]).output().unwrap();
    let first = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    let Ok(real) = std::fs::canonicalize(&first) else {
        return Vec::new();
    };
    let mut all = vec![first];
    let versions = std::fs::read_dir(real.parent().unwrap()).unwrap();
    all.extend(versions.map(|e| e.unwrap().path()).filter(|p| {
        // 1.27 and 1.28 check manifests against OpenAPI v2 in protobuf, which podd does not speak.
        let name = p.file_name().unwrap().to_string_lossy().into_owned();
        name.strip_prefix("kubectl.1.")
            .and_then(|minor| minor.parse::<u32>().ok())
            .is_some_and(|minor| minor >= 29)
    }));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_every_version_does_its_daily_work() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        let kubectl = kubectl.as_path();
        let web = server.manifest("web", &json!({"app": "web"}));
        assert_eq!(
            server.kubectl(kubectl, &["create", "-f", &web]).await,
            "pod/web created\n"
        );
        assert!(
            server
                .refused(kubectl, &["create", "-f", &web])
                .await
                .contains("pods \"web\" already exists")
        );
        let list: Value = serde_json::from_str(&server.kubectl(kubectl, &["get", "pods", "-o", "json"]).await).unwrap();
        assert_eq!(list["items"][0]["metadata"]["name"], "web");
        let uid = server.uid("web").await;
        let status = json!({"phase": "Running", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "main", "image": "busybox:test", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]});
        server.store.set_status(&uid, status).await.unwrap();
        let table = server.kubectl(kubectl, &["get", "po", "-o", "wide"]).await;
        let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words[..4], ["web", "1/1", "Running", "0"], "{table}");
        assert_eq!(words[5..7], ["10.244.0.2", "node-1"], "{table}");
        assert!(
            server
                .kubectl(kubectl, &["get", "pods", "-A", "--show-labels"])
                .await
                .contains("app=web")
        );
        server
            .kubectl(kubectl, &["wait", "--for=condition=Ready", "pod/web", "--timeout=20s"])
            .await;
        assert!(
            server
                .kubectl(kubectl, &["describe", "pod", "web"])
                .await
                .contains("IP:           ")
        );
        assert_eq!(
            server.kubectl(kubectl, &["label", "pod", "web", "tier=front"]).await,
            "pod/web labeled\n"
        );
        assert_eq!(
            server
                .kubectl(kubectl, &["get", "pods", "-l", "tier in (front)", "-o", "name"])
                .await,
            "pod/web\n"
        );
        let applied = server.manifest("applied", &json!({"a": "1"}));
        assert_eq!(
            server.kubectl(kubectl, &["apply", "-f", &applied]).await,
            "pod/applied created\n"
        );
        server.manifest("applied", &json!({"a": "2"}));
        assert_eq!(
            server.kubectl(kubectl, &["apply", "-f", &applied]).await,
            "pod/applied configured\n"
        );
        assert_eq!(
            server.kubectl(kubectl, &["apply", "-f", &applied]).await,
            "pod/applied unchanged\n"
        );
        let typo = server.dir.path().join("typo.yaml");
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: typo}\nspec:\n  containers:\n  - {name: c, image: i, cammand: [x]}\n";
        std::fs::write(&typo, text).unwrap();
        let refused = server.refused(kubectl, &["create", "-f", typo.to_str().unwrap()]).await;
        assert!(
            refused.contains("unknown field \"spec.containers[0].cammand\""),
            "{refused}"
        );
        // The controller's part of a deletion, as soon as the mark is there.
        let mut changes = server.store.subscribe();
        let (store, deletions) = (
            server.store.clone(),
            tokio::spawn(async move {
                let mut marked = Vec::new();
                while marked.len() < 2 {
                    let change = changes.recv().await.unwrap();
                    if change.object.json["metadata"]["deletionTimestamp"].is_string()
                        && !marked.contains(&change.object.uid)
                    {
                        marked.push(change.object.uid.clone());
                    }
                }
                marked
            }),
        );
        let deleting = server.kubectl(kubectl, &["delete", "pod", "web", "applied", "--wait=false"]);
        let (said, marked) = tokio::join!(deleting, deletions);
        assert!(said.contains("\"web\""), "{said}");
        for uid in marked.unwrap() {
            store.forget_pod(&uid).await.unwrap();
        }
        server
            .kubectl(kubectl, &["wait", "--for=delete", "pod/web", "--timeout=20s"])
            .await;
        assert_eq!(server.kubectl(kubectl, &["get", "pods", "-o", "name"]).await, "");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_explains_and_tells_versions_and_kinds() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        let version = server.kubectl(&kubectl, &["version"]).await;
        assert!(version.contains("Server Version: v1.36.0+podd.0.1.0"), "{version}");
        let resources = server.kubectl(&kubectl, &["api-resources", "--no-headers"]).await;
        let lines: Vec<Vec<&str>> = resources
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), KINDS.len(), "{resources}");
        for line in [
            &["pods", "po", "v1", "true", "Pod"][..],
            &["namespaces", "ns", "v1", "false", "Namespace"],
            &["leases", "coordination.k8s.io/v1", "true", "Lease"],
        ] {
            assert!(lines.contains(&line.to_vec()), "{resources}");
        }
        let explained = server
            .kubectl(&kubectl, &["explain", "pod.spec.containers.image"])
            .await;
        assert!(explained.contains("Container image name"), "{explained}");
        assert!(
            server
                .refused(&kubectl, &["get", "pod", "x"])
                .await
                .contains("pods \"x\" not found")
        );
        assert!(
            server
                .refused(&kubectl, &["get", "widgets"])
                .await
                .contains("doesn't have a resource type \"widgets\"")
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_makes_and_ends_a_namespace_with_what_is_in_it() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        let kubectl = kubectl.as_path();
        let path = server.dir.path().join("all.yaml");
        let path = path.to_str().unwrap();
        let manifest = |value: &str| {
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: team}}\n---\n\
                 apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings, namespace: team}}\ndata: {{key: {value}}}\n---\n\
                 apiVersion: v1\nkind: Secret\nmetadata: {{name: word, namespace: team}}\nstringData: {{key: hidden}}\n"
            )
        };
        std::fs::write(path, manifest("a")).unwrap();
        let mut changes = server.store.subscribe();
        let made = server.kubectl(kubectl, &["apply", "-f", path]).await;
        assert_eq!(
            made,
            "namespace/team created\nconfigmap/settings created\nsecret/word created\n"
        );
        std::fs::write(path, manifest("b")).unwrap();
        let again = server.kubectl(kubectl, &["apply", "-f", path]).await;
        assert!(again.contains("configmap/settings configured"), "{again}");
        let account = |change: &Change| &*change.object.kind == "ServiceAccount" && &*change.object.namespace == "team";
        while !account(&changes.recv().await.unwrap()) {}
        let all = server
            .kubectl(
                kubectl,
                &["get", "ns,cm,secrets,sa,events,deploy,svc", "-A", "--no-headers"],
            )
            .await;
        let rows: Vec<Vec<&str>> = all.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in [
            &["namespace/team", "Active"][..],
            &["team", "configmap/settings", "1"],
            &["team", "configmap/kube-root-ca.crt", "1"],
            &["team", "secret/word", "Opaque", "1"],
            &["team", "serviceaccount/default", "0"],
            &["default", "service/kubernetes", "ClusterIP"],
        ] {
            let found = rows
                .iter()
                .any(|cells| cells.starts_with(row) || cells[1..].starts_with(row));
            assert!(found, "{row:?} in\n{all}");
        }
        let described = server.kubectl(kubectl, &["describe", "ns", "team"]).await;
        assert!(described.contains("Status:       Active"), "{described}");
        let refused = server.refused(kubectl, &["delete", "ns", "default"]).await;
        assert!(
            refused.contains("namespaces \"default\" is forbidden: this namespace may not be deleted"),
            "{refused}"
        );
        server
            .kubectl(kubectl, &["delete", "ns", "team", "--timeout=20s"])
            .await;
        assert_eq!(server.store.contents("team").await.unwrap(), []);
    }
    server.stop().await;
}

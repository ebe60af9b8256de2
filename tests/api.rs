//! The API as kubectl meets it: router, store and TLS listener, and the real command.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[expect(dead_code, reason = "pods are not reached into here")]
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
use std::process::{Command, Output};
use std::sync::Arc;

use podd::account::{self, Accounts};
use podd::api::auth::tokens::TokenFile;
use podd::api::auth::{Bearers, Identity};
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
        let pki = Pki::open(dir.path(), "node-1", listening, None, now()).unwrap();
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
            log_dir,
            ready,
            streams: fake::Local::new(dir.path().to_owned()),
            streaming_idle_timeout: std::time::Duration::from_hours(4),
            bearers: bearers.clone(),
            address: listening,
            clock: now,
        };
        let (stop, stopping) = watch::channel(false);
        let router = api::router(state);
        let garbage = tokio::spawn(garbage.run(stopping.clone()));
        let task = tokio::spawn(api::serve_tls(
            listener,
            pki.server_config(bearers).unwrap(),
            router,
            stopping,
        ));
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

    /// Make a token, and write a kubeconfig that has it: `<user>.kubeconfig`.
    fn admit(&self, user: &str, groups: &[&str]) {
        let identity = Identity {
            user: user.to_owned(),
            uid: format!("uid-of-{user}"),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Identity::default()
        };
        let token = TokenFile::open(self.dir.path()).unwrap().create(&identity).unwrap();
        let admin = std::fs::read_to_string(self.dir.path().join("admin.kubeconfig")).unwrap();
        let lines = admin.lines().filter(|line| !line.contains("client-certificate-data"));
        let text: String = lines
            .map(|line| {
                if line.contains("client-key-data") {
                    format!("    token: {token}\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
        std::fs::write(self.dir.path().join(format!("{user}.kubeconfig")), text).unwrap();
    }

    async fn run(&self, kubectl: &Path, arguments: &[&str]) -> Output {
        self.run_as("admin", kubectl, arguments).await
    }

    async fn run_as(&self, user: &str, kubectl: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(kubectl);
        command
            .arg(format!(
                "--kubeconfig={}",
                self.dir.path().join(format!("{user}.kubeconfig")).display()
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
    kubectls_since(27)
}

/// The kubectl on the path, and those beside it from this minor version on.
fn kubectls_since(least: u32) -> Vec<PathBuf> {
    let found = Command::new("sh").args(["-c", "command -v kubectl"]).output().unwrap();
    let first = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    let Ok(real) = std::fs::canonicalize(&first) else {
        return Vec::new();
    };
    let mut all = vec![first];
    let versions = std::fs::read_dir(real.parent().unwrap()).unwrap();
    let beside = versions.map(|e| e.unwrap().path());
    all.extend(beside.filter(|p| minor(p).is_some_and(|minor| minor >= least)));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_every_version_explains_every_kind() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        for kind in podd::api::kinds::KINDS {
            let api_version = format!("--api-version={}", kind.api_version());
            let explained = server.kubectl(&kubectl, &["explain", kind.plural, &api_version]).await;
            assert!(explained.contains(&format!("KIND:       {}", kind.kind)), "{explained}");
            assert!(explained.contains("DESCRIPTION:\n    "), "{explained}");
            assert!(explained.contains("\n  kind\t<string>"), "{explained}");
        }
        let old = [
            "explain",
            "pod.spec.containers.ports.containerPort",
            "--output=plaintext-openapiv2",
        ];
        let explained = server.kubectl(&kubectl, &old).await;
        assert!(explained.contains("FIELD:    containerPort <integer>"), "{explained}");
        let recursive = server.kubectl(&kubectl, &["explain", "pod", "--recursive"]).await;
        assert!(recursive.lines().count() > 1000);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_every_version_checks_manifests_by_the_document() {
    let server = Server::start().await;
    for kubectl in kubectls() {
        let web = server.manifest("web", &json!({}));
        for (command, done) in [
            (
                vec!["create", "-f", &web, "--dry-run=server"],
                "pod/web created (server dry run)\n",
            ),
            (vec!["create", "-f", &web, "--validate=strict"], "pod/web created\n"),
            (
                vec!["delete", "-f", &web, "--wait=false", "--grace-period=0", "--force"],
                "",
            ),
        ] {
            let said = server.kubectl(&kubectl, &command).await;
            assert!(said.contains(done), "{}: {said}", kubectl.display());
        }
        server.store.forget_pod(&server.uid("web").await).await.unwrap();
        let typo = std::fs::read_to_string(&web)
            .unwrap()
            .replace("\"command\"", "\"comand\"");
        let path = server.dir.path().join("typo.json");
        std::fs::write(&path, typo).unwrap();
        let said = server
            .refused(&kubectl, &["create", "-f", path.to_str().unwrap()])
            .await;
        assert!(said.contains("unknown field \"spec.containers[0].comand\""), "{said}");
    }
    server.stop().await;
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
        let server_version = version.lines().find(|l| l.starts_with("Server Version")).unwrap();
        assert!(server_version.contains("v1.36.0+podd.0.1.0"), "{version}");
        let resources = server.kubectl(&kubectl, &["api-resources", "--no-headers"]).await;
        let lines: Vec<Vec<&str>> = resources
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        // Of a kind in two versions, the newer is told.
        assert_eq!(lines.len(), KINDS.len() - 1, "{resources}");
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

/// Later ones ask about themselves in protobuf.
const LAST_IN_JSON: u32 = 33;

/// kubectl's minor version, if its name says it.
fn minor(kubectl: &Path) -> Option<u32> {
    kubectl.file_name()?.to_str()?.strip_prefix("kubectl.1.")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_tells_everyone_who_they_are_and_what_they_may_do() {
    let server = Server::start().await;
    server.admit("vera", &["podd:viewers"]);
    server.admit("ned", &[]);
    let in_json = |kubectl: &PathBuf| minor(kubectl).is_some_and(|minor| minor <= LAST_IN_JSON);
    for kubectl in kubectls_since(27).into_iter().filter(in_json) {
        for (user, arguments, expected) in [
            ("admin", &["create", "pods"][..], "yes"),
            ("admin", &["get", "secrets"], "yes"),
            ("admin", &["*", "*", "-A"], "yes"),
            ("vera", &["list", "pods"], "yes"),
            ("vera", &["get", "pods", "--subresource=log"], "yes"),
            ("vera", &["get", "/podd/v1/images"], "yes"),
            ("vera", &["create", "pods"], "no"),
            ("vera", &["get", "secrets"], "no"),
            ("vera", &["create", "pods", "--subresource=exec"], "no"),
            ("vera", &["get", "pods", "--subresource=exec"], "no"),
            ("ned", &["list", "pods"], "no"),
            ("ned", &["get", "/api"], "yes"),
        ] {
            let whole = [&["auth", "can-i"], arguments].concat();
            let output = server.run_as(user, &kubectl, &whole).await;
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.trim(), expected, "{} as {user}: {whole:?}", kubectl.display());
            assert_eq!(output.status.success(), expected == "yes");
        }
        let list = server.run_as("vera", &kubectl, &["auth", "can-i", "--list"]).await;
        let list = String::from_utf8(list.stdout).unwrap();
        assert!(list.contains("pods/log") && !list.contains("secrets"), "{list}");
        let who = server
            .run_as(
                "vera",
                &kubectl,
                &["auth", "whoami", "-o", "jsonpath={.status.userInfo}"],
            )
            .await;
        let who: Value = serde_json::from_slice(&who.stdout).unwrap_or_else(|e| panic!("{e}: {who:?}"));
        assert_eq!(
            who,
            json!({"username": "vera", "uid": "uid-of-vera", "groups": ["podd:viewers", "system:authenticated"]})
        );
        let acting = ["auth", "can-i", "get", "pods", "--as=ned", "--as-group=podd:viewers"];
        assert_eq!(server.kubectl(&kubectl, &acting).await, "yes\n");
        let refused = server.run_as("vera", &kubectl, &["get", "pods", "--as=admin"]).await;
        let refused = String::from_utf8(refused.stderr).unwrap();
        assert!(
            refused.contains("User \"vera\" cannot impersonate resource \"users\""),
            "{refused}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_of_a_viewer_reads_and_changes_nothing() {
    let server = Server::start().await;
    server.admit("vera", &["podd:viewers"]);
    let web = server.manifest("web", &json!({"app": "web"}));
    let other = server.manifest("other", &json!({}));
    let kubectls = kubectls_since(27);
    if let Some(kubectl) = kubectls.first() {
        server.kubectl(kubectl, &["create", "-f", &web]).await;
    }
    for kubectl in &kubectls {
        let list = server.run_as("vera", kubectl, &["get", "pods", "-A"]).await;
        assert!(String::from_utf8(list.stdout).unwrap().contains("web"));
        let before = server.store.resource_version().await.unwrap();
        for (arguments, what) in [
            (
                &["create", "--validate=false", "-f", &other][..],
                "cannot create resource \"pods\"",
            ),
            (&["delete", "pod", "web"], "cannot delete resource \"pods\""),
            (&["label", "pod", "web", "a=b"], "cannot patch resource \"pods\""),
            (&["exec", "web", "--", "ls"], "cannot create resource \"pods/exec\""),
            (&["attach", "web"], "cannot create resource \"pods/attach\""),
            (&["get", "--raw", "/api/v1/secrets"], "cannot list resource \"secrets\""),
        ] {
            let output = server.run_as("vera", kubectl, arguments).await;
            assert!(!output.status.success());
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(what), "{} {arguments:?}: {said}", kubectl.display());
        }
        assert_eq!(server.store.resource_version().await.unwrap(), before);
    }
    server.stop().await;
}

//! Images come from a registry: Debian's `docker-registry` on loopback, filled by `skopeo`.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{Agent, BUSYBOX, busybox_root_tar, container, pod, wait_for, with};

/// The one who may pull, where anybody may not.
pub(crate) const CREDENTIALS: &str = "me:secret";

/// A registry of a test's own.
pub(crate) struct Registry {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Anybody may pull over plain HTTP.
    pub(crate) fn open() -> Self {
        Self::start(false)
    }

    /// TLS by an authority of its own, and a password.
    pub(crate) fn guarded() -> Self {
        Self::start(true)
    }

    fn start(guarded: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |name: &str| dir.path().join(name);
        let mut config = json!({
            "version": "0.1",
            "log": {"accesslog": {"disabled": false}, "level": "warn"},
            "storage": {"filesystem": {"rootdirectory": at("storage")}},
            "http": {"addr": format!("127.0.0.1:{port}")},
        });
        if guarded {
            let made =
                rcgen::generate_simple_self_signed(["127.0.0.1", "localhost", "registry.test"].map(str::to_owned));
            let made = made.unwrap();
            fs::write(at("ca.crt"), made.cert.pem()).unwrap();
            fs::write(at("key.pem"), made.signing_key.serialize_pem()).unwrap();
            let (user, password) = CREDENTIALS.split_once(':').unwrap();
            let made = Command::new("htpasswd").args(["-Bbn", user, password]).output();
            fs::write(at("htpasswd"), made.expect("apache2-utils is installed").stdout).unwrap();
            config["http"]["tls"] = json!({"certificate": at("ca.crt"), "key": at("key.pem")});
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": at("htpasswd")}});
        }
        // JSON is YAML.
        fs::write(at("config.yml"), config.to_string()).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(at("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { dir, port, child };
        wait_for("the registry to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", port))
                .map(drop)
                .map_err(|error| format!("{error}: {}", registry.log()))
        });
        registry
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    /// Give it busybox under a name, with a file that says `words`.
    pub(crate) fn push(&self, name: &str, words: &str) {
        let layout = self.dir.path().join("layout");
        let _ = fs::remove_dir_all(&layout);
        layout_of_busybox(self.dir.path(), &layout, words);
        let pushed = Command::new("skopeo")
            .args([
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
                "--dest-creds",
                CREDENTIALS,
            ])
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}", self.name(name)))
            .output()
            .expect("skopeo is installed");
        assert!(pushed.status.success(), "{pushed:?} {}", self.log());
    }

    /// `address:port`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A directory for `--registry-config` that knows this registry's authority.
    fn hosts(&self) -> PathBuf {
        self.hosts_for(&self.host())
    }

    /// The same for one who calls it by this name.
    pub(crate) fn hosts_for(&self, name: &str) -> PathBuf {
        let hosts = self.dir.path().join("certs.d");
        write_hosts(
            &hosts,
            name,
            &format!("ca = \"{}\"", self.dir.path().join("ca.crt").display()),
        );
        hosts
    }
}

/// The `hosts.toml` of a registry.
pub(crate) fn write_hosts(hosts: &Path, registry: &str, text: &str) {
    fs::create_dir_all(hosts.join(registry)).unwrap();
    fs::write(hosts.join(registry).join("hosts.toml"), text).unwrap();
}

/// An OCI layout with one image of two layers: busybox, and a file `/words`.
fn layout_of_busybox(scratch: &Path, layout: &Path, words: &str) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let hex = Sha256::digest(bytes)
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        fs::write(blobs.join(&hex), bytes).unwrap();
        (format!("sha256:{hex}"), bytes.len())
    };
    let words = format!("{words}\n");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(words.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1);
    tar.append_data(&mut header, "words", words.as_bytes()).unwrap();
    let layers = [
        put(&fs::read(busybox_root_tar(scratch)).unwrap()),
        put(&tar.into_inner().unwrap()),
    ];
    let config = json!({
        "os": "linux",
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|(digest, _)| digest)},
    });
    let (config, size) = put(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size},
        "layers": layers.each_ref().map(|(digest, size)| json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size,
        })),
    });
    let (manifest, size) = put(manifest.to_string().as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": size}],
    });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

/// A pod that says `/words` and stays.
fn speaker(name: &str, image: &str, policy: &str) -> Value {
    with(pod(name, &[("c", "cat /words; exec sleep 1000")]), |p| {
        p["spec"]["containers"][0]["image"] = json!(image);
        p["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
    })
}

fn messages(agent: &Agent, pod: &str, reason: &str) -> Vec<String> {
    let events = agent.request("GET", "/api/v1/namespaces/default/events", None).json();
    let all = events["items"].as_array().unwrap().iter();
    all.filter(|event| event["involvedObject"]["name"] == pod && event["reason"] == reason)
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect()
}

fn secret(agent: &Agent, name: &str, registry: &Registry, credentials: &str) {
    let config = json!({"auths": {registry.name(""): {"auth": STANDARD.encode(credentials)}}}).to_string();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": STANDARD.encode(config)},
    });
    let made = agent.request("POST", "/api/v1/namespaces/default/secrets", Some(&secret));
    assert_eq!(made.code, 201, "{made:?}");
}

#[test]
fn a_pod_pulls_with_its_secret_or_its_accounts_and_not_without() {
    let registry = Registry::guarded();
    registry.push("team/app:v1", "hello");
    let image = registry.name("team/app:v1");
    let agent = Agent::start_empty(&[&format!("--registry-config={}", registry.hosts().display())]);
    secret(&agent, "right", &registry, CREDENTIALS);
    secret(&agent, "wrong", &registry, "me:nothing");

    agent.create(&with(speaker("wrong", &image, "IfNotPresent"), |p| {
        p["spec"]["imagePullSecrets"] = json!([{"name": "wrong"}, {"name": "missing"}]);
    }));
    let reason = |reason: &'static str| move |p: &Value| container(p, "c")["state"]["waiting"]["reason"] == reason;
    let refused = agent.wait_pod("wrong", "to be refused", reason("ErrImagePull"));
    let message = container(&refused, "c")["state"]["waiting"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.contains("pull access denied") && message.contains(&image),
        "{message}"
    );
    let waiting = agent.wait_pod("wrong", "to wait for its next try", reason("ImagePullBackOff"));
    let message = container(&waiting, "c")["state"]["waiting"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    let begins = format!("Back-off pulling image \"{image}\": ErrImagePull: ");
    assert!(message.starts_with(&begins), "{message}");
    assert_eq!(waiting["status"]["phase"], "Pending");
    wait_for("the event about the missing secret", || {
        let told = messages(&agent, "wrong", "FailedToRetrieveImagePullSecret");
        if told.iter().any(|message| message.contains("(missing)")) {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    });

    agent.create(&with(speaker("right", &image, "IfNotPresent"), |p| {
        p["spec"]["imagePullSecrets"] = json!([{"name": "right"}]);
    }));
    agent.wait_running("right");
    agent.wait_log("right", "", "hello");
    wait_for("the events of the pull", || {
        let (pulling, pulled) = (
            messages(&agent, "right", "Pulling"),
            messages(&agent, "right", "Pulled"),
        );
        let success = format!("Successfully pulled image \"{image}\" in ");
        if pulling == [format!("Pulling image \"{image}\"")]
            && pulled.len() == 1
            && pulled[0].starts_with(&success)
            && pulled[0].ends_with(" bytes.")
        {
            Ok(())
        } else {
            Err(format!("{pulling:?} {pulled:?}"))
        }
    });

    // A pod without secrets has its account's.
    let account = json!({"imagePullSecrets": [{"name": "right"}]});
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    let patched = agent
        .raw_request(
            "PATCH",
            path,
            "application/merge-patch+json",
            account.to_string().as_bytes(),
        )
        .unwrap();
    assert_eq!(patched.code, 200, "{patched:?}");
    agent.create(&speaker("account", &image, "Always"));
    agent.wait_running("account");
    assert!(!agent.agent_log().contains("c2VjcmV0"), "a password was logged");
}

#[test]
fn a_tag_that_moves_is_seen_by_always_and_disturbs_nobody() {
    let registry = Registry::open();
    registry.push("app:v1", "old words");
    let image = registry.name("app:v1");
    let agent = Agent::start_empty(&[]);
    agent.create(&speaker("first", &image, "Always"));
    let first = agent.wait_running("first");
    agent.wait_log("first", "", "old words");
    registry.push("app:v1", "new words");
    agent.create(&speaker("present", &image, "IfNotPresent"));
    agent.wait_log("present", "", "old words");
    agent.create(&speaker("second", &image, "Always"));
    agent.wait_log("second", "", "new words");
    let still = agent.pod("first");
    assert_eq!(
        container(&still, "c")["containerID"],
        container(&first, "c")["containerID"],
        "the running container is the same"
    );
    assert_ne!(
        container(&agent.pod("second"), "c")["imageID"],
        container(&first, "c")["imageID"]
    );
    // What is there serves without the registry, but for who wants to know.
    drop(registry);
    agent.create(&speaker("offline", &image, "IfNotPresent"));
    agent.wait_log("offline", "", "new words");
    agent.create(&speaker("asks", &image, "Always"));
    agent.wait_pod("asks", "to miss the registry", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "RegistryUnavailable"
    });
}

#[test]
fn a_mirror_serves_a_registry_that_is_not_there_and_two_pods_cost_one_pull() {
    let registry = Registry::open();
    registry.push("library/app:v1", "from the mirror");
    let hosts = registry.dir.path().join("certs.d");
    let mirror = format!(
        "[host.\"http://127.0.0.1:{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        registry.port
    );
    write_hosts(&hosts, "docker.io", &mirror);
    let agent = Agent::start_empty(&[&format!("--registry-config={}", hosts.display())]);
    for name in ["one", "two", "three"] {
        agent.create(&speaker(name, "app:v1", "IfNotPresent"));
    }
    for name in ["one", "two", "three"] {
        agent.wait_running(name);
    }
    let log = registry.log();
    let blobs = log
        .lines()
        .filter(|line| line.contains("\"GET /v2/library/app/blobs/"))
        .count();
    assert_eq!(blobs, 3, "a config and two layers, each once: {log}");
}

#[test]
fn a_pull_that_hangs_holds_neither_the_other_containers_nor_the_end() {
    // It takes connections, and says nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("127.0.0.1:{}/app:v1", deaf.local_addr().unwrap().port());
    let agent = Agent::start();
    agent.create(&with(pod("p", &[("well", "exec sleep 1000"), ("c", "true")]), |p| {
        p["spec"]["containers"][1]["image"] = json!(image);
    }));
    agent.wait_pod("p", "its other container to run", |p| {
        container(p, "well")["state"]["running"].is_object()
            && container(p, "c")["state"]["waiting"]["reason"] == "ContainerCreating"
    });
    agent.delete("p", Some(0));
    agent.wait_gone("p");
}

/// Events of a pod, or of one of its containers: type, reason, message.
fn told(agent: &Agent, pod: &str, field: Option<&str>) -> Vec<String> {
    let events = agent.request("GET", "/api/v1/namespaces/default/events", None).json();
    let all = events["items"].as_array().unwrap().iter();
    all.filter(|event| event["involvedObject"]["name"] == pod && event["involvedObject"]["fieldPath"].as_str() == field)
        .map(|event| {
            let word = |key: &str| event[key].as_str().unwrap().to_owned();
            format!("{} {} {}", word("type"), word("reason"), word("message"))
        })
        .collect()
}

#[test]
fn the_pull_of_a_volumes_image_is_told_as_the_pods_own() {
    let registry = Registry::open();
    registry.push("data:v1", "data");
    let there = registry.name("data:v1");
    let missing = registry.name("missing:v1");
    let agent = Agent::start();
    let create = |name: &str, image: &str| {
        agent.create(&with(pod(name, &[("c", "cat /data/words; exec sleep 1000")]), |p| {
            p["spec"]["volumes"] = json!([{"name": "data", "image": {"reference": image}}]);
            p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        }));
    };
    let wait_told = |pod: &str, field: Option<&str>, begins: &[String]| {
        wait_for(&format!("{begins:?}"), || {
            let told = told(&agent, pod, field);
            let is_told = |begin: &String| told.iter().any(|event| event.starts_with(begin.as_str()));
            if begins.iter().all(is_told) {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        });
    };
    let container_c = Some("spec.containers{c}");

    create("right", &there);
    agent.wait_log("right", "", "data");
    wait_told(
        "right",
        None,
        &[
            format!("Normal Pulling Pulling image \"{there}\""),
            format!("Normal Pulled Successfully pulled image \"{there}\" in "),
        ],
    );
    let own = format!("Normal Pulled Container image \"{BUSYBOX}\" already present on machine");
    wait_told("right", container_c, &[own]);

    create("again", &there);
    agent.wait_log("again", "", "data");
    let present = format!("Normal Pulled Container image \"{there}\" already present on machine");
    wait_told("again", None, &[present]);

    create("wrong", &missing);
    let waiting = agent.wait_pod("wrong", "to wait for its next try", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "ImagePullBackOff"
    });
    let message = container(&waiting, "c")["state"]["waiting"]["message"]
        .as_str()
        .unwrap();
    let begins = format!("Back-off pulling image \"{missing}\": ErrImagePull: failed to pull and unpack image");
    assert!(message.starts_with(&begins), "{message}");
    wait_told(
        "wrong",
        None,
        &[
            format!("Normal Pulling Pulling image \"{missing}\""),
            format!("Warning Failed Failed to pull image \"{missing}\": failed to pull and unpack image"),
            format!("Normal BackOff Back-off pulling image \"{missing}\""),
        ],
    );
    let of_container =
        ["Error: ErrImagePull", "Error: ImagePullBackOff"].map(|words| format!("Warning Failed {words}"));
    wait_told("wrong", container_c, &of_container);
}

#[test]
fn a_part_that_a_volumes_image_does_not_have_is_no_run_of_the_container() {
    let registry = Registry::open();
    registry.push("data:v1", "data");
    let agent = Agent::start();
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["volumes"] = json!([{"name": "data", "image": {"reference": registry.name("data:v1")}}]);
        p["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data", "subPath": "nosuch"}]);
    }));
    let waiting = agent.wait_pod("p", "to wait for its image's part", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "CreateContainerError"
    });
    let told = container(&waiting, "c");
    assert_eq!(
        told["state"]["waiting"]["message"],
        "failed to mount subPath \"nosuch\" of image volume \"data\": no such file or directory"
    );
    assert_eq!(told["restartCount"], 0);
}

#[test]
fn a_name_that_is_none_is_told_once() {
    let agent = Agent::start();
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["containers"][0]["image"] = json!("BAD:::x");
    }));
    let words = "Failed to apply default image tag \"BAD:::x\": couldn't parse image name \"BAD:::x\"";
    agent.wait_pod("p", "to wait for another name", |p| {
        let waiting = &container(p, "c")["state"]["waiting"];
        waiting["reason"] == "InvalidImageName" && waiting["message"].as_str().unwrap().starts_with(words)
    });
    let begin = format!("Warning InspectFailed {words}");
    wait_for("the event", || {
        let told = told(&agent, "p", Some("spec.containers{c}"));
        if told.iter().any(|event| event.starts_with(&begin)) {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    });
}

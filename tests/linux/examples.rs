//! The examples of `deploy/examples`, run as they stand: real programs from Debian's packages, and what a user would look
//! at. They use fixed ports of the machine, so each is tested once and nothing else uses those.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::common::{Agent, signal, uid, wait_for};
use crate::pull::Registry;

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples").join(path)
}

/// Run one of the scripts that make images.
fn make_images(script: &Path, arguments: &[&str], environment: &[(&str, &str)]) {
    let output = Command::new(script)
        .args(arguments)
        .env("PODD", env!("CARGO_BIN_EXE_podd"))
        .env("CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("example-images"))
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {output:?}", script.display());
}

/// An agent that has the images of this example and nothing else.
fn with_images(directory: &str) -> Agent {
    let agent = Agent::start_empty(&["--max-restart-backoff=1s"]);
    let script = example(directory).join("images.sh");
    make_images(&script, &[], &[("PODD_SOCKET", agent.socket().to_str().unwrap())]);
    agent
}

/// Two of the examples use the same port: one after the other.
fn port_8001() -> File {
    let file = File::create(std::env::temp_dir().join("podd-test-port-8001")).unwrap();
    file.lock().unwrap();
    file
}

/// Create everything of a manifest.
fn create(agent: &Agent, manifest: &str) {
    for document in manifest.split("\n---\n") {
        let plural = if document.contains("\nkind: ConfigMap\n") {
            "configmaps"
        } else {
            "pods"
        };
        let path = format!("/api/v1/namespaces/default/{plural}?fieldValidation=Strict");
        let answer = agent.raw_request("POST", &path, "application/yaml", format!("{document}\n").as_bytes());
        let answer = answer.unwrap();
        assert_eq!(answer.code, 201, "{answer:?}");
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .clone()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The body of an answer with code 200.
fn get(address: &str, path: &str) -> Result<String, String> {
    let exchange = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    let text = exchange().map_err(|error| format!("{address}{path}: {error}"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| text.clone())?;
    if head.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(text)
    }
}

fn wait_get(address: &str, path: &str, what: &str, is: impl Fn(&str) -> bool) -> String {
    wait_for(&format!("{address}{path} {what}"), || {
        get(address, path).and_then(|body| if is(&body) { Ok(body) } else { Err(body) })
    })
}

/// Delete the pods, and see that nothing of them is left.
fn end(agent: &Agent, pods: &[&str]) {
    for pod in pods {
        agent.delete(pod, Some(1));
    }
    for pod in pods {
        agent.wait_gone(pod);
    }
    agent.wait_no_leftovers();
}

#[test]
fn an_application_and_its_server_come_from_two_images() {
    let _port = port_8001();
    let agent = with_images("war-and-tomcat");
    create(&agent, &fs::read_to_string(example("war-and-tomcat/pod.yaml")).unwrap());
    agent.wait_pod("javaweb-2", "is ready", is_ready);
    let page = wait_get("127.0.0.1:8001", "/sample/", "answers", |_| true);
    assert!(page.starts_with("Six times seven is 42, says Apache Tomcat/"), "{page}");
    end(&agent, &["javaweb-2"]);
}

fn git(directory: &Path, arguments: &[&str]) -> Output {
    let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
    let output = Command::new("git")
        .current_dir(directory)
        .args(identity)
        .args(arguments)
        .output();
    let output = output.expect("git is installed");
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn a_commit_is_on_the_web_within_seconds() {
    let agent = with_images("nginx-and-content");
    let (site, work) = (agent.dir.join("site.git"), agent.dir.join("work"));
    git(&agent.dir, &["init", "--quiet", "--bare", site.to_str().unwrap()]);
    git(&agent.dir, &["init", "--quiet", work.to_str().unwrap()]);
    let commit = |text: &str| {
        fs::write(work.join("index.html"), text).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "--quiet", "-m", text]);
        git(&work, &["push", "--quiet", site.to_str().unwrap(), "HEAD:master"]);
    };
    commit("the first");
    let manifest = fs::read_to_string(example("nginx-and-content/pod.yaml")).unwrap();
    assert!(manifest.contains("/srv/site.git\n"));
    create(
        &agent,
        &manifest.replace("/srv/site.git\n", &format!("{}\n", site.display())),
    );
    let pod = agent.wait_running("nginx-git");
    wait_get("127.0.0.1:8002", "/", "shows the first commit", |body| {
        body == "the first"
    });
    commit("the second");
    wait_get("127.0.0.1:8002", "/", "shows the second commit", |body| {
        body == "the second"
    });

    // The synchroniser dies: the web server stays, and the next commit comes all the same.
    let nginx = agent.container_pid(&uid(&pod), "nginx");
    signal(agent.container_pid(&uid(&pod), "git-sync"), "KILL");
    commit("the third");
    wait_get("127.0.0.1:8002", "/", "shows the third commit", |body| {
        body == "the third"
    });
    assert_eq!(agent.container_pid(&uid(&pod), "nginx"), nginx);
    end(&agent, &["nginx-git"]);
}

#[test]
fn a_log_collector_loses_no_line_when_it_dies() {
    let agent = with_images("log-collector");
    create(&agent, &fs::read_to_string(example("log-collector/pod.yaml")).unwrap());
    let pod = agent.wait_running("log-collector");
    let volumes = agent.root().join("pods").join(uid(&pod)).join("volumes");
    let collected = || fs::read_to_string(volumes.join("collected/app.log")).unwrap_or_default();
    let lines = |text: &str| {
        text.lines()
            .filter_map(|line| line.strip_prefix("line ")?.parse::<u64>().ok())
            .collect::<Vec<_>>()
    };
    let last = |text: &str| lines(text).into_iter().max().unwrap_or_default();
    for restarts in 1..=3 {
        let before = last(&collected());
        wait_for("more lines to be collected", || {
            let now = last(&collected());
            if now > before + 50 {
                Ok(())
            } else {
                Err(format!("{before}, then {now}"))
            }
        });
        let collector = agent.container_pid(&uid(&pod), "collector");
        signal(collector, "KILL");
        agent.wait_pod("log-collector", "has its collector back", |pod| {
            let status = &pod["status"]["initContainerStatuses"][0];
            status["restartCount"] == restarts && status["started"] == true
        });
    }
    // What the application has written by now arrives, every line of it, whatever was on its way as the collector died.
    let written = last(&fs::read_to_string(volumes.join("log/app.log")).unwrap());
    let text = wait_for("every line to be collected", || {
        let text = collected();
        if last(&text) >= written {
            Ok(text)
        } else {
            Err(format!("{} of {written}", last(&text)))
        }
    });
    let mut arrived = lines(&text);
    arrived.sort_unstable();
    arrived.dedup();
    let missing: Vec<u64> = (1..=written)
        .filter(|line| arrived.binary_search(line).is_err())
        .collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
    end(&agent, &["log-collector"]);
}

#[test]
fn an_ambassador_spreads_requests_over_its_backends() {
    let agent = with_images("ambassador");
    create(&agent, &fs::read_to_string(example("ambassador/pods.yaml")).unwrap());
    agent.wait_running("ambassador");
    let answered_by = |names: &[&str]| {
        wait_for(&format!("answers of {names:?}"), || {
            let log = agent.log("ambassador", "container=app&tailLines=6");
            let all = names.iter().all(|name| log.lines().any(|line| line == *name));
            let only = log.lines().all(|line| names.contains(&line));
            if all && only { Ok(()) } else { Err(log) }
        });
    };
    answered_by(&["backend-1", "backend-2", "backend-3"]);
    // One backend goes: the application notices nothing.
    agent.delete("backend-2", Some(0));
    answered_by(&["backend-1", "backend-3"]);
    end(&agent, &["ambassador", "backend-1", "backend-3"]);
}

#[test]
fn an_adapter_tells_in_other_words_how_an_application_is() {
    let agent = with_images("adapter");
    create(&agent, &fs::read_to_string(example("adapter/pod.yaml")).unwrap());
    agent.wait_pod("adapter", "is ready", is_ready);
    let is_up = |text: &str| text.lines().any(|line| line == "app_up 1");
    let text = wait_get("127.0.0.1:9100", "/metrics", "says that the application is up", is_up);
    assert!(
        text.contains("# TYPE app_jobs_total counter\napp_jobs_total "),
        "{text}"
    );
    // The application itself listens on the pod's localhost alone.
    let pod = agent.pod("adapter");
    let address = format!("{}:8080", pod["status"]["podIP"].as_str().unwrap());
    get(&address, "/health").unwrap_err();
    end(&agent, &["adapter"]);
}

/// An agent that pulls what it thinks comes from Docker Hub from this registry.
fn mirrored(registry: &Registry, scratch: &Path) -> Agent {
    let rule = scratch.join("docker.io");
    fs::create_dir_all(&rule).unwrap();
    let server = registry.name("");
    let text = format!(
        "server = \"https://registry-1.docker.io\"\n[host.\"http://{}\"]\n",
        server.trim_end_matches('/')
    );
    fs::write(rule.join("hosts.toml"), text).unwrap();
    Agent::start_empty(&[&format!("--registry-config={}", scratch.display())])
}

fn as_it_stands(manifest: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/manifests")
        .join(manifest);
    fs::read_to_string(path).unwrap()
}

/// One image, made and pushed to the registry under its name on Docker Hub.
fn push(registry: &Registry, name: &str, packages: &str, run: Option<&str>, command: &str) {
    let server = registry.name("");
    let mut environment = vec![("REGISTRY", server.trim_end_matches('/'))];
    environment.extend(run.map(|run| ("RUN", run)));
    make_images(&example("image.sh"), &[name, packages, command], &environment);
}

#[test]
fn a_war_file_and_tomcat_run_from_a_registry_as_the_manifest_stands() {
    let _port = port_8001();
    let registry = Registry::open();
    let scratch = tempfile::tempdir().unwrap();
    let agent = mirrored(&registry, scratch.path());
    let server = registry.name("");
    make_images(
        &example("war-and-tomcat/images.sh"),
        &[],
        &[("REGISTRY", server.trim_end_matches('/'))],
    );
    create(&agent, &as_it_stands("javaweb-2.yaml"));
    agent.wait_running("javaweb-2");
    let page = wait_get("127.0.0.1:8001", "/sample/", "answers", |_| true);
    assert!(page.starts_with("Six times seven is 42, says Apache Tomcat/"), "{page}");
    let pod = agent.pod("javaweb-2");
    let image = pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap();
    assert!(image.starts_with("docker.io/geektime/tomcat@sha256:"), "{image}");
    end(&agent, &["javaweb-2"]);
}

#[test]
fn two_containers_share_a_directory_as_the_manifest_stands() {
    let registry = Registry::open();
    let scratch = tempfile::tempdir().unwrap();
    let agent = mirrored(&registry, scratch.path());
    let site = r#"
        mkdir -p "$ROOT/etc/nginx/conf.d" "$ROOT/var/log/nginx" "$ROOT/var/lib/nginx"
        rm -f "$ROOT"/etc/nginx/sites-enabled/*
        echo "server { listen 80; root /usr/share/nginx; access_log off; }" >"$ROOT/etc/nginx/conf.d/site.conf""#;
    push(
        &registry,
        "library/nginx:latest",
        "nginx",
        Some(r#"["nginx", "-g", "daemon off;"]"#),
        site,
    );
    push(&registry, "library/debian:latest", "busybox-static", None, "true");
    // Its own directory instead of the machine's /data: nothing else of it is changed.
    let data = agent.dir.join("data");
    create(
        &agent,
        &as_it_stands("two-containers.yaml").replace("path: /data", &format!("path: {}", data.display())),
    );
    let pod = agent.wait_pod("two-containers", "has said hello", |pod| {
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let mut ended = statuses
            .clone()
            .filter(|status| status["state"]["terminated"]["exitCode"] == 0);
        ended.any(|status| status["name"] == "debian-container")
            && statuses.clone().any(|status| status["state"]["running"].is_object())
    });
    let address = format!("{}:80", pod["status"]["podIP"].as_str().unwrap());
    wait_get(&address, "/", "says hello", |body| {
        body == "Hello from the debian container\n"
    });
    end(&agent, &["two-containers"]);
}

//! SDKs that generators make of podd's document, each used against a real agent: a pod is made, watched until it runs,
//! its log read, a label patched, it is deleted and seen to go. And schemathesis, which asks for everything that the
//! document allows and looks whether the answers are in it.
//!
//! What the generators need is installed once, pinned, beneath `target/`. Node and Python's venv come from the machine
//! (`deploy/setup.sh`).

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

#[path = "../common/mod.rs"]
mod common;
mod placement;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Agent, BUSYBOX, podd};

/// A directory that lasts from run to run, and that this process alone uses now.
struct Workshop {
    dir: PathBuf,
    _lock: File,
}

impl Workshop {
    fn enter(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk").join(name);
        fs::create_dir_all(&dir).unwrap();
        let lock = File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();
        Self { dir, _lock: lock }
    }

    /// Does what `recipe` says, unless it was done already.
    fn once(&self, recipe: &str, make: impl FnOnce(&Path)) {
        let stamp = self.dir.join("made");
        if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
            return;
        }
        make(&self.dir);
        fs::write(stamp, recipe).unwrap();
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(path)
}

/// Runs a command that must succeed; what it said otherwise.
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: deploy/setup.sh installs what is needed"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said.into_owned()
}

/// Writes a file, but leaves it as it is where nothing changed.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|written| written == text) {
        return;
    }
    fs::write(path, text).unwrap();
}

fn write_document(path: &Path, version: &str) {
    write(path, &run(podd().args(["openapi", "--format", version])));
}

/// Python with the packages of this folder's `requirements.txt`.
fn python(folder: &str) -> Workshop {
    let requirements = source(folder).join("requirements.txt");
    let workshop = Workshop::enter(folder);
    workshop.once(&fs::read_to_string(&requirements).unwrap(), |dir| {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(dir.join("venv")));
        run(Command::new(dir.join("venv/bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "-r"])
            .arg(requirements));
    });
    workshop
}

fn kubeconfig(agent: &Agent) -> PathBuf {
    agent.root().join("admin.kubeconfig")
}

#[test]
fn an_sdk_in_python_leads_a_pod_through_its_life() {
    let agent = Agent::start();
    let workshop = python("python");
    let bin = workshop.dir.join("venv/bin");
    let document = agent.dir.join("podd.json");
    write_document(&document, "3.1");
    // Its formatter is not installed: nobody reads what is made.
    let config = agent.dir.join("generator.yaml");
    write(&config, "post_hooks: []\n");
    run(Command::new(bin.join("openapi-python-client"))
        .args(["generate", "--meta", "none"])
        .arg("--path")
        .arg(&document)
        .arg("--config")
        .arg(&config)
        .arg("--output-path")
        .arg(agent.dir.join("sdk")));
    let said = run(Command::new(bin.join("python"))
        .arg(source("python/story.py"))
        .arg(kubeconfig(&agent))
        .arg(BUSYBOX)
        .env("PYTHONPATH", &agent.dir)
        .env("PYTHONDONTWRITEBYTECODE", "1"));
    assert_eq!(said, "done\n");
}

/// A client that people have already, and its story.
fn tells(agent: &Agent, command: &mut Command) {
    let said = run(command
        .arg(kubeconfig(agent))
        .arg(BUSYBOX)
        .env("PYTHONDONTWRITEBYTECODE", "1"));
    assert_eq!(said, "done\n");
}

#[test]
fn the_python_client_and_kr8s_lead_pods_through_their_lives() {
    let agent = Agent::start();
    let workshop = python("official");
    let python = workshop.dir.join("venv/bin/python");
    for story in ["official/client.py", "official/kr8s_story.py"] {
        tells(&agent, Command::new(&python).arg(source(story)));
    }
}

#[test]
fn the_javascript_client_leads_a_pod_through_its_life() {
    let agent = Agent::start();
    let lock = source("official/package-lock.json");
    let workshop = Workshop::enter("javascript");
    workshop.once(&fs::read_to_string(lock).unwrap(), |dir| {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(source("official").join(name), dir.join(name)).unwrap();
        }
        run(Command::new("npm")
            .args(["ci", "--silent", "--no-fund", "--no-audit"])
            .current_dir(dir));
    });
    // Modules are looked for beside the story.
    let story = workshop.dir.join("story.mjs");
    write(&story, &fs::read_to_string(source("official/story.mjs")).unwrap());
    tells(&agent, Command::new("node").arg(story));
}

#[test]
fn an_sdk_in_typescript_leads_a_pod_through_its_life() {
    let agent = Agent::start();
    let lock = source("typescript/package-lock.json");
    let workshop = Workshop::enter("typescript");
    workshop.once(&fs::read_to_string(lock).unwrap(), |dir| {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(source("typescript").join(name), dir.join(name)).unwrap();
        }
        run(Command::new("npm")
            .args(["ci", "--silent", "--no-fund", "--no-audit"])
            .current_dir(dir));
    });
    let dir = &workshop.dir;
    for name in ["story.ts", "tsconfig.json"] {
        fs::copy(source("typescript").join(name), dir.join(name)).unwrap();
    }
    write_document(&dir.join("podd.json"), "3.1");
    let bin = dir.join("node_modules/.bin");
    run(Command::new(bin.join("openapi-typescript"))
        .args(["podd.json", "--output", "podd.d.ts"])
        .current_dir(dir));
    run(Command::new(bin.join("tsc")).current_dir(dir));
    let said = run(Command::new("node")
        .arg("out/story.js")
        .arg(kubeconfig(&agent))
        .arg(BUSYBOX)
        .current_dir(dir));
    assert_eq!(said, "done\n");
}

#[test]
fn an_sdk_in_rust_leads_a_pod_through_its_life() {
    let workshop = Workshop::enter("rust");
    let document = workshop.dir.join("podd-3.0.json");
    write_document(&document, "3.0");
    run(Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(workshop.dir.join("target"))
        .arg("--manifest-path")
        .arg(source("rust/Cargo.toml"))
        .env("PODD_OPENAPI", &document));
    let agent = Agent::start();
    let said = run(Command::new(workshop.dir.join("target/debug/podd-sdk-test"))
        .arg(agent.socket())
        .arg(BUSYBOX));
    assert_eq!(said, "done\n");
}

#[test]
fn kube_rs_leads_a_pod_through_its_life() {
    let workshop = Workshop::enter("kube");
    run(Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(workshop.dir.join("target"))
        .arg("--manifest-path")
        .arg(source("kube/Cargo.toml")));
    let agent = Agent::start();
    tells(
        &agent,
        &mut Command::new(workshop.dir.join("target/debug/podd-kube-test")),
    );
}

#[test]
fn no_answer_is_outside_the_document() {
    let agent = Agent::start();
    let bin = {
        let workshop = python("python");
        workshop.dir.join("venv/bin")
    };
    let document = agent.dir.join("podd.json");
    write_document(&document, "3.1");
    let config = fs::read_to_string(kubeconfig(&agent)).unwrap();
    let pem = |field: &str| {
        let (_, after) = config.split_once(&format!("{field}: ")).unwrap();
        let path = agent.dir.join(format!("{field}.pem"));
        fs::write(&path, STANDARD.decode(after.lines().next().unwrap()).unwrap()).unwrap();
        path
    };
    let (authority, certificate, key) = (
        pem("certificate-authority-data"),
        pem("client-certificate-data"),
        pem("client-key-data"),
    );
    for (phases, seconds) in [("coverage,fuzzing", "40"), ("stateful", "25")] {
        run(Command::new(bin.join("schemathesis"))
            .args(["--no-color", "run"])
            .arg(&document)
            .arg(format!("--url=https://127.0.0.1:{}", agent.port()))
            .arg(format!("--tls-verify={}", authority.display()))
            .arg(format!("--request-cert={}", certificate.display()))
            .arg(format!("--request-cert-key={}", key.display()))
            .arg(
                "--checks=not_a_server_error,status_code_conformance,content_type_conformance,\
                 response_headers_conformance,response_schema_conformance",
            )
            .arg(format!("--phases={phases}"))
            .arg(format!("--max-time={seconds}"))
            // Streams need another protocol, and behind a proxy anything may be answered.
            .arg("--exclude-operation-id-regex=^connect")
            .args(["--max-examples=10", "--generation-deterministic", "--warnings=off"])
            .args(["--continue-on-failure", "--request-timeout=30"])
            .current_dir(&agent.dir)
            .env("SCHEMATHESIS_HOOKS", "hooks")
            .env("PYTHONPATH", source("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1"));
    }
}

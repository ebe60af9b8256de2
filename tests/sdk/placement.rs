//! `deploy/examples/placement`: a client of several agents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::{Agent, podd};
use crate::{kubeconfig, python, run, write, write_document};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/examples/placement")
        .join(name)
}

/// The example's client with its SDK.
struct Client {
    python: PathBuf,
    dir: PathBuf,
}

impl Client {
    fn new(dir: &Path) -> Self {
        let bin = python("python").dir.join("venv/bin");
        let (document, config) = (dir.join("podd.json"), dir.join("generator.yaml"));
        write_document(&document, "3.1");
        write(&config, "post_hooks: []\n");
        run(Command::new(bin.join("openapi-python-client"))
            .args(["generate", "--meta", "none"])
            .arg("--path")
            .arg(&document)
            .arg("--config")
            .arg(&config)
            .arg("--output-path")
            .arg(dir.join("sdk")));
        Self {
            python: bin.join("python"),
            dir: dir.to_owned(),
        }
    }

    fn place(&self, pod: &Path, agents: &[&Agent]) -> Output {
        let mut command = Command::new(&self.python);
        command.arg(example("place.py")).arg(pod);
        command.args(agents.iter().map(|agent| kubeconfig(agent)));
        command
            .env("PYTHONPATH", &self.dir)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap()
    }
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.stderr.is_empty(), "{output:?}");
    text
}

fn has(agent: &Agent, name: &str) -> bool {
    agent.try_pod(name).is_ok()
}

#[test]
fn a_client_of_two_agents_finds_the_one_with_room() {
    let small = Agent::start_empty(&["--allocatable=memory=2560Mi", "--node-name=small"]);
    let large = Agent::start_empty(&["--allocatable=memory=3Gi", "--node-name=large"]);
    let agents = [&small, &large];
    run(Command::new(example("image.sh"))
        .args(agents.map(Agent::socket))
        .env("PODD", podd().get_program()));
    let client = Client::new(&large.dir);

    // The README says so.
    let placed = client.place(&example("pod.json"), &agents);
    let why = "Pod was rejected: Node didn't have enough resource: memory, requested: 3221225472, used: 0, \
               capacity: 2684354560";
    let expected = format!("small (0% taken) refused: OutOfmemory: {why}\nthree runs on large (0% was taken)\n");
    assert_eq!(said(&placed), expected);
    let readme = fs::read_to_string(example("README.md")).unwrap();
    for line in expected.lines() {
        assert!(readme.contains(line), "{line}");
    }
    large.wait_running("three");
    small.wait_gone("three");
    small.wait_no_leftovers();

    // Another one goes to the emptier machine at once, although it is named last.
    let mut pod: Value = serde_json::from_str(&fs::read_to_string(example("pod.json")).unwrap()).unwrap();
    pod["metadata"]["name"] = json!("one");
    pod["spec"]["containers"].as_array_mut().unwrap().truncate(1);
    let manifest = large.dir.join("one.json");
    write(&manifest, &pod.to_string());
    let placed = client.place(&manifest, &[&large, &small]);
    assert_eq!(said(&placed), "one runs on small (0% was taken)\n");
    assert!(has(&small, "one") && !has(&large, "one"));

    // And where there is no room anywhere, nothing is left of the try.
    pod["metadata"]["name"] = json!("none");
    pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("2Gi");
    write(&manifest, &pod.to_string());
    let placed = client.place(&manifest, &agents);
    assert_eq!(placed.status.code(), Some(1), "{placed:?}");
    let told = String::from_utf8_lossy(&placed.stdout).into_owned();
    let first: Vec<&str> = told.lines().filter_map(|line| line.split(" refused").next()).collect();
    assert_eq!(first, ["small (40% taken)", "large (100% taken)"]);
    for agent in agents {
        agent.wait_gone("none");
    }
}

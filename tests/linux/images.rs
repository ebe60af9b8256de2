//! Images come in, are used, and go.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{Agent, BUSYBOX, container, pod, wait_for, with};
use crate::pull::Registry;

/// A tar of files; a name that ends in a slash is a directory.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        let is_directory = name.ends_with('/');
        header.set_entry_type(if is_directory {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if is_directory { 0o755 } else { 0o644 });
        header.set_size(u64::try_from(data.len()).unwrap());
        header.set_mtime(1);
        tar.append_data(&mut header, name, *data).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A docker-archive of one image with these layers, lowest first.
fn docker_archive(dir: &Path, file: &str, name: &str, layers: &[Vec<u8>]) -> PathBuf {
    let hex = |bytes: &[u8]| {
        let mut text = String::new();
        for byte in Sha256::digest(bytes) {
            write!(text, "{byte:02x}").unwrap();
        }
        text
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let config_name = format!("{}.json", hex(config.as_bytes()));
    let names: Vec<String> = (0..layers.len()).map(|at| format!("{at}/layer.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": names}]).to_string();
    let mut files: Vec<(&str, &[u8])> = vec![
        ("manifest.json", manifest.as_bytes()),
        (&config_name, config.as_bytes()),
    ];
    files.extend(names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)));
    let path = dir.join(file);
    std::fs::write(&path, tar_of(&files)).unwrap();
    path
}

fn import(agent: &Agent, file: &Path) {
    let done = agent.podd(&["image", "import", file.to_str().unwrap()]);
    assert!(done.status.success(), "{done:?} {}", agent.agent_log());
}

fn with_image_volume(pod: Value, reference: &str, mount: &Value) -> Value {
    with(pod, |p| {
        p["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([mount]);
    })
}

#[test]
fn an_image_is_a_volume_of_its_merged_layers_that_nobody_writes_to() {
    let mut agent = Agent::start();
    let layers = [
        tar_of(&[
            ("app/", b""),
            ("app/sample.war", b"the old war"),
            ("app/gone", b"x"),
            ("below", b"1"),
        ]),
        tar_of(&[("app/sample.war", b"the new war"), ("app/.wh.gone", b"")]),
    ];
    import(&agent, &docker_archive(&agent.dir, "war.tar", "war:1", &layers));
    let script = "cat /w/app/sample.war /w/below; echo; ls /w/app; touch /w/x 2>&1 | grep -o 'Read-only file system'; \
                  exec sleep 1000";
    agent.create(&with_image_volume(
        pod("p", &[("c", script)]),
        "war:1",
        &json!({"name": "v", "mountPath": "/w"}),
    ));
    let log = agent.wait_log("p", "", "Read-only");
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        ["the new war1", "sample.war", "Read-only file system"]
    );

    // It is in use, its tag may move, and a container that is started again finds the same.
    let refused = agent.podd(&["image", "remove", "war:1"]);
    assert!(!refused.status.success(), "an image in use was removed");
    let other = [tar_of(&[("app/", b""), ("app/sample.war", b"another war")])];
    import(&agent, &docker_archive(&agent.dir, "war.tar", "war:1", &other));
    agent.kill();
    agent.start_again();
    let id = crate::common::uid(&agent.pod("p"));
    crate::common::signal(agent.container_pid(&id, "c"), "KILL");
    agent.wait_pod("p", "to be started again", |p| container(p, "c")["restartCount"] == 1);
    agent.wait_running("p");
    assert!(agent.wait_log("p", "", "Read-only").starts_with("the new war1"));

    agent.delete("p", Some(0));
    agent.wait_gone("p");
    agent.wait_no_leftovers();
}

#[test]
fn a_part_of_an_image_is_mounted_by_its_sub_path() {
    let agent = Agent::start();
    let layer = tar_of(&[("a/", b""), ("a/b/", b""), ("a/b/file", b"deep"), ("other", b"no")]);
    import(&agent, &docker_archive(&agent.dir, "one.tar", "data:1", &[layer]));
    let script = "cat /v/file; echo; ls /v; exec sleep 1000";
    agent.create(&with_image_volume(
        pod("sub", &[("c", script)]),
        "data:1",
        &json!({"name": "v", "mountPath": "/v", "subPath": "a/b"}),
    ));
    let log = agent.wait_log("sub", "", "\nfile");
    assert_eq!(log, "deep\nfile\n");
}

#[test]
fn a_volume_whose_image_is_missing_holds_up_only_who_mounts_it() {
    let agent = Agent::start();
    let both = with(
        pod(
            "p",
            &[
                ("c", "cat /v/file; echo; exec sleep 1000"),
                ("other", "exec sleep 1000"),
            ],
        ),
        |p| {
            p["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "data:1", "pullPolicy": "Never"}}]);
            p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        },
    );
    agent.create(&both);
    agent.wait_pod("p", "to miss the image of its volume", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "ErrImageNeverPull"
            && container(p, "other")["state"]["running"].is_object()
    });
    let layer = tar_of(&[("file", b"at last")]);
    import(&agent, &docker_archive(&agent.dir, "one.tar", "data:1", &[layer]));
    agent.wait_log("p", "container=c", "at last");
}

/// The pod of the tutorials that copies a WAR file out of an image with an init container, as it is written today.
#[test]
fn a_web_application_comes_as_a_volume_without_an_init_container() {
    let agent = Agent::start();
    let war = [tar_of(&[("sample.war", b"PK a web application")])];
    import(
        &agent,
        &docker_archive(&agent.dir, "sample.tar", "geektime/sample:v2", &war),
    );
    agent.create(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "javaweb-2"},
        "spec": {
            "containers": [{
                "name": "tomcat", "image": BUSYBOX,
                "command": ["sh", "-c", "cat /root/webapps/sample.war; echo; exec sleep 1000"],
                "volumeMounts": [{"name": "app-volume", "mountPath": "/root/webapps"}],
            }],
            "volumes": [{"name": "app-volume", "image": {"reference": "geektime/sample:v2"}}],
        },
    }));
    agent.wait_running("javaweb-2");
    agent.wait_log("javaweb-2", "", "PK a web application");
}

#[test]
fn an_image_that_is_not_there_is_said_so_and_comes_by_import() {
    let agent = Agent::start_empty(&[]);
    agent.create(&pod("p", &[("c", "exec sleep 1000")]));
    agent.wait_pod("p", "to miss its image", |p| {
        ["ErrImagePull", "ImagePullBackOff"]
            .contains(&container(p, "c")["state"]["waiting"]["reason"].as_str().unwrap_or(""))
    });
    assert_eq!(agent.pod("p")["status"]["phase"], "Pending");
    agent.create(&with(pod("never", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    }));
    agent.wait_pod("never", "to miss its image", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    });
    agent.import_busybox();
    let running = agent.wait_running("p");
    assert_eq!(
        container(&running, "c")["restartCount"],
        0,
        "a missing image is no restart"
    );
}

#[test]
fn images_are_listed_and_removed_but_not_from_under_a_pod() {
    let agent = Agent::start();
    let list = agent.podd(&["image", "list"]);
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(text.contains("docker.io/library/busybox"), "{text}");
    agent.create(&pod("p", &[("c", "exec sleep 1000")]));
    agent.wait_running("p");
    let refused = agent.podd(&["image", "remove", BUSYBOX]);
    assert!(!refused.status.success(), "an image in use was removed");
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    let removed = agent.podd(&["image", "remove", BUSYBOX]);
    assert!(removed.status.success(), "{removed:?}");
    let text = String::from_utf8(agent.podd(&["image", "list"]).stdout).unwrap();
    assert!(!text.contains("busybox"), "{text}");
    assert_eq!(
        std::fs::read_dir(agent.root().join("images/layers")).unwrap().count(),
        0,
        "its layer is gone too"
    );
}

#[test]
fn a_broken_archive_is_refused_and_leaves_nothing() {
    let agent = Agent::start_empty(&[]);
    let file = agent.dir.join("broken.tar");
    std::fs::write(&file, b"this is not a tar archive at all").unwrap();
    let refused = agent.podd(&["image", "import", file.to_str().unwrap(), "--name", "x"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    for dir in ["layers", "tmp"] {
        let count = std::fs::read_dir(agent.root().join("images").join(dir)).map_or(0, Iterator::count);
        assert_eq!(count, 0, "{dir}");
    }
}

/// A client command that must do what it is asked; what it says.
fn said(agent: &Agent, arguments: &[&str]) -> String {
    let done = agent.podd(arguments);
    assert!(done.status.success(), "{arguments:?} {done:?} {}", agent.agent_log());
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn images_are_pulled_looked_at_pushed_mended_and_pruned() {
    let registry = Registry::open();
    registry.push("app:1", "hello");
    let agent = Agent::start();
    let name = registry.name("app:1");
    let pulled = said(&agent, &["image", "pull", &name]);
    assert!(pulled.starts_with(&format!("pulled {name} sha256:")), "{pulled}");
    let missing = agent.podd(&["image", "pull", &registry.name("app:none")]);
    assert!(!missing.status.success());
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("not found"),
        "{missing:?}"
    );

    let inspected: Value = serde_json::from_str(&said(&agent, &["image", "inspect", &name])).unwrap();
    assert_eq!(inspected["layers"].as_array().unwrap().len(), 2);
    assert_eq!(inspected["config"]["config"]["Env"], json!(["PATH=/bin"]));
    let digest = inspected["repoDigests"][0].as_str().unwrap();
    assert!(
        digest.starts_with(&format!("{}@sha256:", registry.name("app"))),
        "{digest}"
    );
    wait_for("the node to tell of the image", || {
        let node = agent.request("GET", "/api/v1/nodes/node-under-test", None).json();
        let images = node["status"]["images"].as_array().cloned().unwrap_or_default();
        let names: Vec<&Value> = images
            .iter()
            .flat_map(|image| image["names"].as_array().unwrap())
            .collect();
        if names.contains(&&json!(digest)) && names.contains(&&json!(name)) {
            Ok(())
        } else {
            Err(format!("{images:?}"))
        }
    });

    let copy = registry.name("copy:2");
    said(&agent, &["image", "tag", &name, &copy]);
    assert!(said(&agent, &["image", "push", &copy]).starts_with("pushed sha256:"));
    let file = agent.dir.join("exported.tar");
    said(&agent, &["image", "export", &name, "--output", file.to_str().unwrap()]);

    // A byte in a layer goes bad; the registry has it still.
    let layer = inspected["layers"][1].as_str().unwrap().trim_start_matches("sha256:");
    let words = agent.root().join("images/layers").join(layer).join("words");
    assert!(said(&agent, &["image", "verify"]).contains(": whole"));
    std::fs::write(&words, "hellO\n").unwrap();
    let found = agent.podd(&["image", "verify", &name]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    assert!(
        String::from_utf8_lossy(&found.stdout).contains("is not what it was"),
        "{found:?}"
    );
    assert!(said(&agent, &["image", "repair"]).starts_with("repaired "));
    said(&agent, &["image", "verify"]);
    assert_eq!(std::fs::read_to_string(&words).unwrap(), "hello\n");

    let pruned = said(&agent, &["image", "prune"]);
    assert!(pruned.lines().last().unwrap().starts_with("freed "), "{pruned}");
    wait_for("nothing to be left", || {
        // What was asked for within the last minute stays: nothing was.
        let list = said(&agent, &["image", "list"]);
        if list.lines().count() == 1 { Ok(()) } else { Err(list) }
    });

    // What was exported and what was pushed are the image.
    said(&agent, &["image", "import", file.to_str().unwrap()]);
    for image in [&name, &copy] {
        let pod_name = if *image == name { "exported" } else { "pushed" };
        agent.create(&with(pod(pod_name, &[("c", "cat /words; exec sleep 1000")]), |p| {
            p["spec"]["containers"][0]["image"] = json!(image);
        }));
        agent.wait_log(pod_name, "", "hello");
    }
    let kept = said(&agent, &["image", "prune"]);
    assert_eq!(kept, "freed 0B\n", "both are in use");
}

#[test]
fn the_image_of_a_volume_is_pulled_by_its_policy() {
    let registry = Registry::open();
    registry.push("data:1", "from afar\n");
    let agent = Agent::start();
    let mut wants = with_image_volume(
        pod("p", &[("c", "cat /v/words; exec sleep 1000")]),
        &registry.name("data:1"),
        &json!({"name": "v", "mountPath": "/v"}),
    );
    wants["spec"]["volumes"][0]["image"]["pullPolicy"] = json!("Always");
    agent.create(&wants);
    agent.wait_log("p", "", "from afar");

    let mut nowhere = with_image_volume(
        pod("nowhere", &[("c", "exec sleep 1000")]),
        &registry.name("nothing:1"),
        &json!({"name": "v", "mountPath": "/v"}),
    );
    nowhere["spec"]["volumes"][0]["image"]["pullPolicy"] = json!("IfNotPresent");
    agent.create(&nowhere);
    agent.wait_pod("nowhere", "to miss the image of its volume", |p| {
        ["ErrImagePull", "ImagePullBackOff"]
            .contains(&container(p, "c")["state"]["waiting"]["reason"].as_str().unwrap_or(""))
    });
}

/// Bytes of all files beneath a directory; nothing when it changes under the look.
fn bytes_beneath(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_beneath(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn an_agent_killed_at_any_moment_of_an_import_leaves_no_part_of_it() {
    let mut agent = Agent::start();
    let mut noise = 1_u64;
    let mut random = || {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        noise >> 33
    };
    for round in 0_u64..10 {
        let layers: Vec<Vec<u8>> = (0..3)
            .map(|layer| {
                let names: Vec<String> = (0..200).map(|at| format!("d{layer}/{round}-{at}")).collect();
                let data: Vec<u8> = (0..8192).map(|_| random().to_le_bytes()[0]).collect();
                let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &data[..])).collect();
                tar_of(&files)
            })
            .collect();
        let size: u64 = layers.iter().map(|layer| layer.len() as u64).sum();
        let name = format!("big:{round}");
        let file = docker_archive(&agent.dir, "big.tar", &name, &layers);
        let mut import = crate::common::podd()
            .args(["image", "import", file.to_str().unwrap()])
            .env("PODD_SOCKET", agent.socket())
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // The spool takes as much as the archive, the layers as much again.
        let images = agent.root().join("images");
        let until = random() % (2 * size);
        wait_for("the import to be far enough", || {
            let now = bytes_beneath(&images.join("tmp"));
            let ended = import.try_wait().unwrap().is_some();
            if now >= until || ended {
                Ok(())
            } else {
                Err(format!("{now} of {until}"))
            }
        });
        agent.kill();
        import.wait().unwrap();
        agent.start_again();
        assert_eq!(
            std::fs::read_dir(images.join("tmp")).unwrap().count(),
            0,
            "round {round}"
        );
        let list = said(&agent, &["image", "list"]);
        let known = if list.contains(&name) { 3 } else { 0 };
        let there = std::fs::read_dir(images.join("layers")).unwrap().count();
        assert_eq!(there, known + 1, "round {round}: {list}");
        said(&agent, &["image", "verify"]);
        import_again(&agent, &file, &name);
    }
}

fn import_again(agent: &Agent, file: &Path, name: &str) {
    import(agent, file);
    said(agent, &["image", "verify", name]);
    said(agent, &["image", "remove", name]);
}

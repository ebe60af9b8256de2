//! Images come in, are used, and go.

use serde_json::json;

use crate::common::{Agent, BUSYBOX, container, pod, with};

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

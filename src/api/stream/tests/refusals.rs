//! What is refused before a connection changes its protocol.

use super::*;

#[tokio::test]
async fn what_cannot_be_begun_is_a_status() {
    let rig = Rig::start().await;
    rig.pod("one", &["only"], &["only"], &json!({})).await;
    rig.pod("done", &["only"], &[], &json!({"phase": "Succeeded"})).await;
    for (path, code, message) in [
        (
            "web/exec?container=main&stdout=true",
            400,
            "you must specify at least one command for the container",
        ),
        (
            "web/exec?container=main&command=ls",
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            "web/exec?container=main&command=ls&tty=true&stderr=true",
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            "web/exec?command=ls&stdout=true",
            400,
            "a container name must be specified for pod web, choose one of: [main side idle]",
        ),
        (
            "web/exec?container=x&command=ls&stdout=true",
            400,
            "container x is not valid for pod web",
        ),
        (
            "web/exec?container=idle&command=ls&stdout=true",
            404,
            "container not found (\"idle\")",
        ),
        (
            "web/attach?container=idle&stdout=true",
            404,
            "container not found (\"idle\")",
        ),
        ("none/exec?command=ls&stdout=true", 404, "pods \"none\" not found"),
        ("none/portforward", 404, "pods \"none\" not found"),
        ("done/portforward", 404, "pod not found (\"done_default\")"),
        ("web/portforward", 400, "query parameter \"ports\" is required"),
        ("web/portforward?ports=80,0", 400, "unable to parse \"0\" as a port"),
        ("web/portforward?ports=x", 400, "unable to parse \"x\" as a port"),
    ] {
        let path = format!("/api/v1/namespaces/default/pods/{path}");
        let status = rig.refused("GET", &path, WEBSOCKET).await;
        assert_eq!(
            (status["code"].as_i64(), status["message"].as_str()),
            (Some(code), Some(message)),
            "{path}"
        );
        assert_eq!(status["kind"], "Status");
    }
    let plain = rig
        .refused("POST", &format!("{WEB}/exec?container=main&command=ls&stdout=true"), "")
        .await;
    assert_eq!(
        (plain["code"].as_i64(), plain["message"].as_str()),
        (Some(400), Some("Upgrade request required"))
    );
    let unknown = rig
        .refused(
            "GET",
            &format!("{WEB}/exec?container=main&command=ls&stdout=true"),
            &format!("{WEBSOCKET}sec-websocket-protocol: v9.channel.k8s.io\r\n"),
        )
        .await;
    assert_eq!(unknown["code"], 403);
    let method = rig.refused("DELETE", &format!("{WEB}/exec"), "").await;
    assert_eq!(method["code"], 405);
    rig.stop().await;
}

#[tokio::test]
async fn the_only_container_need_not_be_named() {
    let rig = Rig::start().await;
    rig.pod("one", &["only"], &["only"], &json!({})).await;
    let path = "/api/v1/namespaces/default/pods/one/exec?command=echo&command=hi&stdout=true";
    let mut socket = rig.websocket(path, "v4.channel.k8s.io").await;
    let ([_, stdout, ..], _) = socket.all().await;
    assert_eq!(stdout, "hi\n");
    rig.stop().await;
}

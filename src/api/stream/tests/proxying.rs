//! The pod proxy, up to where it leaves this machine: what comes after that is tested beside it.

use super::*;

#[tokio::test]
async fn what_cannot_be_reached_is_a_status() {
    let rig = Rig::start().await;
    rig.pod("near", &["main"], &["main"], &json!({"podIP": "127.0.0.1"}))
        .await;
    for (id, code, message) in [
        ("none", 404, "pods \"none\" not found"),
        ("a:b:c:d", 400, "invalid pod request \"a:b:c:d\""),
        ("ftp:web:80", 400, "invalid pod request \"ftp:web:80\""),
        ("web", 400, "address not allowed"),
        ("near", 400, "address not allowed"),
        ("http:near:80", 400, "address not allowed"),
    ] {
        let path = format!("/api/v1/namespaces/default/pods/{id}/proxy/x");
        let status = rig.refused("PUT", &path, "").await;
        assert_eq!(
            (status["code"].as_i64(), status["message"].as_str()),
            (Some(code), Some(message)),
            "{id}"
        );
    }
    rig.stop().await;
}

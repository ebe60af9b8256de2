//! `/log`, with the files a shim would have written.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::*;

fn id(pod: &Value, attempt: u32) -> String {
    let name = format!("{}/main/{attempt}", pod["metadata"]["uid"].as_str().unwrap());
    format!("podd://{}", crate::api::answer::hex(&Sha256::digest(name)))
}

fn status(pod: &Value, attempt: u32, state: &Value, last: &Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{
        "name": "main", "image": "busybox:test", "imageID": "", "ready": true, "restartCount": attempt,
        "containerID": id(pod, attempt), "state": state, "lastState": last,
    }]})
}

fn running() -> Value {
    json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
}

fn ended(pod: &Value, attempt: u32) -> Value {
    json!({"terminated": {"exitCode": 1, "reason": "Error", "containerID": id(pod, attempt)}})
}

fn file(server: &Server, pod: &Value, name: &str) -> PathBuf {
    let dir = format!("default_p_{}", pod["metadata"]["uid"].as_str().unwrap());
    let dir = server.dir.path().join("logs").join(dir).join("main");
    fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

fn append(path: &PathBuf, second: u32, text: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("2026-01-01T00:00:{second:02}Z stdout F {text}\n").as_bytes())
        .unwrap();
}

async fn log(server: &Server, query: &str) -> Answer {
    server.get(&format!("{PODS}/p/log?{query}")).await
}

#[tokio::test]
async fn a_log_is_read_in_every_way_that_kubectl_asks_for() {
    let server = Server::start().await;
    let pod = server.create("p", &json!({})).await;
    let waiting = log(&server, "").await;
    assert_eq!(waiting.code, StatusCode::BAD_REQUEST);
    server
        .set_status(&pod, status(&pod, 1, &running(), &ended(&pod, 0)))
        .await;
    append(&file(&server, &pod, "0.log"), 1, "before");
    for i in 1..=5 {
        append(&file(&server, &pod, "1.log"), i, &format!("line {i}"));
    }
    let text = |query: &'static str| async { log(&server, query).await.text };
    assert_eq!(text("").await, "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(log(&server, "").await.headers[header::CONTENT_TYPE], "text/plain");
    assert_eq!(text("container=main&tailLines=2").await, "line 4\nline 5\n");
    assert_eq!(text("previous=true").await, "before\n");
    assert_eq!(text("sinceTime=2026-01-01T00:00:04Z").await, "line 4\nline 5\n");
    assert_eq!(text("limitBytes=9").await, "line 1\nli");
    assert_eq!(
        text("timestamps=true&tailLines=1").await,
        "2026-01-01T00:00:05Z line 5\n"
    );
    let other = log(&server, "stream=Both&tailLines=1").await;
    assert_eq!(other.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        other.message(),
        "PodLogOptions \"p\" is invalid: stream: Unsupported value: \"Both\": supported values: \"All\", \"Stderr\", \"Stdout\""
    );
    let both = log(&server, "stream=Stderr&tailLines=1").await;
    assert!(both.message().contains("mutually exclusive"), "{}", both.text);
    let invalid = log(&server, "tailLines=-1&limitBytes=0").await;
    assert_eq!(invalid.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        invalid.message(),
        "PodLogOptions \"p\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, limitBytes: Invalid value: 0: must be greater than 0]"
    );
    let both = log(&server, "sinceSeconds=5&sinceTime=2026-01-01T00:00:04Z").await;
    assert_eq!(both.code, StatusCode::UNPROCESSABLE_ENTITY);
    let absent = log(&server, "container=x").await;
    assert_eq!(
        (absent.code, absent.message()),
        (StatusCode::BAD_REQUEST, "container x is not valid for pod p".to_owned())
    );
}

#[tokio::test]
async fn following_goes_over_rotations_and_ends_with_the_instance() {
    let server = Server::start().await;
    let pod = server.create("p", &json!({})).await;
    server.set_status(&pod, status(&pod, 0, &running(), &json!({}))).await;
    let current = file(&server, &pod, "0.log");
    append(&current, 1, "one");
    let mut stream = server.stream(&format!("{PODS}/p/log?follow=true")).await;
    assert_eq!(stream.text().await.unwrap(), "one\n");
    append(&current, 2, "two");
    assert_eq!(stream.text().await.unwrap(), "two\n");
    append(&current, 3, "three");
    fs::rename(&current, file(&server, &pod, "0.log.20260101-000003")).unwrap();
    append(&current, 4, "four");
    let mut text = String::new();
    while text.len() < "three\nfour\n".len() {
        text.push_str(&stream.text().await.unwrap());
    }
    assert_eq!(text, "three\nfour\n");
    append(&current, 5, "last words");
    let restarted = status(
        &pod,
        0,
        &json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        &ended(&pod, 0),
    );
    server.set_status(&pod, restarted).await;
    assert_eq!(stream.text().await.unwrap(), "last words\n");
    assert_eq!(stream.text().await, None);
}

#[tokio::test]
async fn following_ends_when_the_pod_is_gone_and_at_the_byte_limit() {
    let server = Server::start().await;
    let pod = server.create("p", &json!({})).await;
    server.set_status(&pod, status(&pod, 0, &running(), &json!({}))).await;
    append(&file(&server, &pod, "0.log"), 1, "one");
    let mut limited = server.stream(&format!("{PODS}/p/log?follow=true&limitBytes=2")).await;
    assert_eq!(limited.text().await.unwrap(), "on");
    assert_eq!(limited.text().await, None);
    let mut stream = server.stream(&format!("{PODS}/p/log?follow=true")).await;
    assert_eq!(stream.text().await.unwrap(), "one\n");
    let uid = crate::model::Uid(pod["metadata"]["uid"].as_str().unwrap().to_owned());
    server.store.forget_pod(&uid).await.unwrap();
    assert_eq!(stream.text().await, None);
}

#[tokio::test]
async fn a_link_in_the_place_of_a_log_is_not_followed() {
    let server = Server::start().await;
    let pod = server.create("p", &json!({})).await;
    server.set_status(&pod, status(&pod, 0, &running(), &json!({}))).await;
    let secret = server.dir.path().join("secret");
    append(&secret, 1, "secret");
    std::os::unix::fs::symlink(&secret, file(&server, &pod, "0.log")).unwrap();
    let refused = log(&server, "").await;
    assert_eq!(refused.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!refused.text.contains("secret"), "{}", refused.text);
}

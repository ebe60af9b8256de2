//! Watches: order, selectors, replay, bookmarks, and what is too old.

use std::time::Duration;

use super::*;

fn path(query: &str) -> String {
    format!("{PODS}?watch=true&{query}")
}

#[tokio::test]
async fn without_a_version_a_watch_begins_with_what_there_is() {
    let server = Server::start().await;
    server.create("a", &json!({})).await;
    let mut events = server.stream(&path("resourceVersion=0")).await;
    events.expect(&[("ADDED", "a")]).await;
    let b = server.create("b", &json!({})).await;
    server.set_status(&b, json!({"phase": "Running"})).await;
    events.expect(&[("ADDED", "b"), ("MODIFIED", "b")]).await;
    server
        .store
        .forget_pod(&crate::model::Uid(b["metadata"]["uid"].as_str().unwrap().to_owned()))
        .await
        .unwrap();
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["status"]["phase"], "Running");
    let version = |o: &Value| {
        o["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(version(&deleted["object"]) > version(&b));
}

#[tokio::test]
async fn from_a_version_everything_after_it_is_replayed_once() {
    let server = Server::start().await;
    let first = server.create("a", &json!({})).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    for i in 0..300 {
        server.create(&format!("p{i}"), &json!({})).await;
    }
    let mut events = server.stream(&path(&format!("resourceVersion={version}"))).await;
    for i in 0..300 {
        events.expect(&[("ADDED", &format!("p{i}"))]).await;
    }
    server.create("last", &json!({})).await;
    events.expect(&[("ADDED", "last")]).await;
}

#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    let server = Server::start().await;
    let mut events = server
        .stream(&path("sendInitialEvents=false&resourceVersionMatch=NotOlderThan"))
        .await;
    let watcher = async {
        // Polled once, so that it follows the broadcast, and then not for a long time.
        events.expect(&[("ADDED", "first")]).await;
        events
    };
    let labels = json!({});
    let (mut events, _) = tokio::join!(watcher, server.create("first", &labels));
    for i in 0..600 {
        server.create(&format!("p{i}"), &json!({})).await;
    }
    for i in 0..600 {
        events.expect(&[("ADDED", &format!("p{i}"))]).await;
    }
}

#[tokio::test]
async fn objects_enter_and_leave_a_selector() {
    let server = Server::start().await;
    let mut events = server.stream(&path("labelSelector=app=web")).await;
    server.create("web", &json!({"app": "db"})).await;
    let label = |value: &str| format!(r#"{{"metadata":{{"labels":{{"app":"{value}"}}}}}}"#);
    let object = format!("{PODS}/web");
    for value in ["web", "db"] {
        let merge = "application/merge-patch+json";
        assert_eq!(
            server.call("PATCH", &object, merge, label(value)).await.code,
            StatusCode::OK
        );
    }
    events.expect(&[("ADDED", "web")]).await;
    let left = events.next().await.unwrap();
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["app"]),
        (&json!("DELETED"), &json!("web"))
    );
}

#[tokio::test]
async fn what_is_too_old_is_told_in_the_stream() {
    let server = Server::with(
        Limits::default(),
        crate::store::Limits {
            changes: 4,
            bytes: 1 << 40,
        },
    )
    .await;
    for i in 0..50 {
        server.create(&format!("p{i}"), &json!({})).await;
    }
    for version in ["1", "999999"] {
        let mut events = server.stream(&path(&format!("resourceVersion={version}"))).await;
        let error = events.next().await.unwrap();
        assert_eq!(error["type"], "ERROR");
        assert_eq!(
            (&error["object"]["code"], &error["object"]["reason"]),
            (&json!(410), &json!("Expired"))
        );
        assert!(
            error["object"]["message"]
                .as_str()
                .unwrap()
                .starts_with(&format!("too old resource version: {version} ("))
        );
        assert_eq!(events.next().await, None);
    }
}

#[tokio::test]
async fn bookmarks_come_at_the_end_of_the_list_and_of_the_watch() {
    let server = Server::start().await;
    server.create("a", &json!({})).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let mut events = server.stream(&path(query)).await;
    events.expect(&[("ADDED", "a")]).await;
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "Pod");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let last = events.next().await.unwrap();
    assert_eq!(
        (&last["type"], &last["object"]["metadata"]["annotations"]),
        (&json!("BOOKMARK"), &Value::Null)
    );
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn bookmarks_come_from_time_to_time() {
    let limits = Limits {
        bookmark_every: Duration::from_millis(1),
        ..Limits::default()
    };
    let server = Server::with(limits, crate::store::Limits::default()).await;
    let mut events = server.stream(&path("allowWatchBookmarks=true")).await;
    assert_eq!(events.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(events.next().await.unwrap()["type"], "BOOKMARK");
}

#[tokio::test]
async fn tables_are_watched_row_by_row() {
    let server = Server::start().await;
    server.create("a", &json!({})).await;
    server.create("b", &json!({})).await;
    let request = Request::get(path("fieldSelector=metadata.namespace=default"))
        .header(
            header::ACCEPT,
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .body(Body::empty())
        .unwrap();
    let response = server.router.clone().oneshot(request).await.unwrap();
    let mut events = Events {
        body: response.into_body().into_data_stream(),
    };
    let (first, second) = (events.next().await.unwrap(), events.next().await.unwrap());
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"].as_array().unwrap().len(), 9);
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert_eq!(second["object"]["columnDefinitions"], json!([]));
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused() {
    let server = Server::start().await;
    for query in [
        "sendInitialEvents=true",
        "resourceVersionMatch=Exact",
        "sendInitialEvents=true&resourceVersionMatch=Exact",
    ] {
        assert_eq!(
            server.get(&path(query)).await.code,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{query}"
        );
    }
}

#[tokio::test]
async fn only_so_many_watches_at_once_and_a_dropped_one_makes_room() {
    let limits = Limits {
        streams: 1,
        ..Limits::default()
    };
    let server = Server::with(limits, crate::store::Limits::default()).await;
    let first = server.stream(&path("")).await;
    let refused = server.get(&path("")).await;
    assert_eq!(refused.code, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    drop(first);
    drop(server.stream(&path("")).await);
}

//! The router as clients meet it, over a real store in a directory of its own.

mod accounts;
mod changing;
mod documents;
mod guarding;
mod kinds;
mod logs;
mod objects;
mod permissions;
mod placement;
mod pod_security;
mod reviews;
mod watches;
mod wire;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt;

use super::auth::Bearers;
use super::kinds::{KINDS, Kind};
use super::stream::tests::fake::Local;
use super::{ApiState, Limits, router_with};
use crate::model::Timestamp;
use crate::store::Store;

pub(super) const PODS: &str = "/api/v1/namespaces/default/pods";

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(super) fn garbage() -> crate::garbage::Settings {
    let of = |kind: &&Kind| crate::garbage::OwnerKind {
        group: kind.group.to_owned(),
        kind: kind.kind.to_owned(),
        stored_as: kind.stored_as.to_owned(),
        namespaced: kind.namespaced,
    };
    crate::garbage::Settings {
        ca: "the authority".to_owned(),
        api: "10.1.2.3:6443".parse().unwrap(),
        kinds: KINDS.iter().map(of).collect(),
        clock: now,
    }
}

/// Whose tokens are whose: those of the file in this directory, and those of the store's service accounts.
pub(super) fn bearers(root: &std::path::Path, store: &Store) -> Bearers {
    Bearers::open(root, std::sync::Arc::new(crate::account::testing::accounts(store, now)))
}

/// A router, its store, and the directory that both live in.
pub(super) struct Server {
    pub(super) dir: TempDir,
    pub(super) store: Store,
    pub(super) router: Router,
    pub(super) bearers: Bearers,
    pub(super) ready: watch::Sender<bool>,
}

pub(super) struct Answer {
    pub(super) code: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(super) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(Limits::default(), crate::store::Limits::default()).await
    }

    pub(super) async fn with(limits: Limits, history: crate::store::Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_with(&dir.path().join("podd.db"), history).await.unwrap();
        crate::garbage::bootstrap(&store, &garbage()).await.unwrap();
        let (ready, readiness) = watch::channel(false);
        let bearers = bearers(dir.path(), &store);
        let state = ApiState {
            store: store.clone(),
            node_name: "node-1".to_owned(),
            log_dir: dir.path().join("logs"),
            ready: readiness,
            streams: Local::new(dir.path().to_owned()),
            streaming_idle_timeout: std::time::Duration::from_hours(4),
            bearers: bearers.clone(),
            address: garbage().api,
            clock: now,
        };
        Self {
            router: router_with(state, limits),
            bearers,
            store,
            ready,
            dir,
        }
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(
            Request::get(path)
                .header(header::ACCEPT, accept)
                .body(Body::empty())
                .unwrap(),
        )
        .await
    }

    pub(super) async fn call(&self, method: &str, path: &str, media: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, media);
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, "application/json", body.to_string()).await
    }

    pub(super) async fn create(&self, name: &str, labels: &Value) -> Value {
        let answer = self.post(PODS, &pod(name, labels)).await;
        assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.text);
        answer.json()
    }

    pub(super) async fn names(&self, query: &str) -> Vec<String> {
        let list = self.get(&format!("{PODS}?{query}")).await.json();
        let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}"));
        items
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(super) async fn set_status(&self, object: &Value, status: Value) {
        let uid = crate::model::Uid(object["metadata"]["uid"].as_str().unwrap().to_owned());
        assert!(self.store.set_status(&uid, status).await.unwrap());
    }

    pub(super) async fn stream(&self, path: &str) -> Events {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Events {
            body: response.into_body().into_data_stream(),
        }
    }
}

/// A stream of a watch, event by event, or of a log, piece by piece.
pub(super) struct Events {
    body: BodyDataStream,
}

impl Events {
    /// The next piece; `None` when the stream has ended.
    pub(super) async fn text(&mut self) -> Option<String> {
        let bytes = futures_util::StreamExt::next(&mut self.body).await?.unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    pub(super) async fn next(&mut self) -> Option<Value> {
        let text = self.text().await?;
        assert!(text.ends_with('\n'), "{text}");
        Some(serde_json::from_str(&text).unwrap())
    }

    /// Type and name of the next event.
    pub(super) async fn event(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }

    pub(super) async fn expect(&mut self, events: &[(&str, &str)]) {
        for (event_type, name) in events {
            let (found_type, found_name) = self.event().await;
            assert_eq!((found_type.as_str(), found_name.as_str()), (*event_type, *name));
        }
    }
}

pub(super) fn pod(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "busybox:test", "command": ["sleep", "1"]}]},
    })
}

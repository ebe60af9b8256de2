use serde_json::json;

use super::*;
use crate::model::*;

struct Scratch {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("podd.db");
        Self {
            _directory: directory,
            path,
        }
    }

    async fn open(&self) -> Store {
        Store::open(&self.path).await.unwrap()
    }
}

fn uid(n: u32) -> Uid {
    Uid(format!("00000000-0000-4000-8000-{n:012}"))
}

fn pod(uid: &Uid, name: &str, image: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "uid": uid.as_str() },
        "spec": { "containers": [{ "name": "main", "image": image }] },
    })
}

#[tokio::test]
async fn an_object_comes_back_with_its_resource_version_and_status() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    assert_eq!(store.resource_version().await.unwrap(), 1);

    let made = store
        .create("Pod", "default", "a", &uid(1), pod(&uid(1), "a", "one"))
        .await
        .unwrap();
    assert_eq!(made.resource_version, 2);
    assert_eq!(made.json["metadata"]["resourceVersion"], "2");
    assert!(made.json.get("status").is_none());

    assert!(store.set_status(&uid(1), json!({ "phase": "Pending" })).await.unwrap());
    let got = store.get("Pod", "default", "a").await.unwrap().unwrap();
    assert_eq!(got.resource_version, 3);
    assert_eq!(got.json["metadata"]["resourceVersion"], "3");
    assert_eq!(got.json["status"]["phase"], "Pending");
    assert_eq!(got.uid, uid(1));

    // A status write counts: what was read before it is out of date.
    let error = store
        .update("Pod", "default", "a", 2, pod(&uid(1), "a", "two"))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Conflict {
                expected: 2,
                found: 3,
                ..
            }
        ),
        "{error}"
    );
    let updated = store
        .update("Pod", "default", "a", 3, pod(&uid(1), "a", "two"))
        .await
        .unwrap();
    assert_eq!(updated.resource_version, 4);
    assert_eq!(updated.json["spec"]["containers"][0]["image"], "two");
    assert_eq!(updated.json["status"]["phase"], "Pending");
    assert_eq!(
        store.get_by_uid("Pod", &uid(1)).await.unwrap().unwrap().json,
        updated.json
    );
    assert!(store.get_by_uid("ConfigMap", &uid(1)).await.unwrap().is_none());

    let removed = store.delete("Pod", "default", "a", 4).await.unwrap();
    assert_eq!(removed.resource_version, 5);
    assert_eq!(removed.json["metadata"]["resourceVersion"], "5");
    assert_eq!(removed.json["spec"], updated.json["spec"]);
    assert!(store.get("Pod", "default", "a").await.unwrap().is_none());
    assert_eq!(store.resource_version().await.unwrap(), 5);
}

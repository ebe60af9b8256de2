//! Lists of earlier versions are the lists that were given then.

use super::*;

async fn all(store: &Store, namespace: Option<&str>) -> (u64, Vec<serde_json::Value>) {
    let page = store.list("Pod", namespace, None, None).await.unwrap();
    let objects = page.objects.iter().map(|o| o.json.as_ref().clone()).collect();
    (page.resource_version, objects)
}

#[tokio::test]
async fn every_version_is_listed_again_as_it_was_page_by_page() {
    let (store, _scratch) = fresh().await;
    let mut past = vec![all(&store, None).await];
    // Objects come, change in both halves, go, and come again under their old names.
    for step in 0..60_u32 {
        let name = format!("p{}", step * 7 % 5);
        let namespace = if step % 3 == 0 { "a" } else { "b" };
        let fresh_uid = uid(step);
        match store.get("Pod", namespace, &name).await.unwrap() {
            None => {
                let pod = json!({"metadata": {"name": name, "namespace": namespace, "uid": fresh_uid.as_str()}, "spec": {"v": step}});
                store.create("Pod", namespace, &name, &fresh_uid, pod).await.unwrap();
            }
            Some(found) if step % 4 == 0 => {
                store
                    .delete("Pod", namespace, &name, found.resource_version)
                    .await
                    .unwrap();
            }
            Some(found) if step % 4 == 1 => {
                store.set_status(&found.uid, json!({ "step": step })).await.unwrap();
            }
            Some(found) => {
                let mut desired = found.json.as_ref().clone();
                desired["spec"]["v"] = step.into();
                store
                    .update("Pod", namespace, &name, found.resource_version, desired)
                    .await
                    .unwrap();
            }
        }
        past.push(all(&store, None).await);
    }
    for (version, expected) in &past {
        for namespace in [None, Some("a"), Some("b"), Some("c")] {
            let expected: Vec<&serde_json::Value> = expected
                .iter()
                .filter(|o| namespace.is_none_or(|n| o["metadata"]["namespace"] == n))
                .collect();
            let mut found = Vec::new();
            let mut after: Option<(Arc<str>, Arc<str>)> = None;
            loop {
                let from = after.as_ref().map(|(namespace, name)| (&**namespace, &**name));
                let page = store.list_at("Pod", namespace, from, Some(2), *version).await.unwrap();
                assert_eq!(page.resource_version, *version);
                let Some(last) = page.objects.last() else { break };
                after = Some((Arc::clone(&last.namespace), Arc::clone(&last.name)));
                found.extend(page.objects.iter().map(|o| Arc::clone(&o.json)));
                let left = store
                    .count_at("Pod", namespace, (&last.namespace, &last.name), *version)
                    .await
                    .unwrap();
                assert_eq!(left, (expected.len() - found.len()) as u64, "version {version}");
            }
            assert_eq!(
                found.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
                expected,
                "version {version}"
            );
        }
    }
}

#[tokio::test]
async fn what_was_dropped_cannot_be_shown_again() {
    let scratch = Scratch::new();
    let limits = Limits {
        changes: 4,
        bytes: 1 << 40,
    };
    let store = Store::open_with(&scratch.path, limits).await.unwrap();
    for step in 0..40 {
        let (uid, name) = (uid(step), format!("p{step}"));
        store
            .create("Pod", "default", &name, &uid, pod(&uid, &name, "one"))
            .await
            .unwrap();
    }
    let error = store.list_at("Pod", None, None, None, 2).await.unwrap_err();
    assert!(matches!(error, StoreError::TooOld { asked: 2, .. }), "{error}");
    let now = store.resource_version().await.unwrap();
    assert_eq!(
        store.list_at("Pod", None, None, None, now).await.unwrap().objects.len(),
        40
    );
}

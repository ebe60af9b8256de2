//! The store by its behaviour, on a real database file.

mod changes;
mod durable;
mod observed;
mod owners;
mod past;
mod places;
mod speed;

use futures_util::future::{join_all, poll_immediate};
use serde_json::json;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::*;

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

    /// Do something to the database behind the store's back.
    async fn meddle(&self, statements: &'static str) {
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", self.path.display()))
            .await
            .unwrap();
        sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// All that is on the disk.
    fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        (
            std::fs::read(&self.path).unwrap(),
            std::fs::read(self.path.with_extension("db-wal")).unwrap(),
        )
    }
}

/// A store, and the directory that lives as long as the test.
async fn fresh() -> (Store, Scratch) {
    let scratch = Scratch::new();
    (scratch.open().await, scratch)
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

/// The address of a pod that claims nothing else.
async fn address_of(store: &Store, uid: &Uid, pool: (Ipv4Addr, Ipv4Addr)) -> Result<Ipv4Addr, StoreError> {
    match store.take_place(uid, Claim::default(), None, Some(pool)).await? {
        Place::Taken(ip) => Ok(ip.unwrap()),
        Place::Refused(lack) => panic!("{lack}"),
    }
}

async fn make(store: &Store, n: u32) -> StoredObject {
    let name = format!("pod-{n}");
    store
        .create("Pod", "default", &name, &uid(n), pod(&uid(n), &name, "one"))
        .await
        .unwrap()
}

fn names(page: &Page) -> Vec<&str> {
    page.objects.iter().map(|object| &*object.name).collect()
}

#[tokio::test]
async fn halves_are_written_alone_or_together_over_the_version_they_were_made_from() {
    let (store, _scratch) = fresh().await;
    let mut object = pod(&uid(1), "a", "one");
    store
        .create("Pod", "default", "a", &uid(1), object.clone())
        .await
        .unwrap();
    let mut changes = store.subscribe();

    let told = store
        .update_status("Pod", "default", "a", 2, json!({ "phase": "Pending" }))
        .await
        .unwrap();
    assert_eq!(
        (told.resource_version, &told.json["status"]["phase"]),
        (3, &json!("Pending"))
    );
    assert_eq!(told.json["spec"], object["spec"]);
    // A client's word is news to the controller, unlike its own.
    assert_eq!(changes.recv().await.unwrap().origin, Origin::Desired);
    let same = store
        .update_status("Pod", "default", "a", 3, json!({ "phase": "Pending" }))
        .await
        .unwrap();
    assert_eq!(same.resource_version, 3);

    object["metadata"]["labels"] = json!({ "both": "yes" });
    object["status"] = json!({ "phase": "Running" });
    let both = store.update_whole("Pod", "default", "a", 3, object).await.unwrap();
    assert_eq!(both.json["metadata"]["labels"]["both"], "yes");
    assert_eq!(both.json["status"]["phase"], "Running");
    let got = store.get("Pod", "default", "a").await.unwrap().unwrap();
    assert_eq!(got.json, both.json);

    let late = store.update_status("Pod", "default", "a", 3, json!({})).await;
    assert!(
        matches!(
            late,
            Err(StoreError::Conflict {
                expected: 3,
                found: 4,
                ..
            })
        ),
        "{late:?}"
    );
    let late = store.set_status_over(&uid(1), 3, json!({})).await;
    assert!(
        matches!(
            late,
            Err(StoreError::Conflict {
                expected: 3,
                found: 4,
                ..
            })
        ),
        "{late:?}"
    );
    assert!(
        store
            .set_status_over(&uid(1), 4, json!({ "phase": "Failed" }))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn what_the_store_fills_in_is_not_taken_from_the_caller() {
    let (store, _scratch) = fresh().await;
    let mut desired = pod(&uid(1), "a", "one");
    desired["status"] = json!({ "phase": "Pending" });
    desired["metadata"]["resourceVersion"] = json!("777");
    let made = store
        .create("Pod", "default", "a", &uid(1), desired.clone())
        .await
        .unwrap();
    assert_eq!(made.json["metadata"]["resourceVersion"], "2");
    // What it begins with is its maker's to say.
    assert_eq!(made.json["status"]["phase"], "Pending");
    // The same again is no change; nor is another status in what is desired.
    desired["status"] = json!({ "phase": "Running" });
    let same = store.update("Pod", "default", "a", 2, desired).await.unwrap();
    assert_eq!(same.resource_version, 2);
    assert_eq!(same.json["status"]["phase"], "Pending");

    let error = store
        .create("Pod", "default", "b", &uid(2), json!("text"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotAnObject { .. }), "{error}");
}

#[tokio::test]
async fn names_are_unique_for_each_kind_and_namespace() {
    let (store, _scratch) = fresh().await;
    for (n, (kind, namespace)) in [
        ("Pod", "default"),
        ("Pod", "other"),
        ("ConfigMap", "default"),
        ("Namespace", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let uid = uid(u32::try_from(n).unwrap());
        store
            .create(kind, namespace, "a", &uid, pod(&uid, "a", "one"))
            .await
            .unwrap();
    }
    let error = store
        .create("Pod", "default", "a", &uid(9), pod(&uid(9), "a", "two"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    // What failed has taken no resource version.
    assert_eq!(store.resource_version().await.unwrap(), 5);
    assert_eq!(store.get("Pod", "default", "a").await.unwrap().unwrap().uid, uid(0));
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_not_there() {
    let (store, _scratch) = fresh().await;
    assert!(store.get("Pod", "default", "a").await.unwrap().is_none());
    let error = store
        .update("Pod", "default", "a", 1, pod(&uid(1), "a", "one"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    let error = store.delete("Pod", "default", "a", 1).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    let error = store.set_status(&uid(1), json!({})).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    store.forget_pod(&uid(1)).await.unwrap();
    store.release_place(&uid(1)).await.unwrap();
    assert_eq!(store.observed(&uid(1)).await.unwrap(), Observed::default());
    assert!(store.pod_uids().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_list_is_ordered_and_comes_in_pages() {
    let (store, _scratch) = fresh().await;
    for (n, (namespace, name)) in [("b", "1"), ("a", "2"), ("a", "10"), ("c", "1"), ("a", "1"), ("a-", "0")]
        .into_iter()
        .enumerate()
    {
        let uid = uid(u32::try_from(n).unwrap());
        store
            .create("Pod", namespace, name, &uid, pod(&uid, name, "one"))
            .await
            .unwrap();
    }
    store
        .create("ConfigMap", "a", "0", &uid(77), pod(&uid(77), "0", "one"))
        .await
        .unwrap();

    let all = store.list("Pod", None, None, None).await.unwrap();
    let keys: Vec<_> = all
        .objects
        .iter()
        .map(|o| (o.namespace.to_string(), o.name.to_string()))
        .collect();
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(keys, sorted);
    assert_eq!(keys.len(), 6);
    assert_eq!(all.resource_version, store.resource_version().await.unwrap());

    for size in 1..8 {
        let mut paged = Vec::new();
        let mut after: Option<(String, String)> = None;
        loop {
            let place = after
                .as_ref()
                .map(|(namespace, name)| (namespace.as_str(), name.as_str()));
            let page = store.list("Pod", None, place, Some(size)).await.unwrap();
            assert!(page.objects.len() <= size);
            paged.extend(
                page.objects
                    .iter()
                    .map(|o| (o.namespace.to_string(), o.name.to_string())),
            );
            if page.objects.len() < size {
                break;
            }
            after = paged.last().cloned();
        }
        assert_eq!(paged, keys, "pages of {size}");
    }

    assert_eq!(
        names(&store.list("Pod", Some("a"), None, None).await.unwrap()),
        ["1", "10", "2"]
    );
    assert_eq!(
        names(&store.list("Pod", Some("a"), Some(("a", "1")), Some(1)).await.unwrap()),
        ["10"]
    );
    assert!(
        store
            .list("Pod", Some("none"), None, None)
            .await
            .unwrap()
            .objects
            .is_empty()
    );
    assert!(store.list("Pod", None, None, Some(0)).await.unwrap().objects.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_creates_of_one_name_one_wins() {
    let (store, _scratch) = fresh().await;
    let made = join_all((0..200).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .create("Pod", "default", "a", &uid(n), pod(&uid(n), "a", "one"))
                .await
        })
    }))
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for error in lost {
        assert!(matches!(error, Err(StoreError::AlreadyExists { .. })), "{error:?}");
    }
    let stored = store.get("Pod", "default", "a").await.unwrap().unwrap();
    assert_eq!(stored.uid, won[0].as_ref().unwrap().uid);
    assert_eq!(store.changes("Pod", 0, 100).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_thousand_mixed_writes_at_once_all_succeed() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    join_all((0..200).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let name = format!("pod-{n}");
            let range = ("10.0.0.1".parse().unwrap(), "10.0.3.254".parse().unwrap());
            let before = Observed::default();
            let after = Observed {
                started_at: Some(jiff::Timestamp::UNIX_EPOCH),
                ..Observed::default()
            };
            // Ten writes, and reads between them.
            let made = make(&store, n).await;
            address_of(&store, &uid(n), (range.0, range.1)).await.unwrap();
            store.save_observed(&uid(n), &before, &after).await.unwrap();
            store
                .update(
                    "Pod",
                    "default",
                    &name,
                    made.resource_version,
                    pod(&uid(n), &name, "two"),
                )
                .await
                .unwrap();
            for phase in ["Pending", "Running", "Succeeded"] {
                assert!(store.set_status(&uid(n), json!({ "phase": phase })).await.unwrap());
                assert_eq!(
                    store.get("Pod", "default", &name).await.unwrap().unwrap().json["status"]["phase"],
                    phase
                );
                assert_eq!(store.observed(&uid(n)).await.unwrap(), after);
            }
            store.put_setting(&name, "there").await.unwrap();
            store.release_place(&uid(n)).await.unwrap();
            if n % 2 == 0 {
                store.forget_pod(&uid(n)).await.unwrap();
            } else {
                store.list("Pod", None, None, Some(10)).await.unwrap();
            }
        })
    }))
    .await
    .into_iter()
    .for_each(Result::unwrap);
    assert_eq!(store.list("Pod", None, None, None).await.unwrap().objects.len(), 100);
    assert_eq!(store.resource_version().await.unwrap(), 1 + 200 * 5 + 100);
}

#[tokio::test]
async fn requests_of_one_transaction_fail_each_for_itself() {
    let (store, _scratch) = fresh().await;
    make(&store, 0).await;
    // On one thread the writer runs only once all of them are queued: one transaction.
    let made = join_all((0..50).map(|n| {
        let store = store.clone();
        async move {
            // Each even one is in the way of the odd one after it.
            let name = format!("pod-{}", n / 2);
            store
                .create("Pod", "default", &name, &uid(100 + n), pod(&uid(100 + n), &name, "one"))
                .await
        }
    }))
    .await;
    for (n, made) in made.iter().enumerate() {
        assert_eq!(made.is_ok(), n % 2 == 0 && n != 0, "{n}: {made:?}");
    }
    let page = store.list("Pod", None, None, None).await.unwrap();
    assert_eq!(page.objects.len(), 25);
    assert_eq!(page.resource_version, 2 + 24);
}

#[tokio::test]
async fn a_caller_that_goes_away_harms_nobody() {
    let (store, _scratch) = fresh().await;
    for n in 0..300 {
        let name = format!("pod-{n}");
        let uid = uid(n);
        let mut create = Box::pin(store.create("Pod", "default", &name, &uid, pod(&uid, &name, "one")));
        // Polled as often as its number says, then dropped: before it is queued, while it waits, or when it is done.
        for _ in 0..n % 4 {
            if poll_immediate(&mut create).await.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(create);
        let mut read = Box::pin(store.list("Pod", None, None, None));
        for _ in 0..n % 5 {
            if poll_immediate(&mut read).await.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // The writer still writes, the readers still read, and what was written is whole.
    make(&store, 1000).await;
    let page = store.list("Pod", None, None, None).await.unwrap();
    let changes = store.changes("Pod", 0, 1000).await.unwrap();
    assert_eq!(page.objects.len(), changes.len());
    assert!(page.objects.len() > 225, "{}", page.objects.len());
    assert_eq!(page.resource_version, 1 + u64::try_from(changes.len()).unwrap());
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changes() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    let made = make(&store, 1).await;
    let status = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
    assert!(store.set_status(&uid(1), status.clone()).await.unwrap());
    let observed = Observed {
        started_at: Some(jiff::Timestamp::UNIX_EPOCH),
        ..Observed::default()
    };
    store
        .save_observed(&uid(1), &Observed::default(), &observed)
        .await
        .unwrap();
    let range = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 9));
    address_of(&store, &uid(1), (range.0, range.1)).await.unwrap();
    let mut changes = store.subscribe();
    let before = scratch.bytes();

    assert!(!store.set_status(&uid(1), status).await.unwrap());
    store.save_observed(&uid(1), &observed, &observed).await.unwrap();
    store
        .update(
            "Pod",
            "default",
            "pod-1",
            made.resource_version + 1,
            pod(&uid(1), "pod-1", "one"),
        )
        .await
        .unwrap();
    address_of(&store, &uid(1), (range.0, range.1)).await.unwrap();
    store.release_place(&uid(2)).await.unwrap();
    store.forget_pod(&uid(2)).await.unwrap();
    store
        .create("Pod", "default", "pod-1", &uid(3), pod(&uid(3), "pod-1", "one"))
        .await
        .unwrap_err();
    store.list("Pod", None, None, None).await.unwrap();

    assert_eq!(store.resource_version().await.unwrap(), made.resource_version + 1);
    assert!(changes.try_recv().is_err());
    assert!(before == scratch.bytes(), "something was written");
}

#[tokio::test]
async fn forgetting_a_pod_leaves_nothing_of_it() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    let range = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 9));
    for n in [1, 2] {
        make(&store, n).await;
        store.set_status(&uid(n), json!({ "phase": "Running" })).await.unwrap();
        store
            .save_observed(&uid(n), &Observed::default(), &observed::full(3))
            .await
            .unwrap();
        address_of(&store, &uid(n), (range.0, range.1)).await.unwrap();
    }
    let mut changes = store.subscribe();
    store.forget_pod(&uid(1)).await.unwrap();

    let change = changes.recv().await.unwrap();
    assert_eq!(change.change_type, ChangeType::Deleted);
    assert_eq!(change.origin, Origin::Status);
    assert_eq!(change.object.resource_version, 6);
    assert_eq!(change.object.json["metadata"]["resourceVersion"], "6");
    assert_eq!(change.object.json["status"]["phase"], "Running");
    assert_eq!(change.previous.as_ref().unwrap()["metadata"]["resourceVersion"], "3");
    assert_eq!(store.pod_uids().await.unwrap(), [uid(2)]);
    assert_eq!(store.observed(&uid(1)).await.unwrap(), Observed::default());
    assert_eq!(store.observed(&uid(2)).await.unwrap(), observed::full(3));
    assert_eq!(address_of(&store, &uid(3), (range.0, range.1)).await.unwrap(), range.0);
    scratch.meddle("CREATE TABLE left_over AS SELECT uid FROM sandbox UNION SELECT uid FROM attempt UNION SELECT uid FROM failure UNION SELECT uid FROM pod").await;
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", scratch.path.display()))
        .await
        .unwrap();
    let left: Vec<String> = sqlx::query_scalar("SELECT uid FROM left_over")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, [uid(2).0]);
}

#[tokio::test]
async fn addresses_are_the_lowest_free_ones_and_stay() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    let (first, last) = (Ipv4Addr::new(10, 0, 0, 254), Ipv4Addr::new(10, 0, 1, 1));
    let address = |store: &Store, n| {
        let store = store.clone();
        async move { address_of(&store, &uid(n), (first, last)).await }
    };
    let given: Vec<_> = join_all((1..=4).map(|n| address(&store, n)))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        given,
        [first, Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::new(10, 0, 1, 0), last]
    );
    let error = address(&store, 5).await.unwrap_err();
    assert!(matches!(error, StoreError::NoAddress { .. }), "{error}");

    drop(store);
    let store = scratch.open().await;
    assert_eq!(address(&store, 2).await.unwrap(), given[1]);
    store.release_place(&uid(3)).await.unwrap();
    store.release_place(&uid(1)).await.unwrap();
    assert_eq!(address(&store, 6).await.unwrap(), first);
    assert_eq!(address(&store, 1).await.unwrap(), given[2]);

    // Another range: nobody keeps an address from outside of it, and those outside are not in the way.
    let (first, last) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 1));
    assert_eq!(address_of(&store, &uid(2), (first, last)).await.unwrap(), first);
    assert!(address_of(&store, &uid(4), (first, last)).await.is_err());
    // An empty range has no address.
    assert!(
        address_of(
            &store,
            &uid(7),
            (Ipv4Addr::new(10, 2, 0, 2), Ipv4Addr::new(10, 2, 0, 1))
        )
        .await
        .is_err()
    );
    assert_eq!(store.pod_uids().await.unwrap(), [uid(1), uid(2), uid(4), uid(6)]);
}

#[tokio::test]
async fn ids_of_user_namespaces_are_each_one_pods_and_stay() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    let range = UserRange {
        first: 131_072,
        pods: 3,
    };
    let ids = |store: &Store, n| {
        let store = store.clone();
        async move { store.user_ids(&uid(n), range).await }
    };
    let given = join_all((1..=3).map(|n| ids(&store, n))).await;
    let given: Vec<_> = given.into_iter().map(Result::unwrap).collect();
    assert_eq!(given, [131_072, 196_608, 262_144]);
    let error = ids(&store, 4).await.unwrap_err();
    assert!(matches!(error, StoreError::NoUserIds { pods: 3 }), "{error}");

    // Over restarts of the agent, also with another range.
    drop(store);
    let store = scratch.open().await;
    assert_eq!(ids(&store, 2).await.unwrap(), given[1]);
    let elsewhere = UserRange { first: 65_536, pods: 1 };
    assert_eq!(store.user_ids(&uid(2), elsewhere).await.unwrap(), given[1]);
    assert_eq!(store.user_ids(&uid(5), elsewhere).await.unwrap(), 65_536);
    assert_eq!(store.pod_uids().await.unwrap(), [uid(1), uid(2), uid(3), uid(5)]);

    // Free again once nothing of the pod is left.
    let before = Observed::default();
    let torn_down = Observed {
        torn_down: true,
        ..Observed::default()
    };
    store.save_observed(&uid(2), &before, &torn_down).await.unwrap();
    store.forget_pod(&uid(1)).await.unwrap();
    assert_eq!(ids(&store, 6).await.unwrap(), given[0]);
    assert_eq!(ids(&store, 7).await.unwrap(), given[1]);
    assert!(ids(&store, 8).await.is_err());
}

#[tokio::test]
async fn images_are_found_by_name_and_id_until_their_last_name_goes() {
    let (store, _scratch) = fresh().await;
    let image = |id: &str, names: &[&str]| ImageRow {
        id: id.to_owned(),
        manifest_digest: format!("{id}-manifest"),
        config: r#"{"config":{}}"#.to_owned(),
        layers: vec![
            "sha256:bottom".to_owned(),
            "sha256:top".to_owned(),
            "sha256:bottom".to_owned(),
        ],
        size: 4096,
        created_at: "2026-11-21T01:02:03.456789123Z".parse().unwrap(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let first = image("sha256:1", &["a", "b"]);
    store.put_image(&first).await.unwrap();
    assert_eq!(store.image_by_name("a").await.unwrap(), Some(first.clone()));
    assert_eq!(store.image_by_id("sha256:1").await.unwrap(), Some(first.clone()));
    assert_eq!(store.image_by_name("c").await.unwrap(), None);

    // A name moves to the newer image; the rest is as before, and putting it again changes nothing.
    let second = image("sha256:2", &["b"]);
    store.put_image(&second).await.unwrap();
    store.put_image(&second).await.unwrap();
    let first = image("sha256:1", &["a"]);
    assert_eq!(store.images().await.unwrap(), [first.clone(), second.clone()]);

    assert_eq!(store.remove_image_name("b").await.unwrap(), Some(second));
    assert_eq!(store.remove_image_name("b").await.unwrap(), None);
    assert_eq!(store.images().await.unwrap(), std::slice::from_ref(&first));
    store.put_image(&image("sha256:1", &["z"])).await.unwrap();
    store.remove_image_name("a").await.unwrap().unwrap();
    assert_eq!(store.images().await.unwrap(), [image("sha256:1", &["z"])]);

    // The last name was given to another one: the image stays until it is removed itself.
    store.put_image(&image("sha256:3", &["z"])).await.unwrap();
    assert_eq!(
        store.image_by_id("sha256:1").await.unwrap(),
        Some(image("sha256:1", &[]))
    );
    assert_eq!(
        store.remove_image("sha256:1").await.unwrap(),
        Some(image("sha256:1", &[]))
    );
    assert_eq!(store.remove_image("sha256:1").await.unwrap(), None);
    assert_eq!(store.images().await.unwrap(), [image("sha256:3", &["z"])]);
}

#[tokio::test]
async fn settings_are_kept() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    assert_eq!(store.setting("node").await.unwrap(), None);
    store.put_setting("node", "one").await.unwrap();
    store.put_setting("node", "two").await.unwrap();
    drop(store);
    assert_eq!(
        scratch.open().await.setting("node").await.unwrap().as_deref(),
        Some("two")
    );
}

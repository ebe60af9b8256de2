//! What a bad registry may not do to others: to the password of another, to who has none, and to who waits.

use super::*;

const AUTH: &str = "Basic bWU6c2VjcmV0";

fn wants_password() -> Faults {
    Faults {
        wants: Some((AUTH.to_owned(), "Basic realm=\"r\"".to_owned())),
        ..Faults::default()
    }
}

#[tokio::test]
async fn who_is_redirected_to_does_not_say_where_the_password_goes() {
    let thief = Fake::new(Faults::default()).await;
    let store = Fake::new(Faults {
        wants: Some((
            "never".to_owned(),
            format!("Bearer realm=\"http://{}/token\"", thief.address),
        )),
        ..Faults::default()
    })
    .await;
    let fake = Fake::new(Faults {
        redirect: Some(format!("http://{}", store.address)),
        ..wants_password()
    })
    .await;
    for fake in [&fake, &store] {
        fake.image("app", "v1", &[layer("a", 10)]);
    }
    let machine = Machine::new().await;
    let credentials = Credentials::password("me", "secret");
    let pulled = machine.images.pull(&fake.name("app:v1"), credentials, |_| {}).await;
    assert!(pulled.unwrap_err().to_string().contains("failed to pull"));
    assert!(!store.seen().is_empty());
    assert!(thief.seen().is_empty(), "{:?}", thief.seen());
}

#[tokio::test]
async fn a_digest_is_no_key_to_what_another_has_pulled() {
    let fake = Fake::new(wants_password()).await;
    let digest = fake.image("app", "v1", &[layer("a", 10)]);
    let machine = Machine::new().await;
    let by_digest = fake.name(&format!("app@{digest}"));
    for name in [&fake.name("app:v1"), &by_digest] {
        let credentials = Credentials::password("me", "secret");
        machine.images.pull(name, credentials, |_| {}).await.unwrap();
    }
    let (words, _) = machine.refusal(&by_digest).await;
    assert!(words.contains("pull access denied"), "{words}");
}

#[tokio::test]
async fn a_mirror_whose_blobs_are_damaged_is_left_for_the_registry() {
    let mirror = Fake::new(Faults {
        damages: AtomicUsize::new(usize::MAX),
        ..Faults::default()
    })
    .await;
    let origin = Fake::new(Faults::default()).await;
    for fake in [&mirror, &origin] {
        fake.image("app", "v1", &[layer("a", 50_000)]);
    }
    let machine = Machine::new().await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        origin.address, mirror.address
    );
    machine.hosts("registry.test", &text);
    machine.pull("registry.test/app:v1").await.unwrap();
    assert_eq!(origin.seen().len(), 1, "for the one blob that was damaged");
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_is_given_up() {
    let hung = Fake::new(Faults {
        stalls: true,
        ..Faults::default()
    })
    .await;
    let names: Vec<String> = ["a", "b", "c", "d"].map(|name| hung.name(name)).into();
    for name in ["a", "b", "c", "d"] {
        hung.image(name, "latest", &[layer(name, 50_000), layer("beside it", 60_000)]);
    }
    let machine = Machine::new().await;
    // As many as there are places.
    let waiting: Vec<_> = names
        .iter()
        .map(|name| {
            let (images, name) = (machine.images.clone(), name.clone());
            tokio::spawn(async move { images.pull(&name, Credentials::default(), |_| {}).await })
        })
        .collect();
    let places = &machine.images.pulls.places;
    until("each of them has a layer on its way", || {
        hung.seen().iter().filter(|seen| seen.path.contains("/blobs/")).count() >= 3 * names.len()
    })
    .await;
    assert_eq!(places.available_permits(), 0);
    // Somebody else wants the first one too.
    let (images, first) = (machine.images.clone(), names[0].clone());
    let mut also = Box::pin(async move { images.pull(&first, Credentials::default(), |_| {}).await });
    assert!(futures_util::poll!(&mut also).is_pending());
    for waiting in &waiting {
        waiting.abort();
    }
    until("the others have given their places back", || {
        places.available_permits() == names.len() - 1
    })
    .await;
    assert!(futures_util::poll!(&mut also).is_pending());
    drop(also);
    until("the last has too", || places.available_permits() == names.len()).await;
    assert_eq!(machine.entries("tmp"), 0);
    assert_eq!(machine.entries("layers"), 0);

    // The next who asks is not told of it.
    let good = Fake::new(Faults::default()).await;
    good.image("app", "v1", &[layer("a", 50_000)]);
    machine.pull(&good.name("app:v1")).await.unwrap();
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let patience = tokio::time::Instant::now() + std::time::Duration::from_mins(1);
    while !is() {
        assert!(tokio::time::Instant::now() < patience, "waited in vain: {what}");
        let soon = tokio::time::Instant::now() + std::time::Duration::from_millis(5);
        tokio::time::sleep_until(soon).await;
    }
}

#[tokio::test]
async fn an_index_that_leads_to_ever_more_indexes_is_refused() {
    let fake = Fake::new(Faults::default()).await;
    let mut manifests = Vec::new();
    for n in 0..100 {
        let index =
            json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"n": n.to_string()}});
        let index = serde_json::to_vec(&index).unwrap();
        let digest = Digest::of(&index);
        fake.put(format!("app/manifests/{digest}"), INDEX, index.clone());
        manifests.push(json!({"mediaType": INDEX, "digest": digest.to_string(), "size": index.len()}));
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    fake.put(
        "app/manifests/v1".to_owned(),
        INDEX,
        serde_json::to_vec(&index).unwrap(),
    );
    let top = Digest::of(&serde_json::to_vec(&index).unwrap());
    fake.put(
        format!("app/manifests/{top}"),
        INDEX,
        serde_json::to_vec(&index).unwrap(),
    );
    let machine = Machine::new().await;
    let (words, _) = machine.refusal(&fake.name("app:v1")).await;
    assert!(words.contains("lead to more than 64 documents"), "{words}");
    assert!(fake.seen().len() < 70);
}

#[tokio::test]
async fn an_id_is_not_pulled_by() {
    let machine = Machine::new().await;
    let (words, _) = machine.refusal(&format!("sha256:{}", "0".repeat(64))).await;
    assert!(words.contains("is the id of an image"), "{words}");
}

#[tokio::test]
async fn what_needs_a_better_processor_is_passed_over() {
    let fake = Fake::new(Faults::default()).await;
    let (better, _) = fake.manifest("app", &[layer("better", 10)], MANIFEST, |_| {});
    let (plain, config) = fake.manifest("app", &[layer("a", 10)], MANIFEST, |_| {});
    let described = [(&better, "v999"), (&plain, "")].map(|(manifest, variant)| {
        let digest = Digest::of(manifest);
        fake.put(format!("app/manifests/{digest}"), MANIFEST, manifest.clone());
        let platform = json!({"os": "linux", "architecture": architecture(), "variant": variant});
        json!({"mediaType": MANIFEST, "digest": digest.to_string(), "size": manifest.len(), "platform": platform})
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": described});
    let index = serde_json::to_vec(&index).unwrap();
    fake.put("app/manifests/v1".to_owned(), INDEX, index.clone());
    fake.put(format!("app/manifests/{}", Digest::of(&index)), INDEX, index);
    let machine = Machine::new().await;
    let row = machine.pull(&fake.name("app:v1")).await.unwrap();
    assert_eq!(row.id, config.to_string());
}

use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::testing::{ISSUER, accounts, key};
use super::*;

const BEGIN: i64 = 1_800_000_000;
const HOUR: Duration = Duration::from_hours(1);

thread_local! {
    /// Each test has a thread, and so a time, of its own.
    static NOW: AtomicI64 = const { AtomicI64::new(BEGIN) };
}

fn clock() -> Timestamp {
    Timestamp::from_second(NOW.with(|now| now.load(Ordering::Relaxed))).unwrap()
}

fn later(seconds: i64) {
    NOW.with(|now| now.fetch_add(seconds, Ordering::Relaxed));
}

struct Rig {
    _dir: tempfile::TempDir,
    store: Store,
    accounts: Accounts,
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        let rig = Self {
            accounts: accounts(&store, clock),
            store,
            _dir: dir,
        };
        rig.make("ServiceAccount", "ours", "robot", "account-1").await;
        rig
    }

    async fn make(&self, kind: &str, namespace: &str, name: &str, uid: &str) {
        let object =
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace, "uid": uid}});
        let uid = Uid(uid.to_owned());
        self.store.create(kind, namespace, name, &uid, object).await.unwrap();
    }

    async fn remove(&self, kind: &str, namespace: &str, name: &str) {
        let stored = self.store.get(kind, namespace, name).await.unwrap().unwrap();
        self.store
            .delete(kind, namespace, name, stored.resource_version)
            .await
            .unwrap();
    }

    /// Say of an object that it is to be gone at this second.
    async fn end(&self, kind: &str, namespace: &str, name: &str, at: i64) {
        let stored = self.store.get(kind, namespace, name).await.unwrap().unwrap();
        let mut object = (*stored.json).clone();
        object["metadata"]["deletionTimestamp"] = Timestamp::from_second(at).unwrap().to_string().into();
        self.store
            .update(kind, namespace, name, stored.resource_version, object)
            .await
            .unwrap();
    }

    fn issue(&self, bound: BoundTo, audiences: &[&str]) -> String {
        let audiences: Vec<String> = audiences.iter().map(|&a| a.to_owned()).collect();
        let uid = Uid("account-1".to_owned());
        let issued = self.accounts.issue(("ours", "robot", &uid), bound, &audiences, HOUR);
        issued.unwrap().text
    }

    async fn refused(&self, token: &str) -> String {
        self.accounts.verify(token, &[]).await.unwrap_err().to_string()
    }
}

fn one(name: &str, uid: &str) -> Bound {
    Bound {
        name: name.to_owned(),
        uid: uid.to_owned(),
    }
}

#[tokio::test]
async fn a_token_says_what_kubernetes_says() {
    let rig = Rig::new().await;
    let bound = BoundTo {
        pod: Some(one("web", "pod-1")),
        node: Some(one("node-1", "node-uid")),
        secret: None,
    };
    let token = rig.issue(bound, &["a", "b"]);
    let parts: Vec<Value> = token
        .split('.')
        .take(2)
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
        .collect();
    assert_eq!(parts[0], json!({"alg": "ES256", "kid": rig.accounts.key.id()}));
    let mut claims = parts[1].clone();
    assert_eq!(claims["jti"].as_str().unwrap().len(), 36);
    claims.as_object_mut().unwrap().remove("jti");
    assert_eq!(
        claims,
        json!({
            "iss": ISSUER, "sub": "system:serviceaccount:ours:robot", "aud": ["a", "b"],
            "iat": BEGIN, "nbf": BEGIN, "exp": BEGIN + 3600,
            "kubernetes.io": {
                "namespace": "ours",
                "serviceaccount": {"name": "robot", "uid": "account-1"},
                "pod": {"name": "web", "uid": "pod-1"},
                "node": {"name": "node-1", "uid": "node-uid"},
            },
        })
    );
    let keys = rig.accounts.keys();
    assert_eq!(keys["keys"][0]["kid"], parts[0]["kid"]);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    assert!(keys["keys"][0].get("d").is_none(), "the private half");
}

#[tokio::test]
async fn a_token_is_its_account_and_tells_its_pod() {
    let rig = Rig::new().await;
    rig.make("Pod", "ours", "web", "pod-1").await;
    let bound = BoundTo {
        pod: Some(one("web", "pod-1")),
        node: Some(one("node-1", "")),
        secret: None,
    };
    let token = rig.issue(bound, &[]);
    let found = rig.accounts.verify(&token, &[]).await.unwrap();
    assert_eq!(found.user, "system:serviceaccount:ours:robot");
    assert_eq!(found.uid, "account-1");
    assert_eq!(found.groups, ["system:serviceaccounts", "system:serviceaccounts:ours"]);
    assert_eq!(found.audiences, [ISSUER]);
    let extra = |key: &str| found.extra.get(&format!("authentication.kubernetes.io/{key}"));
    assert_eq!(extra("pod-name").unwrap(), &["web"]);
    assert_eq!(extra("pod-uid").unwrap(), &["pod-1"]);
    assert_eq!(extra("node-name").unwrap(), &["node-1"]);
    assert_eq!(extra("node-uid"), None);
    assert!(extra("credential-id").unwrap()[0].starts_with("JTI="));
}

#[tokio::test]
async fn a_token_lives_as_long_as_it_says() {
    let rig = Rig::new().await;
    let token = rig.issue(BoundTo::default(), &[]);
    later(3599);
    assert!(rig.accounts.verify(&token, &[]).await.is_ok());
    later(1);
    assert_eq!(rig.refused(&token).await, "service account token has expired");
    later(-3600 - 60);
    assert!(rig.accounts.verify(&token, &[]).await.is_ok(), "the clock was set back");
    later(-1);
    assert_eq!(rig.refused(&token).await, "service account token is not valid yet");
}

#[tokio::test]
async fn a_token_is_for_its_audiences() {
    let rig = Rig::new().await;
    let token = rig.issue(BoundTo::default(), &["vault"]);
    assert!(matches!(
        rig.accounts.verify(&token, &[]).await,
        Err(Refusal::Audience { .. })
    ));
    let wanted = ["other".to_owned(), "vault".to_owned()];
    assert_eq!(rig.accounts.verify(&token, &wanted).await.unwrap().audiences, ["vault"]);
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let rig = Rig::new().await;
    for (kind, namespace, bound) in [
        (
            "Pod",
            "ours",
            BoundTo {
                pod: Some(one("x", "uid-of-Pod")),
                node: Some(one("elsewhere", "n")),
                ..BoundTo::default()
            },
        ),
        (
            "Secret",
            "ours",
            BoundTo {
                secret: Some(one("x", "uid-of-Secret")),
                ..BoundTo::default()
            },
        ),
        (
            "Node",
            "",
            BoundTo {
                node: Some(one("x", "uid-of-Node")),
                ..BoundTo::default()
            },
        ),
    ] {
        let token = rig.issue(bound, &[]);
        assert_eq!(rig.refused(&token).await, "service account token has been invalidated");
        rig.make(kind, namespace, "x", &format!("uid-of-{kind}")).await;
        assert!(rig.accounts.verify(&token, &[]).await.is_ok(), "{kind}");
        rig.end(kind, namespace, "x", BEGIN - 60).await;
        assert!(rig.accounts.verify(&token, &[]).await.is_ok(), "{kind} is ending");
        rig.end(kind, namespace, "x", BEGIN - 61).await;
        assert_eq!(rig.refused(&token).await, "service account token has been invalidated");
        rig.remove(kind, namespace, "x").await;
        rig.make(kind, namespace, "x", &format!("another-{kind}")).await;
        assert_eq!(rig.refused(&token).await, "service account token has been invalidated");
    }
}

#[tokio::test]
async fn a_token_ends_with_its_account() {
    let rig = Rig::new().await;
    let token = rig.issue(BoundTo::default(), &[]);
    assert!(rig.accounts.verify(&token, &[]).await.is_ok());
    rig.remove("ServiceAccount", "ours", "robot").await;
    assert_eq!(rig.refused(&token).await, "serviceaccount \"robot\" not found");
    rig.make("ServiceAccount", "ours", "robot", "account-2").await;
    assert_eq!(
        rig.refused(&token).await,
        "service account UID (account-2) does not match claim (account-1)"
    );
}

#[tokio::test]
async fn what_this_key_did_not_sign_is_nobodys() {
    let rig = Rig::new().await;
    let good = rig.issue(BoundTo::default(), &[]);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        panic!("{good}")
    };
    let text = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let none = text(json!({"alg": "none", "kid": rig.accounts.key.id()}));
    let hmac = text(json!({"alg": "HS256", "kid": rig.accounts.key.id()}));
    let mut more: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    more["exp"] = (BEGIN + 999_999).into();
    let foreign = claims::encode(&claims::decode(&good, &rig.accounts.key).unwrap(), &key()).unwrap();
    for bad in [
        String::new(),
        "..".to_owned(),
        good.clone() + "A",
        good[..good.len() - 4].to_owned(),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{hmac}.{claims}.{signature}"),
        format!("{header}.{}.{signature}", text(more)),
        format!("{header}.{claims}.{signature}.{signature}"),
        foreign,
        "A".repeat(100_000),
    ] {
        assert_eq!(rig.refused(&bad).await, "invalid bearer token", "{bad:.80}");
    }
    assert!(rig.accounts.verify(&good, &[]).await.is_ok());
}

fn request(pod: &str, seconds: u64) -> TokenRequest {
    TokenRequest {
        namespace: "ours".to_owned(),
        service_account: "robot".to_owned(),
        pod: ("web".to_owned(), Uid(pod.to_owned())),
        audience: String::new(),
        expiration: Duration::from_secs(seconds),
    }
}

#[tokio::test]
async fn a_pods_token_stays_until_four_fifths_of_its_life_are_over() {
    let rig = Rig::new().await;
    rig.make("Node", "", "node-1", "node-uid").await;
    let ask = async |request| rig.accounts.token(request).await.unwrap().unwrap();
    let first = ask(request("pod-1", 1000)).await;
    assert_eq!(first.renew_at.as_second(), BEGIN + 800);
    assert_eq!(first.expires_at.as_second(), BEGIN + 1000);
    let claims = claims::decode(&first.text, &rig.accounts.key).unwrap();
    assert_eq!(claims.kubernetes.pod, Some(one("web", "pod-1")));
    assert_eq!(claims.kubernetes.node, Some(one("node-1", "node-uid")));
    later(799);
    assert_eq!(ask(request("pod-1", 1000)).await, first);
    assert_ne!(ask(request("pod-2", 1000)).await, first);
    assert_ne!(ask(request("pod-1", 2000)).await, first);
    later(1);
    let second = ask(request("pod-1", 1000)).await;
    assert_eq!(second.expires_at.as_second(), BEGIN + 1800);
}

#[tokio::test]
async fn an_account_that_was_made_anew_is_another_one() {
    let rig = Rig::new().await;
    let first = rig.accounts.token(request("pod-1", 1000)).await.unwrap().unwrap();
    rig.remove("ServiceAccount", "ours", "robot").await;
    assert_eq!(rig.accounts.token(request("pod-1", 1000)).await.unwrap(), None);
    rig.make("ServiceAccount", "ours", "robot", "account-2").await;
    let second = rig.accounts.token(request("pod-1", 1000)).await.unwrap().unwrap();
    assert_ne!(first, second);
    let claims = claims::decode(&second.text, &rig.accounts.key).unwrap();
    assert_eq!(claims.kubernetes.serviceaccount.uid, "account-2");
}

#[tokio::test]
async fn many_tokens_take_a_bounded_room() {
    let rig = Rig::new().await;
    for n in 0..REMEMBERED + 2 {
        rig.accounts.token(request(&format!("pod-{n}"), 600)).await.unwrap();
    }
    assert!(lock(&rig.accounts.issued).len() <= REMEMBERED);
}

#[tokio::test]
async fn an_account_that_comes_a_moment_later_is_waited_for() {
    let rig = Rig::new().await;
    let look = rig.accounts.account_for_pod("new", "default");
    let make = rig.make("ServiceAccount", "new", "default", "account-9");
    let (found, ()) = tokio::join!(look, make);
    assert_eq!(found.unwrap().unwrap().uid.0, "account-9");
    assert!(rig.accounts.account_for_pod("new", "none").await.unwrap().is_none());
}

#[test]
fn a_key_that_is_none_is_refused() {
    for text in [
        "",
        "nonsense",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ] {
        assert!(SigningKey::from_pem(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn whatever_is_shown_is_looked_at_and_refused(token in "[A-Za-z0-9_.-]{0,120}") {
        prop_assert_eq!(claims::decode(&token, &key()), None);
    }
}

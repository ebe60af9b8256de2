//! Who pulls: credential helpers, identity tokens, tokens that expire, and what is said when all of it is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::common::{Agent, busybox_root_tar, container, pod, with};
use crate::fake_registry::{FakeRegistry, Guard, Shown};

const IMAGE: &str = "team/app:v1";

/// A registry with busybox in two layers.
fn registry(guard: Guard) -> FakeRegistry {
    let scratch = tempfile::tempdir().unwrap();
    let busybox = fs::read(busybox_root_tar(scratch.path())).unwrap();
    let mut words = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(6);
    header.set_mode(0o644);
    words.append_data(&mut header, "words", &b"words\n"[..]).unwrap();
    let registry = FakeRegistry::start(guard);
    registry.put("team/app", "v1", &[busybox, words.into_inner().unwrap()]);
    registry
}

/// A credential helper, as docker has them: a program on the agent's `PATH`, which writes down what it was asked.
fn helper(directory: &Path, name: &str, server: &str, username: &str, secret: &str) {
    let path = directory.join(format!("docker-credential-{name}"));
    let asked = directory.join("asked");
    let answer = json!({"ServerURL": server, "Username": username, "Secret": secret});
    let text = format!(
        "#!/bin/sh\nread -r server\necho \"{name} $1 $server\" >> {asked}\n\
         if [ \"$server\" = {server} ]; then echo '{answer}'; exit 0; fi\n\
         echo 'credentials not found in native keychain'\nexit 1\n",
        asked = asked.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// An agent with this docker config of its node, which finds helpers in `directory`.
fn agent(directory: &Path, config: &Value) -> Agent {
    let file = directory.join("config.json");
    fs::write(&file, config.to_string()).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display());
    Agent::start_empty_in(&[&format!("--docker-config={}", file.display())], &[("PATH", &path)])
}

fn pull(agent: &Agent, registry: &FakeRegistry) {
    let pulled = agent.podd(&["image", "pull", &registry.name(IMAGE)]);
    assert!(pulled.status.success(), "{pulled:?} {}", agent.agent_log());
}

fn refusal(agent: &Agent, registry: &FakeRegistry) -> String {
    let pulled = agent.podd(&["image", "pull", &registry.name(IMAGE)]);
    assert!(!pulled.status.success(), "{pulled:?}");
    String::from_utf8(pulled.stderr).unwrap()
}

#[test]
fn the_nodes_config_asks_its_helpers_and_identity_tokens_become_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let identity = |token: &str| Guard::Token {
        shown: Shown::RefreshToken(token.to_owned()),
        uses: usize::MAX,
    };
    let helped = registry(Guard::Basic("helped:hunter2".to_owned()));
    let written = registry(identity("hunter3"));
    let stored = registry(identity("hunter4"));
    helper(directory.path(), "one", &helped.host(), "helped", "hunter2");
    helper(directory.path(), "all", &stored.host(), "<token>", "hunter4");
    let agent = agent(
        directory.path(),
        &json!({
            "auths": {written.host(): {"identitytoken": "hunter3"}},
            "credHelpers": {helped.host(): "one"},
            "credsStore": "all",
        }),
    );
    for registry in [&helped, &written, &stored] {
        pull(&agent, registry);
    }
    let asked = fs::read_to_string(directory.path().join("asked")).unwrap();
    let of = |name: &str, registry: &FakeRegistry| {
        let line = format!("{name} get {}", registry.host());
        asked.lines().filter(|asked| *asked == line).count()
    };
    assert_eq!(of("one", &helped), 1, "{asked}");
    assert_eq!(of("all", &helped), 0, "it has a helper of its own: {asked}");
    assert_eq!(of("all", &stored), 1, "{asked}");
    // RFC 6749, 6: the token is exchanged, and shown to nobody but the token server.
    for registry in [&written, &stored] {
        let seen = registry.seen();
        let token = seen.iter().find(|seen| seen.path == "/token").unwrap();
        for part in [
            "grant_type=refresh_token",
            "client_id=podd",
            "service=test",
            "scope=repository%3Ateam%2Fapp%3Apull",
        ] {
            assert!(token.body.split('&').any(|known| known == part), "{part}: {token:?}");
        }
    }
    assert!(!agent.agent_log().contains("hunter"), "a secret was logged");
}

#[test]
fn helpers_that_fail_or_are_not_there_are_named_with_the_pull() {
    let directory = tempfile::tempdir().unwrap();
    let broken = registry(Guard::Open);
    let missing = registry(Guard::Open);
    let program = directory.path().join("docker-credential-broken");
    fs::write(&program, "#!/bin/sh\necho 'the keychain is locked'\nexit 3\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let agent = agent(
        directory.path(),
        &json!({"credHelpers": {broken.host(): "broken", missing.host(): "missing"}}),
    );
    let said = refusal(&agent, &broken);
    let words = "the credential helper docker-credential-broken failed (exit status: 3): the keychain is locked";
    assert!(said.contains(words), "{said}");
    let said = refusal(&agent, &missing);
    assert!(
        said.contains("the credential helper docker-credential-missing cannot be run"),
        "{said}"
    );
}

fn secret(agent: &Agent, name: &str, registry: &FakeRegistry, credentials: &str) {
    let entries = json!({registry.host(): {"auth": STANDARD.encode(credentials)}}).to_string();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/dockercfg",
        "data": {".dockercfg": STANDARD.encode(entries)},
    });
    let made = agent.request("POST", "/api/v1/namespaces/default/secrets", Some(&secret));
    assert_eq!(made.code, 201, "{made:?}");
}

#[test]
fn tokens_that_expire_within_a_pull_are_fetched_anew_and_a_wrong_password_is_told_as_such() {
    // Each token is good for one request: none of the blobs comes with the manifest's.
    let registry = registry(Guard::Token {
        shown: Shown::Password("me:hunter2".to_owned()),
        uses: 1,
    });
    let agent = Agent::start_empty(&[]);
    secret(&agent, "right", &registry, "me:hunter2");
    secret(&agent, "wrong", &registry, "me:hunter3");
    let create = |name: &str| {
        agent.create(&with(pod(name, &[("c", "cat /words; exec sleep 1000")]), |p| {
            p["spec"]["containers"][0]["image"] = json!(registry.name(IMAGE));
            p["spec"]["imagePullSecrets"] = json!([{ "name": name }]);
        }));
    };
    create("wrong");
    let refused = agent.wait_pod("wrong", "to be refused", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "ErrImagePull"
    });
    let message = container(&refused, "c")["state"]["waiting"]["message"]
        .as_str()
        .unwrap();
    for words in [
        "failed to pull and unpack image",
        "failed to authorize",
        "401 Unauthorized",
        "incorrect username or password",
        &registry.name(IMAGE),
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    create("right");
    agent.wait_log("right", "", "words");
    let tokens = registry
        .seen()
        .iter()
        .filter(|seen| seen.path.starts_with("/token"))
        .count();
    assert!(
        tokens >= 5,
        "{tokens}: a tag, a manifest, a config and two layers were asked for"
    );
    assert!(!agent.agent_log().contains("hunter"), "a secret was logged");
}

//! What a pod's service account lets it do: reach the API from inside, with a token that says who it is.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::{Agent, pod, uid, with};

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const SLEEP: &str = "trap 'exit 0' TERM; while true; do sleep 0.05; done";

/// A GET of the API from within a pod's network, at this host: code and body.
fn ask(agent: &Agent, infra: i32, host: &str, token: &str, path: &str) -> (u16, String) {
    let (gateway, port) = (agent.gateway(), agent.port());
    let output = Command::new("nsenter")
        .args([
            "-t",
            &infra.to_string(),
            "-n",
            "curl",
            "-sS",
            "--max-time",
            "30",
            "-w",
            "\n%{http_code}",
        ])
        .args(["--resolve", &format!("{host}:{port}:{gateway}")])
        .arg("--cacert")
        .arg(agent.root().join("pki/ca.crt"))
        .args(["-H", &format!("Authorization: Bearer {token}")])
        .arg(format!("https://{host}:{port}{path}"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let (body, code) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{said}"));
    assert!(output.status.success(), "{said}");
    (code.parse().unwrap(), body.to_owned())
}

fn kubectl(agent: &Agent, arguments: &[&str]) -> Output {
    let kubeconfig = agent.root().join("admin.kubeconfig");
    Command::new("kubectl")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn without_token(name: &str) -> Value {
    with(pod(name, &[("c", SLEEP)]), |p| {
        p["spec"]["automountServiceAccountToken"] = json!(false);
    })
}

#[test]
fn a_pod_reaches_the_api_at_its_gateway_with_the_rights_of_its_namespace() {
    let mut agent = Agent::start();
    let made = agent.create(&without_token("p"));
    agent.wait_running("p");
    let infra = agent.infra_pid(&uid(&made));
    let bound = [
        "create",
        "token",
        "default",
        "--bound-object-kind=Pod",
        "--bound-object-name=p",
    ];
    let token = said(&kubectl(&agent, &bound)).trim().to_owned();
    let gateway = agent.gateway().to_string();
    let code = |path: &str| ask(&agent, infra, &gateway, &token, path).0;
    let (found, pods) = ask(&agent, infra, &gateway, &token, "/api/v1/namespaces/default/pods");
    assert_eq!(found, 200, "{pods}");
    let pods: Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(pods["items"][0]["metadata"]["name"], "p");
    assert_eq!(code("/api/v1/namespaces/default/pods/p/log"), 200);
    assert_eq!(code("/api/v1/namespaces/default/secrets"), 403);
    assert_eq!(code("/api/v1/namespaces/kube-system/pods"), 403);
    assert_eq!(code("/api/v1/pods"), 403);
    assert_eq!(code("/openid/v1/jwks"), 200);
    for host in [
        "kubernetes",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ] {
        assert_eq!(ask(&agent, infra, host, &token, "/api").0, 200, "{host}");
    }
    let service = agent
        .request("GET", "/api/v1/namespaces/default/services/kubernetes", None)
        .json();
    assert_eq!(service["spec"]["clusterIP"], gateway);
    assert_eq!(service["spec"]["ports"][0]["port"], agent.port());

    // The key outlives the agent, and so do its tokens.
    agent.kill();
    agent.start_again();
    assert_eq!(
        ask(&agent, infra, &gateway, &token, "/api/v1/namespaces/default/pods").0,
        200
    );

    let other = agent.create(&without_token("other"));
    agent.wait_running("other");
    let other_infra = agent.infra_pid(&uid(&other));
    agent.delete("p", None);
    agent.wait_gone("p");
    assert_eq!(
        ask(&agent, other_infra, &gateway, &token, "/api").0,
        401,
        "the pod is gone"
    );
}

#[test]
fn a_pod_finds_its_token_where_clients_look_for_it() {
    let agent = Agent::start();
    let account = json!({"metadata": {"name": "robot"}});
    agent.request("POST", "/api/v1/namespaces/default/serviceaccounts", Some(&account));
    let made = agent.create(&with(pod("p", &[("c", SLEEP)]), |p| {
        p["spec"]["serviceAccountName"] = json!("robot");
    }));
    agent.wait_running("p");
    let read = |file: &str| {
        said(&kubectl(
            &agent,
            &["exec", "p", "--", "cat", &format!("{MOUNT}/{file}")],
        ))
    };
    assert_eq!(read("namespace"), "default");
    assert_eq!(
        read("ca.crt"),
        std::fs::read_to_string(agent.root().join("pki/ca.crt")).unwrap()
    );
    let token = read("token");
    let review = agent
        .request("POST", REVIEWS, Some(&json!({"spec": {"token": token}})))
        .json();
    let status = &review["status"];
    assert_eq!(status["authenticated"], true, "{review}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(
        status["user"]["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], json!([uid(&made)]));
    let infra = agent.infra_pid(&uid(&made));
    let gateway = agent.gateway().to_string();
    let path = "/api/v1/namespaces/default/pods/p";
    assert_eq!(ask(&agent, infra, &gateway, &token, path).0, 200);
    let written = kubectl(
        &agent,
        &["exec", "p", "--", "sh", "-c", &format!("echo x > {MOUNT}/token")],
    );
    assert!(!written.status.success(), "it is read-only");
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    let review = agent
        .request("POST", REVIEWS, Some(&json!({"spec": {"token": token}})))
        .json();
    assert!(review["status"]["authenticated"].is_null(), "{review}");
}

/// Node's own crypto, which shares no code with podd's.
const VERIFY: &str = r#"
const [jwks, token] = process.argv.slice(1);
const crypto = require("crypto");
const [header, claims, signature] = token.split(".");
const { kid, alg } = JSON.parse(Buffer.from(header, "base64url"));
const jwk = JSON.parse(jwks).keys.find(key => key.kid === kid && key.alg === alg);
const key = crypto.createPublicKey({ key: jwk, format: "jwk" });
const good = crypto.verify("sha256", Buffer.from(header + "." + claims),
    { key, dsaEncoding: "ieee-p1363" }, Buffer.from(signature, "base64url"));
if (!good) throw new Error("the signature is not of this key");
process.stdout.write(Buffer.from(claims, "base64url"));
"#;

#[test]
fn a_token_is_verified_by_whoever_has_the_published_keys() {
    let agent = Agent::start_empty(&["--service-account-issuer", "https://podd.example:8443"]);
    let keys = agent.request("GET", "/openid/v1/jwks", None).json().to_string();
    let create = ["create", "token", "default", "--audience=vault", "--duration=20m"];
    let token = said(&kubectl(&agent, &create)).trim().to_owned();
    let verify = |token: &str| {
        Command::new("node")
            .args(["-e", VERIFY, &keys, token])
            .output()
            .unwrap()
    };
    let claims: Value = serde_json::from_str(&said(&verify(&token))).unwrap();
    assert_eq!(claims["iss"], "https://podd.example:8443");
    assert_eq!(claims["aud"], json!(["vault"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 1200);
    let parts: Vec<&str> = token.split('.').collect();
    let forged = format!("{}.{}A.{}", parts[0], parts[1], parts[2]);
    assert!(!verify(&forged).status.success());
    let configuration = agent.request("GET", "/.well-known/openid-configuration", None).json();
    assert_eq!(configuration["issuer"], claims["iss"]);
    let keys_at = format!("https://{}:{}/openid/v1/jwks", agent.gateway(), agent.port());
    assert_eq!(configuration["jwks_uri"], keys_at);
}

#[test]
fn a_pod_of_a_new_namespace_has_its_account_at_once() {
    let agent = Agent::start();
    for n in 0..5 {
        let name = format!("ns-{n}");
        let namespace = json!({"metadata": {"name": name}});
        assert_eq!(agent.request("POST", "/api/v1/namespaces", Some(&namespace)).code, 201);
        let path = format!("/api/v1/namespaces/{name}/pods");
        let made = agent.request("POST", &path, Some(&without_token("p")));
        assert_eq!(made.code, 201, "{made:?}");
        assert_eq!(made.json()["spec"]["serviceAccountName"], "default");
    }
}

#[test]
fn what_an_account_may_do_is_told() {
    let agent = Agent::start_empty(&[]);
    let user = "--as=system:serviceaccount:default:default";
    let may = |arguments: &[&str]| {
        let all: Vec<&str> = ["auth", "can-i"]
            .iter()
            .chain(arguments)
            .chain([&user])
            .copied()
            .collect();
        String::from_utf8(kubectl(&agent, &all).stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(may(&["list", "pods", "-n", "default"]), "yes");
    assert_eq!(may(&["get", "pods/log", "-n", "default"]), "yes");
    for refused in [
        &["list", "secrets", "-n", "default"][..],
        &["create", "pods/exec", "-n", "default"],
        &["create", "pods", "-n", "default"],
        &["list", "pods", "-n", "kube-system"],
        &["list", "pods", "-A"],
        &["create", "serviceaccounts/token", "-n", "default"],
    ] {
        assert_eq!(may(refused), "no", "{refused:?}");
    }
    let list = |namespace: &str| may(&["--list", "-n", namespace]);
    let (own, other) = (list("default"), list("kube-system"));
    assert!(
        own.contains("configmaps") && !other.contains("configmaps"),
        "{own}\n{other}"
    );
    assert!(other.contains("/openid/v1/jwks"), "{other}");
}

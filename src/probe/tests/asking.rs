//! What one try of each kind of probe finds.

use std::time::Duration;

use super::servers::{Web, closed_port, health, no_health};
use super::{World, http, probe, shell};
use crate::model::{Action, Probe};
use crate::probe::action::{Outcome, ProbeError, run_probe};

async fn find(world: &World, action: Action) -> Result<Outcome, ProbeError> {
    run_probe(world.inner(), &world.target(), &probe(action)).await
}

/// With a limit that is over before anything answers.
async fn find_in_no_time(world: &World, action: Action) -> Outcome {
    let probe = Probe {
        timeout: Duration::from_millis(200),
        ..probe(action)
    };
    run_probe(world.inner(), &world.target(), &probe).await.unwrap()
}

#[tokio::test]
async fn answers_of_http_are_judged_by_their_status_and_redirects_followed_on_the_same_host() {
    let world = World::new().await;
    let web = Web::plain().await;
    let port = web.port;
    let failure = |text: &str| Outcome::Failure(text.to_owned());
    for (path, expected) in [
        ("/200", Outcome::Success),
        ("200", Outcome::Success),
        ("/204?a=b", Outcome::Success),
        (
            "/399",
            Outcome::Warning("Probe terminated redirects, Response body: secret".to_owned()),
        ),
        ("/400", failure("HTTP probe failed with statuscode: 400")),
        ("/503", failure("HTTP probe failed with statuscode: 503")),
        ("/absolute", Outcome::Success),
        ("/relative", Outcome::Success),
        ("/long", Outcome::Success),
        (
            "/away",
            Outcome::Warning("Probe terminated redirects, Response body: move".to_owned()),
        ),
        (
            "/nowhere",
            Outcome::Warning("Probe terminated redirects, Response body: ".to_owned()),
        ),
        (
            "/loop",
            failure(&format!(
                "Get \"http://127.0.0.1:{port}/loop\": stopped after 10 redirects"
            )),
        ),
    ] {
        assert_eq!(find(&world, http(port, path)).await.unwrap(), expected, "{path}");
    }
    let loops = web
        .heads
        .lock()
        .unwrap()
        .iter()
        .filter(|head| head.starts_with("GET /loop"))
        .count();
    assert_eq!(loops, 10);
    assert!(matches!(
        find(&world, http(port, "/half")).await,
        Err(ProbeError::Body(_))
    ));
    assert!(matches!(
        find(&world, http(port, "/rude")).await,
        Ok(Outcome::Failure(_))
    ));
}

#[tokio::test]
async fn a_server_that_is_not_there_or_does_not_answer_in_time_is_a_failure() {
    let world = World::new().await;
    let web = Web::plain().await;
    let port = closed_port().await;
    assert_eq!(
        find(&world, http(port, "/x")).await.unwrap(),
        Outcome::Failure(format!(
            "Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        ))
    );
    assert_eq!(
        find_in_no_time(&world, http(web.port, "/slow")).await,
        Outcome::Failure(format!(
            "Get \"http://127.0.0.1:{}/slow\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            web.port
        ))
    );
}

#[tokio::test]
async fn requests_have_the_headers_of_a_kubelet_and_those_of_the_probe() {
    let world = World::new().await;
    let web = Web::plain().await;
    find(&world, http(web.port, "/200")).await.unwrap();
    let head = web.heads.lock().unwrap().pop().unwrap().to_lowercase();
    for line in [
        format!("host: 127.0.0.1:{}", web.port),
        "user-agent: kube-probe/1.36".to_owned(),
        "accept: */*".to_owned(),
        "connection: close".to_owned(),
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is not in {head}");
    }
    let mut action = http(web.port, "/relative");
    if let Action::HttpGet { headers, .. } = &mut action {
        *headers = [
            ("Host", "shop.example"),
            ("X-Twice", "a"),
            ("X-Twice", "b"),
            ("Accept", ""),
            ("User-Agent", "me"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    }
    find(&world, action).await.unwrap();
    let heads: Vec<String> = web
        .heads
        .lock()
        .unwrap()
        .iter()
        .map(|head| head.to_lowercase())
        .collect();
    for head in &heads[heads.len() - 2..] {
        for line in ["host: shop.example", "x-twice: a", "x-twice: b", "user-agent: me"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is not in {head}");
        }
        assert!(!head.contains("accept:"), "{head}");
    }
}

#[tokio::test]
async fn certificates_are_not_checked_but_tls_is_spoken() {
    let world = World::new().await;
    let (tls, plain) = (Web::tls().await, Web::plain().await);
    let https = |port| Action::HttpGet {
        host: None,
        port,
        https: true,
        path: "/200".to_owned(),
        headers: Vec::new(),
    };
    assert_eq!(find(&world, https(tls.port)).await.unwrap(), Outcome::Success);
    assert_eq!(
        find(&world, https(plain.port)).await.unwrap(),
        Outcome::Failure(format!(
            "Get \"https://127.0.0.1:{}/200\": http: server gave HTTP response to HTTPS client",
            plain.port
        ))
    );
}

#[tokio::test]
async fn a_port_is_open_or_not() {
    let world = World::new().await;
    let web = Web::plain().await;
    let tcp = |host: Option<&str>, port| Action::TcpSocket {
        host: host.map(str::to_owned),
        port,
    };
    assert_eq!(find(&world, tcp(None, web.port)).await.unwrap(), Outcome::Success);
    assert_eq!(
        find(&world, tcp(Some("localhost"), web.port)).await.unwrap(),
        Outcome::Success
    );
    let port = closed_port().await;
    assert_eq!(
        find(&world, tcp(None, port)).await.unwrap(),
        Outcome::Failure(format!("dial tcp 127.0.0.1:{port}: connect: connection refused"))
    );
}

#[tokio::test]
async fn a_pod_without_an_address_is_not_judged() {
    let mut world = World::new().await;
    world.observed.sandbox = None;
    let action = Action::TcpSocket { host: None, port: 1 };
    assert!(matches!(find(&world, action.clone()).await, Err(ProbeError::NoAddress)));
    // With the host's network it is the node's.
    world.pod.host_network = true;
    assert!(matches!(find(&world, action).await, Ok(Outcome::Failure(_))));
}

#[tokio::test]
async fn health_services_serve_or_not() {
    let world = World::new().await;
    let (port, other) = (health().await, no_health().await);
    let grpc = |port, service: &str| Action::Grpc {
        port,
        service: service.to_owned(),
    };
    let failure = |text: &str| Outcome::Failure(text.to_owned());
    for (service, expected) in [
        ("", Outcome::Success),
        ("serving", Outcome::Success),
        ("down", failure("service unhealthy (responded with \"NOT_SERVING\")")),
        (
            "broken",
            failure("error: health rpc probe failed: rpc error: code = Unavailable desc = no way"),
        ),
        (
            "none",
            failure(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service",
            ),
        ),
    ] {
        assert_eq!(find(&world, grpc(port, service)).await.unwrap(), expected, "{service}");
    }
    assert_eq!(
        find_in_no_time(&world, grpc(port, "hanging")).await,
        failure("timeout: health rpc did not complete within 0s")
    );
    let closed = closed_port().await;
    for port in [other, closed] {
        assert!(matches!(
            find(&world, grpc(port, "")).await.unwrap(),
            Outcome::Failure(_)
        ));
    }
}

#[tokio::test]
async fn programs_are_judged_by_their_exit_code_and_failures_show_what_they_printed() {
    let world = World::new().await;
    assert_eq!(find(&world, shell("true")).await.unwrap(), Outcome::Success);
    assert_eq!(
        find(&world, shell("echo out; echo err >&2; exit 3")).await.unwrap(),
        Outcome::Failure("out\nerr\n".to_owned())
    );
    let Outcome::Failure(long) = find(&world, shell("yes | head -c 1000000; exit 1")).await.unwrap() else {
        panic!("it has failed");
    };
    assert_eq!(long.len(), 10 << 10);
    // What it left in the background holds its output, and is not waited for.
    assert_eq!(
        find(&world, shell("sleep 1000 & exit 0")).await.unwrap(),
        Outcome::Success
    );
    let missing = Action::Exec {
        command: vec!["/no/such/program".to_owned()],
    };
    assert!(matches!(find(&world, missing).await, Err(ProbeError::Exec(_))));
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended() {
    let world = World::new().await;
    assert_eq!(
        find_in_no_time(&world, shell("exec sleep 1000")).await,
        Outcome::Failure("command timed out: \"sh -c exec sleep 1000\" timed out after 0s".to_owned())
    );
    world
        .programs
        .alive
        .subscribe()
        .wait_for(|alive| *alive == 0)
        .await
        .unwrap();
}

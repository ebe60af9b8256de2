//! exec and attach.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::runtime::stream::TerminalSize;

fn exec(query: &str, command: &[&str]) -> String {
    let mut words = String::new();
    for word in command {
        words.push_str("&command=");
        for byte in word.bytes() {
            write!(words, "%{byte:02x}").unwrap();
        }
    }
    format!("{WEB}/exec?container=main&{query}{words}")
}

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_program_gets_its_input_and_its_end() {
    let rig = Rig::start().await;
    let path = exec(
        "stdin=true&stdout=true&stderr=true",
        &["sh", "-c", "sort; echo done >&2"],
    );
    let mut socket = rig.websocket(&path, "v5.channel.k8s.io").await;
    socket.send(0, b"b\n").await;
    // Text is taken too, and pieces of a message.
    socket
        .io
        .write_all(&masked(websocket::TEXT, false, b"\0a"))
        .await
        .unwrap();
    socket.io.write_all(&masked(9, true, b"are you there")).await.unwrap();
    socket.io.write_all(&masked(0, true, b"\n")).await.unwrap();
    socket.send(0, b"").await;
    socket.send(255, &[0]).await;
    let mut pong = None;
    let mut first = None;
    while pong.is_none() {
        let (opcode, payload) = socket.frame().await;
        if opcode == 10 {
            pong = Some(payload);
        } else {
            first.get_or_insert(payload);
        }
    }
    assert_eq!(pong.unwrap(), b"are you there");
    let ([_, stdout, stderr, status], code) = socket.all().await;
    let early = first
        .map(|f| String::from_utf8(f[1..].to_vec()).unwrap())
        .unwrap_or_default();
    assert_eq!((early + &stdout).as_str(), "a\nb\n");
    assert_eq!(
        (stderr.as_str(), json_of(&status), code),
        ("done\n", json_of(SUCCESS), 1000)
    );
    rig.stop().await;
}

#[tokio::test]
async fn each_version_tells_the_exit_code_in_its_own_way() {
    let rig = Rig::start().await;
    let path = exec(
        "stdout=true&stderr=true",
        &["sh", "-c", "echo out; echo err >&2; exit 3"],
    );
    for protocol in [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
        "",
    ] {
        let mut socket = rig.websocket(&path, protocol).await;
        let ([_, stdout, stderr, status], code) = socket.all().await;
        assert_eq!(
            (stdout.as_str(), stderr.as_str(), code),
            ("out\n", "err\n", 1000),
            "{protocol}"
        );
        if protocol.starts_with("v5") || protocol.starts_with("v4") {
            assert_eq!(
                json_of(&status)["details"]["causes"][0],
                json!({"reason": "ExitCode", "message": "3"})
            );
        } else {
            assert_eq!(
                status, "command terminated with non-zero exit code: exit status 3",
                "{protocol}"
            );
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn base64_channels_are_text_both_ways() {
    let rig = Rig::start().await;
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"] {
        let path = exec("stdin=true&stdout=true", &["head", "-c", "5"]);
        let mut socket = rig.websocket(&path, protocol).await;
        // In pieces that Base64 does not end at.
        let text = format!("0{}", STANDARD.encode("hello, world"));
        socket
            .io
            .write_all(&masked(1, false, &text.as_bytes()[..6]))
            .await
            .unwrap();
        socket
            .io
            .write_all(&masked(0, true, &text.as_bytes()[6..]))
            .await
            .unwrap();
        let mut said = Vec::new();
        loop {
            let (opcode, payload) = socket.frame().await;
            if opcode == 8 {
                break;
            }
            assert_eq!(opcode, websocket::TEXT);
            if payload[0] == b'1' {
                said.extend(STANDARD.decode(&payload[1..]).unwrap());
            }
        }
        assert_eq!(said, b"hello");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_terminal_has_its_size_from_the_beginning() {
    let rig = Rig::start().await;
    let path = exec("stdin=true&stdout=true&stderr=true&tty=true", &["cat"]);
    let mut socket = rig.websocket(&path, "v5.channel.k8s.io").await;
    socket.send(4, b"{\"Width\":99,\"Height\":33}\n").await;
    rig.local.until_alive(1).await;
    socket.send(4, b"{\"Width\":10,\"Height\":20}\n").await;
    // Its end of input, as a terminal has it.
    socket.send(0, b"x\n\x04").await;
    let ([_, stdout, stderr, _], _) = socket.all().await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("x\r\nx\r\n", ""));
    let size = |width, height| TerminalSize { width, height };
    assert_eq!(*rig.local.sizes.lock().unwrap(), [size(99, 33), size(10, 20)]);
    rig.stop().await;
}

#[tokio::test]
async fn what_cannot_be_executed_is_told_with_a_status() {
    let rig = Rig::start().await;
    let mut socket = rig
        .websocket(&exec("stdout=true", &["no-such-program"]), "v4.channel.k8s.io")
        .await;
    let ([_, _, _, status], code) = socket.all().await;
    let status = json_of(&status);
    assert_eq!(
        (status["reason"].as_str(), status["code"].as_i64(), code),
        (Some("InternalError"), Some(500), 1000)
    );
    assert_eq!(
        status["message"],
        "Internal error occurred: error executing command in container: exec: \"no-such-program\": no such file or directory"
    );
    rig.stop().await;
}

#[tokio::test]
async fn spdy_has_a_stream_for_everything() {
    let rig = Rig::start().await;
    for (method, protocol) in [
        ("POST", "v4.channel.k8s.io"),
        ("GET", "v3.channel.k8s.io"),
        ("POST", "v2.channel.k8s.io"),
        ("POST", "channel.k8s.io"),
        ("POST", "v5.channel.k8s.io"),
    ] {
        let path = exec(
            "stdin=true&stdout=true&stderr=true",
            &["sh", "-c", "cat; echo err >&2; exit 7"],
        );
        let mut spdy = rig.spdy(method, &path, protocol).await;
        for (id, name) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
            spdy.open(id, &[("streamtype", name)]).await;
        }
        spdy.send(3, false, b"in").await;
        spdy.send(3, true, b"put").await;
        spdy.socket.io.write_all(&spdy::ping(1)).await.unwrap();
        let [status, stdout, stderr] = spdy.all([1, 5, 7]).await;
        assert_eq!((stdout.as_str(), stderr.as_str()), ("input", "err\n"), "{protocol}");
        if matches!(protocol, "v5.channel.k8s.io" | "v4.channel.k8s.io") {
            assert_eq!(json_of(&status)["details"]["causes"][0]["message"], "7");
        } else {
            assert_eq!(status, "command terminated with non-zero exit code: exit status 7");
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn attaching_ends_with_success_however_the_container_ends() {
    let rig = Rig::start().await;
    let path = format!("{WEB}/attach?container=side&stdin=true&stdout=true&stderr=true");
    let mut socket = rig.websocket(&path, "v5.channel.k8s.io").await;
    socket.send(0, b"more\n").await;
    socket.send(255, &[0]).await;
    let ([_, stdout, _, status], code) = socket.all().await;
    assert_eq!((stdout.as_str(), code), ("attached to side\nmore\n", 1000));
    assert_eq!(json_of(&status), json_of(SUCCESS));
    rig.stop().await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_program_down_and_loses_nothing() {
    let rig = Rig::start().await;
    let path = exec("stdin=true&stdout=true", &["cat"]);
    let socket = rig.websocket(&path, "v5.channel.k8s.io").await;
    let piece: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (mut read, mut write) = socket.io.into_split();
    let to_send = piece.clone();
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        for _ in 0..200 {
            // One message that is larger than any buffer.
            write
                .write_all(&masked(2, true, &[&[0][..], &to_send].concat()))
                .await
                .unwrap();
            counted.fetch_add(to_send.len(), std::sync::atomic::Ordering::SeqCst);
        }
        write.write_all(&masked(2, true, &[255, 0])).await.unwrap();
        write
    });
    // Nobody reads: sending comes to a halt long before everything is sent.
    let mut before = usize::MAX;
    loop {
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        if now > 0 && now == before {
            break;
        }
        before = now;
        let _later = tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await;
    }
    assert!(before < 10_000_000, "{before} bytes are held somewhere");
    let mut all = socket.input.to_vec();
    // Up to the close frame, the server waits for ours.
    while !all.ends_with(&[0x88, 2, 3, 232]) {
        assert!(read.read_buf(&mut all).await.unwrap() > 0);
    }
    drop(sending.await.unwrap());
    let mut stdout = Vec::new();
    let mut rest = &all[..];
    while !rest.is_empty() {
        let (head, length) = match rest[1] {
            126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            short => (2, usize::from(short)),
        };
        let payload = &rest[head..head + length];
        if rest[0] == 0x82 && payload[0] == 1 {
            stdout.extend_from_slice(&payload[1..]);
        }
        rest = &rest[head + length..];
    }
    assert_eq!(stdout.len(), 200 * piece.len());
    assert!(stdout.chunks(piece.len()).all(|chunk| chunk == piece));
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_vanishes_takes_its_program_with_it() {
    let rig = Rig::start().await;
    let sleeping = exec("stdin=true&stdout=true", &["sleep", "1000"]);
    let socket = rig.websocket(&sleeping, "v5.channel.k8s.io").await;
    let mut spdy = rig.spdy("POST", &sleeping, "v4.channel.k8s.io").await;
    for (id, name) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        spdy.open(id, &[("streamtype", name)]).await;
    }
    rig.local.until_alive(2).await;
    drop(socket);
    rig.local.until_alive(1).await;
    drop(spdy);
    rig.local.until_alive(0).await;
    // One that says goodbye is answered.
    let mut polite = rig.websocket(&sleeping, "v4.channel.k8s.io").await;
    rig.local.until_alive(1).await;
    polite
        .io
        .write_all(&masked(8, true, &1000_u16.to_be_bytes()))
        .await
        .unwrap();
    let (_, code) = polite.all().await;
    assert_eq!(code, 1000);
    rig.local.until_alive(0).await;
    // One that speaks no WebSocket is told so.
    let mut rude = rig.websocket(&sleeping, "v4.channel.k8s.io").await;
    rude.io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (opcode, _first) = rude.frame().await;
    assert_eq!(opcode, websocket::BINARY);
    assert_eq!(rude.frame().await, (8, 1002_u16.to_be_bytes().to_vec()));
    rig.local.until_alive(0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_stopping_agent_ends_its_streams_and_says_so() {
    let rig = Rig::start().await;
    let mut socket = rig
        .websocket(&exec("stdout=true", &["sleep", "1000"]), "v5.channel.k8s.io")
        .await;
    rig.local.until_alive(1).await;
    rig.stop.send_replace(true);
    let ([_, _, _, status], code) = socket.all().await;
    assert_eq!(
        json_of(&status)["message"],
        "Internal error occurred: the agent is stopping"
    );
    assert_eq!(code, 1000);
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_without_data_ends_in_the_end() {
    let rig = Rig::with(Limits::default(), Duration::from_millis(100)).await;
    let mut socket = rig
        .websocket(&exec("stdout=true", &["sleep", "1000"]), "v5.channel.k8s.io")
        .await;
    let ([_, _, _, status], _) = socket.all().await;
    assert!(
        json_of(&status)["message"].as_str().unwrap().contains("idle"),
        "{status}"
    );
    rig.stop().await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_told_to_come_back() {
    let limits = Limits {
        streams: 1,
        ..Limits::default()
    };
    let rig = Rig::with(limits, FOR_EVER).await;
    let path = exec("stdout=true", &["sleep", "1000"]);
    let first = rig.websocket(&path, "v5.channel.k8s.io").await;
    rig.local.until_alive(1).await;
    let (head, _) = rig
        .ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n{WEBSOCKET}\r\n"))
        .await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    drop(first);
    rig.local.until_alive(0).await;
    rig.stop().await;
}

#[tokio::test]
async fn many_programs_run_side_by_side() {
    let rig = Rig::start().await;
    let path = exec("stdin=true&stdout=true", &["cat"]);
    let one = |at: usize| {
        let (rig, path) = (&rig, &path);
        async move {
            let mut socket = rig.websocket(path, "v5.channel.k8s.io").await;
            let text = at.to_string().repeat(1000);
            socket.send(0, text.as_bytes()).await;
            socket.send(255, &[0]).await;
            let ([_, stdout, _, status], _) = socket.all().await;
            assert_eq!((stdout, json_of(&status)), (text, json_of(SUCCESS)));
        }
    };
    futures_util::future::join_all((0..60).map(one)).await;
    rig.stop().await;
}

//! port-forward.

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

/// A port; each connection answers what it got, in capitals, and at its end with `bye`.
async fn shouting() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = connection.into_split();
                let mut buffer = vec![0; 1000];
                while let Ok(length @ 1..) = read.read(&mut buffer).await {
                    let shout = buffer[..length].to_ascii_uppercase();
                    write.write_all(&shout).await.unwrap();
                }
                let _gone = write.write_all(b"bye").await;
            });
        }
    });
    port
}

/// Data and error stream of a connection.
async fn pair(spdy: &mut Spdy, first: u32, port: u16, request: &str) {
    let port = port.to_string();
    for (id, name) in [(first, "error"), (first + 2, "data")] {
        spdy.open(id, &[("streamtype", name), ("port", &port), ("requestid", request)])
            .await;
    }
    spdy.send(first, true, b"").await;
}

#[tokio::test]
async fn each_pair_of_streams_is_a_connection() {
    let rig = Rig::start().await;
    let port = shouting().await;
    let mut spdy = rig
        .spdy("POST", &format!("{WEB}/portforward"), "portforward.k8s.io")
        .await;
    pair(&mut spdy, 1, port, "0").await;
    pair(&mut spdy, 5, port, "1").await;
    spdy.send(3, false, b"one ").await;
    spdy.send(7, false, b"two").await;
    spdy.send(7, true, b"").await;
    let [error, data] = spdy.all([5, 7]).await;
    // The first goes on, whatever became of the second.
    assert_eq!((error.as_str(), data.as_str()), ("", "TWObye"));
    spdy.send(3, true, b"more").await;
    let [error, data] = spdy.all([1, 3]).await;
    assert_eq!((error.as_str(), data.as_str()), ("", "ONE MOREbye"));
    rig.stop().await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_on_the_error_stream() {
    let rig = Rig::start().await;
    let uid = rig.store.get("Pod", "default", "web").await.unwrap().unwrap().uid;
    let mut spdy = rig
        .spdy("POST", &format!("{WEB}/portforward"), "portforward.k8s.io")
        .await;
    pair(&mut spdy, 1, 1, "0").await;
    let [error, data] = spdy.all([1, 3]).await;
    assert_eq!(
        (error, data.as_str()),
        (
            format!(
                "error forwarding port 1 to pod web, uid {uid}: failed to connect to localhost:1 inside the pod: connect: connection refused"
            ),
            ""
        )
    );
    // Nonsense is reset, and harms nobody.
    for (id, headers) in [
        (5, &[("streamtype", "data")][..]),
        (7, &[("streamtype", "data"), ("port", "70000")]),
        (9, &[("streamtype", "other"), ("port", "80")]),
        (11, &[("port", "80")]),
        (4, &[("streamtype", "data"), ("port", "80")]),
    ] {
        spdy.open(id, headers).await;
        let mut answer = spdy.next().await;
        while matches!(answer, Some(Event::Ping { .. })) {
            answer = spdy.next().await;
        }
        assert_eq!(answer, Some(Event::Reset { id }));
    }
    let port = shouting().await;
    pair(&mut spdy, 13, port, "1").await;
    spdy.send(15, true, b"still here").await;
    let [_, data] = spdy.all([13, 15]).await;
    assert_eq!(data, "STILL HEREbye");
    rig.stop().await;
}

#[tokio::test]
async fn a_reset_closes_the_connection_to_the_pod() {
    let rig = Rig::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut spdy = rig
        .spdy("POST", &format!("{WEB}/portforward"), "portforward.k8s.io")
        .await;
    pair(&mut spdy, 1, port, "0").await;
    let (mut connection, _) = listener.accept().await.unwrap();
    spdy.send(3, true, b"x").await;
    let mut got = String::new();
    connection.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "x");
    // Its half is closed; after the reset nobody reads the other half either.
    spdy.socket.io.write_all(&spdy::reset(3, 5)).await.unwrap();
    while connection.write_all(&[0; 1000]).await.is_ok() {}
    rig.stop().await;
}

#[tokio::test]
async fn spdy_goes_through_a_websocket_too() {
    let rig = Rig::start().await;
    let port = shouting().await;
    let mut socket = rig
        .websocket(&format!("{WEB}/portforward"), "SPDY/3.1+portforward.k8s.io")
        .await;
    let mut encoder = Encoder::default();
    let port = port.to_string();
    let mut bytes = Vec::new();
    for (id, name) in [(1, "error"), (3, "data")] {
        bytes.extend(encoder.open(id, false, &[("streamtype", name), ("port", &port), ("requestid", "0")]));
    }
    bytes.extend_from_slice(&spdy::data(3, false, b"hello"));
    // Cut anywhere.
    for piece in bytes.chunks(7) {
        socket
            .io
            .write_all(&masked(websocket::BINARY, true, piece))
            .await
            .unwrap();
    }
    let (mut decoder, mut inner, mut said) = (Decoder::default(), BytesMut::new(), Vec::new());
    while said != b"HELLO" {
        let (opcode, payload) = socket.frame().await;
        assert_eq!(opcode, websocket::BINARY);
        inner.extend_from_slice(&payload);
        while let Some(event) = decoder.decode(&mut inner).unwrap() {
            if let Event::Data { id: 3, bytes, .. } = event {
                said.extend_from_slice(&bytes);
            }
        }
    }
    // The agent's end is the client's.
    rig.stop.send_replace(true);
    while socket.frame().await.0 != 8 {}
    socket.io.write_all(&masked(8, true, &[3, 232])).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn channels_have_two_numbers_for_each_port_of_the_query() {
    let rig = Rig::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, mut words) = mpsc::channel(1);
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 5];
        connection.read_exact(&mut buffer).await.unwrap();
        heard.send(buffer).await.unwrap();
        connection.write_all(b"answer").await.unwrap();
    });
    for protocol in ["v4.channel.k8s.io", ""] {
        let path = format!("{WEB}/portforward?ports={port}&ports=1");
        let mut socket = rig.websocket(&path, protocol).await;
        if protocol.is_empty() {
            // Nobody listens any more: both ports fail, and the session ends.
            let (said, code) = socket.all().await;
            assert!(said[1].contains("refused") && said[3].contains("refused"), "{said:?}");
            assert_eq!(code, 1000);
            continue;
        }
        socket.send(0, b"hello").await;
        assert_eq!(&words.recv().await.unwrap(), b"hello");
        let mut channels: [Vec<u8>; 4] = Default::default();
        let code = loop {
            let (opcode, payload) = socket.frame().await;
            if opcode == 8 {
                break payload;
            }
            channels[usize::from(payload[0])].extend_from_slice(&payload[1..]);
        };
        assert_eq!(code, 1000_u16.to_be_bytes());
        let [low, high] = port.to_le_bytes();
        assert_eq!(channels[0], [&[low, high][..], b"answer"].concat());
        assert_eq!(channels[1], [low, high]);
        assert_eq!(channels[2], [1, 0]);
        assert!(channels[3].starts_with(&[1, 0]) && channels[3].len() > 2);
    }
    rig.stop().await;
}

#[tokio::test]
async fn halves_without_end_are_refused() {
    let rig = Rig::start().await;
    let mut spdy = rig
        .spdy("POST", &format!("{WEB}/portforward"), "portforward.k8s.io")
        .await;
    for at in 0..65 {
        let request = at.to_string();
        spdy.open(
            2 * at + 1,
            &[("streamtype", "data"), ("port", "80"), ("requestid", &request)],
        )
        .await;
    }
    let mut answer = spdy.next().await;
    while matches!(answer, Some(Event::Ping { .. })) {
        answer = spdy.next().await;
    }
    assert_eq!(answer, Some(Event::Reset { id: 129 }));
    let port = shouting().await;
    // One that completes a pair is still welcome.
    drop(spdy);
    let mut spdy = rig
        .spdy("POST", &format!("{WEB}/portforward"), "portforward.k8s.io")
        .await;
    pair(&mut spdy, 1, port, "0").await;
    spdy.send(3, true, b"").await;
    assert_eq!(spdy.all([1, 3]).await[1], "bye");
    rig.stop().await;
}

//! A watch over a WebSocket: each event one text message. For clients that live in browsers' rules (Headlamp, JavaScript).
//!
//! What the client says is read, since that is how its end is noticed, and otherwise left alone, as Kubernetes does
//! (`apiserver/pkg/endpoints/handlers/watch.go`, `HandleWS`).

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, header};
use axum::response::Response;

use super::Watcher;
use crate::api::error::ApiError;

/// How a request that may be a WebSocket's comes to its handler.
pub(crate) type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Bytes of a message from the client, which has nothing to say.
const MESSAGE_LIMIT: usize = 4096;

/// Offered beside the real protocol by clients that cannot set headers; never repeated.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether this is a WebSocket's handshake.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::UPGRADE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|name| name.trim().eq_ignore_ascii_case("websocket"))
        })
}

/// Answer the handshake, and go on with the watch once it is done.
pub(super) fn accept(upgrade: Upgrade, headers: &HeaderMap, watcher: Watcher) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    // Whatever a client offers means the same here, so that it gets the first one.
    let offered = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty() && !name.starts_with(BEARER));
    Ok(upgrade
        .protocols(offered)
        .max_message_size(MESSAGE_LIMIT)
        .max_frame_size(MESSAGE_LIMIT)
        .write_buffer_size(0)
        .on_upgrade(|socket| serve(socket, watcher)))
}

async fn serve(mut socket: WebSocket, mut watcher: Watcher) {
    loop {
        // Cancel-safe, both: an event leaves the watcher only as its answer, and so does a message the socket.
        let line = tokio::select! {
            line = watcher.next() => line,
            said = socket.recv() => match said {
                // Pings are answered by the socket itself.
                Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
        };
        let Some(line) = line else { break };
        // Lines are JSON, which is UTF-8.
        let Ok(text) = Utf8Bytes::try_from(line) else { break };
        if socket.send(Message::Text(text)).await.is_err() {
            return;
        }
    }
    let close = CloseFrame {
        code: close_code::NORMAL,
        reason: Utf8Bytes::from_static(""),
    };
    // Gone already: fine.
    drop(socket.send(Message::Close(Some(close))).await);
}

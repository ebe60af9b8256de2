//! Discovery and the documents, as they are sent.

use std::io::Read;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::Server;

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                  application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

async fn url_of(server: &Server, name: &str) -> String {
    let index = server.get("/openapi/v3").await.json();
    index["paths"][name]["serverRelativeURL"].as_str().unwrap().to_owned()
}

fn request(path: &str, name: header::HeaderName, value: &str) -> Request<Body> {
    Request::get(path).header(name, value).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_client_that_has_the_document_is_told_so() {
    let server = Server::start().await;
    for (path, accept) in [
        ("/api", V2),
        ("/apis", V2),
        ("/openapi/v2", "application/json"),
        ("/openapi.json", "application/json"),
    ] {
        let tag = server.get_as(path, accept).await.headers[header::ETAG]
            .to_str()
            .unwrap()
            .to_owned();
        let mut again = request(path, header::IF_NONE_MATCH, &tag);
        again.headers_mut().insert(header::ACCEPT, accept.parse().unwrap());
        let again = server.send(again).await;
        assert_eq!(
            (again.code, again.text.as_str()),
            (StatusCode::NOT_MODIFIED, ""),
            "{path}"
        );
        assert_eq!(again.headers[header::ETAG], tag);
        let mut other = request(path, header::IF_NONE_MATCH, "\"other\"");
        other.headers_mut().insert(header::ACCEPT, accept.parse().unwrap());
        assert_eq!(server.send(other).await.code, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_document_is_kept_by_its_hash_for_a_year() {
    let server = Server::start().await;
    let url = url_of(&server, "api/v1").await;
    let hash = url.split("?hash=").nth(1).unwrap().to_owned();
    let part = server.get(&url).await;
    assert_eq!(part.headers[header::ETAG], format!("\"{hash}\""));
    assert_eq!(part.headers[header::EXPIRES], "Fri, 01 Jan 2027 00:00:00 GMT");
    assert!(part.headers[header::VARY].to_str().unwrap().starts_with("Accept"));
    // Another hash is of another document: podd was changed meanwhile.
    let old = server.get("/openapi/v3/api/v1?hash=OLD").await;
    assert_eq!(old.code, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(old.headers[header::LOCATION], url);
}

#[tokio::test]
async fn documents_are_compressed_for_those_who_ask() {
    let server = Server::start().await;
    let url = url_of(&server, "api/v1").await;
    let plain = server.get(&url).await.text;
    let response = server
        .router
        .clone()
        .oneshot(request(&url, header::ACCEPT_ENCODING, "deflate, gzip;q=0.5"))
        .await
        .unwrap();
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.len() * 3 < plain.len());
    let mut inflated = String::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_string(&mut inflated)
        .unwrap();
    assert_eq!(inflated, plain);
    let refused = server.send(request(&url, header::ACCEPT_ENCODING, "gzip;q=0")).await;
    assert!(!refused.headers.contains_key(header::CONTENT_ENCODING));
    assert_eq!(refused.text, plain);
}

#[tokio::test]
async fn version_two_comes_in_the_form_that_is_asked_for() {
    let server = Server::start().await;
    let json = server.get_as("/openapi/v2", "application/json").await.json();
    assert_eq!(json["swagger"], "2.0");
    assert!(json["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let kubectl = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let response = server
        .router
        .clone()
        .oneshot(request("/openapi/v2", header::ACCEPT, kubectl))
        .await
        .unwrap();
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.starts_with(b"\x0a\x032.0"));
    let refused = server.get_as("/openapi/v2", "text/html").await;
    assert_eq!(refused.code, StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn a_version_that_is_not_served_names_the_one_that_is() {
    let server = Server::start().await;
    let answer = server.get("/api/v1beta3/namespaces/default/pods").await;
    assert_eq!(answer.code, StatusCode::NOT_FOUND);
    assert!(
        answer.message().ends_with("v1beta3 is not served, v1 is"),
        "{}",
        answer.text
    );
    let mut pod: Value = super::pod("x", &serde_json::json!({}));
    pod["apiVersion"] = "v1beta3".into();
    let answer = server.post(super::PODS, &pod).await;
    assert_eq!(answer.code, StatusCode::BAD_REQUEST);
    assert!(
        answer.message().contains("expected API version (v1)"),
        "{}",
        answer.text
    );
}

//! A pod's life through the client that progenitor makes of podd's document.
//!
//! Arguments: the agent's socket, the image of the pod.

use std::env;
use std::error::Error;
use std::time::Duration;

use progenitor_client::{ClientHooks, ClientInfo, OperationInfo};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

#[expect(dead_code, reason = "the story does not need all of it")]
mod sdk {
    include!(concat!(env!("OUT_DIR"), "/podd.rs"));
}
use sdk::types::{IoK8sApiCoreV1Pod as Pod, IoK8sApimachineryPkgApisMetaV1DeleteOptions as DeleteOptions};

const NAME: &str = "made-by-rust";

/// progenitor knows JSON alone; a patch has to say which kind of patch it is.
impl ClientHooks<()> for sdk::Client {
    async fn pre<E>(
        &self,
        request: &mut reqwest::Request,
        _operation: &OperationInfo,
    ) -> Result<(), progenitor_client::Error<E>> {
        if request.method() == reqwest::Method::PATCH {
            let merge = HeaderValue::from_static("application/merge-patch+json");
            request.headers_mut().insert(CONTENT_TYPE, merge);
        }
        Ok(())
    }
}

/// Watches what becomes of a pod until an event is as asked. progenitor has no words for streams of JSON.
async fn watch(client: &sdk::Client, pod: &Pod, is: impl Fn(&str, &Pod) -> bool) -> Result<(), Box<dyn Error>> {
    let version = pod.metadata.as_ref().and_then(|m| m.resource_version.as_deref());
    let url = format!(
        "{}/api/v1/namespaces/default/pods?watch=true&fieldSelector=metadata.name%3D{NAME}&resourceVersion={}",
        client.baseurl(),
        version.ok_or("the pod has no resource version")?
    );
    let mut events = client.client().get(url).send().await?.error_for_status()?;
    let mut text = Vec::new();
    while let Some(piece) = events.chunk().await? {
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let pod: Pod = serde_json::from_value(event["object"].clone())?;
            if is(event["type"].as_str().unwrap_or_default(), &pod) {
                return Ok(());
            }
        }
    }
    Err("the watch ended".into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let http = reqwest::Client::builder()
        .unix_socket(arguments[1].as_str())
        .timeout(Duration::from_secs(60))
        .build()?;
    let client = sdk::Client::new_with_client("http://localhost", http);

    let wanted: Pod = serde_json::from_value(json!({
        "metadata": { "name": NAME, "labels": { "made": "yes" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main",
                "image": arguments[2],
                "command": ["/bin/sh", "-c", "echo hello from rust; exec sleep 1000"],
            }],
        },
    }))?;
    let strict = Some("Strict");
    let made = client
        .create_core_v1_namespaced_pod("default", None, None, strict, &wanted)
        .await?;
    assert_eq!(made.status(), 201);

    watch(&client, &made, |_, pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Running")
    })
    .await?;

    let mut log = client
        .read_core_v1_namespaced_pod_log(
            "default",
            NAME,
            None,
            Some(true),
            Some(15),
            None,
            None,
            None,
            None,
            None,
        )
        .await?
        .into_inner()
        .into_inner();
    let mut text = Vec::new();
    while let Some(piece) = futures_util::StreamExt::next(&mut log).await {
        text.extend_from_slice(&piece?);
    }
    assert_eq!(String::from_utf8(text)?, "hello from rust");

    let label = serde_json::from_value(json!({ "metadata": { "labels": { "patched": "yes" } } }))?;
    client
        .patch_core_v1_namespaced_pod("default", NAME, None, None, None, None, &label)
        .await?;
    let listed = client
        .list_core_v1_namespaced_pod(
            "default",
            None,
            None,
            None,
            Some("patched=yes"),
            None,
            None,
            None,
            None,
            None,
            None,
        )
        .await?;
    assert_eq!(listed.items.len(), 1);

    let deleted = client
        .delete_core_v1_namespaced_pod("default", NAME, None, None, None, &DeleteOptions::default())
        .await?;
    watch(&client, &deleted, |kind, _| kind == "DELETED").await?;
    let gone = client.read_core_v1_namespaced_pod("default", NAME).await;
    assert_eq!(
        gone.err().and_then(|error| error.status()).map(|code| code.as_u16()),
        Some(404)
    );
    println!("done");
    Ok(())
}

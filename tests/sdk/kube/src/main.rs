//! A pod's life through kube-rs, the client that Rust programs use.
//!
//! Arguments: the administrator's kubeconfig, the image of the pod.

use std::env;
use std::error::Error;
use std::time::Duration;

use futures_util::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::conditions::{is_deleted, is_pod_running};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NAME: &str = "led-by-kube-rs";
/// So long may any step take.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let kubeconfig = Kubeconfig::read_from(&arguments[1])?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let pods: Api<Pod> = Api::default_namespaced(Client::try_from(config)?);
    tokio::time::timeout(PATIENCE, story(&pods, &arguments[2])).await??;
    println!("done");
    Ok(())
}

async fn story(pods: &Api<Pod>, image: &str) -> Result<(), Box<dyn Error>> {
    let wanted: Pod = serde_json::from_value(json!({
        "metadata": { "name": NAME, "labels": { "made": "yes" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main",
                "image": image,
                "command": ["/bin/sh", "-c", "echo hello from kube-rs; while true; do echo pong | nc -l -p 8080; done"],
            }],
        },
    }))?;
    let made = pods.create(&PostParams::default(), &wanted).await?;
    let uid = made.uid().ok_or("the pod has no uid")?;
    await_condition(pods.clone(), NAME, is_pod_running()).await?;

    let log = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream(NAME, &log).await?.lines();
    assert_eq!(lines.try_next().await?.as_deref(), Some("hello from kube-rs"));

    exec(pods).await?;
    forward(pods).await?;

    let label = json!({ "metadata": { "labels": { "patched": "yes" } } });
    let patched = pods.patch(NAME, &PatchParams::default(), &Patch::Merge(&label)).await?;
    assert_eq!(patched.labels()["patched"], "yes");
    let label = json!({ "metadata": { "labels": { "made": null } } });
    pods.patch(NAME, &PatchParams::default(), &Patch::Strategic(&label)).await?;
    let listed = pods.list(&ListParams::default().labels("patched=yes,!made")).await?;
    assert_eq!(listed.items.len(), 1);
    let seen = watcher(pods.clone(), watcher::Config::default().labels("patched=yes"))
        .default_backoff()
        .applied_objects()
        .boxed()
        .try_next()
        .await?;
    assert_eq!(seen.map(|pod| pod.name_any()).as_deref(), Some(NAME));

    let deleted = pods.delete(NAME, &DeleteParams::default()).await?;
    assert!(deleted.is_left(), "the pod ends in its own time");
    await_condition(pods.clone(), NAME, is_deleted(&uid)).await?;
    assert!(pods.get_opt(NAME).await?.is_none());
    Ok(())
}

/// A program with its input, its outputs and its end.
async fn exec(pods: &Api<Pod>) -> Result<(), Box<dyn Error>> {
    let streams = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let script = "read word; echo \"$word out\"; echo \"$word err\" >&2; exit 3";
    let mut process = pods.exec(NAME, ["sh", "-c", script], &streams).await?;
    let mut stdin = process.stdin().ok_or("no stdin")?;
    stdin.write_all(b"to\n").await?;
    let (mut stdout, mut stderr) = (process.stdout().ok_or("no stdout")?, process.stderr().ok_or("no stderr")?);
    let status = process.take_status().ok_or("no status")?;
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).await?;
    stderr.read_to_string(&mut err).await?;
    assert_eq!((out.as_str(), err.as_str()), ("to out\n", "to err\n"));
    let status = status.await.ok_or("the program's end is not told")?;
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    assert_eq!(causes[0].message.as_deref(), Some("3"));
    Ok(process.join().await?)
}

async fn forward(pods: &Api<Pod>) -> Result<(), Box<dyn Error>> {
    let mut forwarder = pods.portforward(NAME, &[8080]).await?;
    let mut port = forwarder.take_stream(8080).ok_or("no stream")?;
    let mut answer = String::new();
    port.read_to_string(&mut answer).await?;
    assert_eq!(answer, "pong\n");
    drop(port);
    forwarder.abort();
    Ok(())
}

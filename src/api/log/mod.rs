//! `/log`: what a container wrote, as `kubectl logs` wants it.
//!
//! Goes in: a pod's status (which instance is meant) and its CRI log files. Comes out: text, streamed; with `follow` until
//! that instance has ended and everything it wrote was sent.

mod cri;
mod file;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Api;
use super::answer::response;
use super::error::ApiError;
use super::guard::stopped;
use super::kinds::pod::POD;
use super::params::{Head, Params};
use super::read;
use crate::admit::{Fault, FaultReason};
use crate::linux::inotify::Watch;
use crate::model::{Timestamp, Uid};
use crate::store::{Change, ChangeType};
use file::{LogDir, Reader};

/// `corev1.PodLogOptions`.
#[derive(Debug, Default, PartialEq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    since: Option<Timestamp>,
    tail: Option<u64>,
    limit: Option<u64>,
    /// `None`: both.
    stream: Option<cri::Stream>,
}

impl Options {
    fn parse(params: &Params, pod: &str, now: Timestamp) -> Result<Self, ApiError> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, detail: String| {
            faults.push(Fault {
                field: field.to_owned(),
                reason: FaultReason::Invalid,
                detail,
            });
        };
        let mut positive = |name: &str, least: i64| {
            params.number(name).map(|value| {
                value.and_then(|v| {
                    if v < least {
                        let bound = if least == 0 {
                            "must be greater than or equal to 0"
                        } else {
                            "must be greater than 0"
                        };
                        fault(name, format!("Invalid value: {v}: {bound}"));
                    }
                    u64::try_from(v).ok()
                })
            })
        };
        let tail = positive("tailLines", 0)?;
        let limit = positive("limitBytes", 1)?;
        let seconds = positive("sinceSeconds", 1)?;
        let time = params
            .text("sinceTime")
            .map(|text| {
                text.parse::<Timestamp>().map_err(|_| {
                    ApiError::bad_request(format!("invalid value for the parameter sinceTime: \"{text}\""))
                })
            })
            .transpose()?;
        if seconds.is_some() && time.is_some() {
            faults.push(Fault {
                field: String::new(),
                reason: FaultReason::Forbidden,
                detail: "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned(),
            });
        }
        let stream = match params.text("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some(cri::Stream::Stdout),
            Some("Stderr") => Some(cri::Stream::Stderr),
            Some(other) => {
                faults.push(Fault {
                    field: "stream".to_owned(),
                    reason: FaultReason::NotSupported,
                    detail: format!(
                        "Unsupported value: \"{other}\": supported values: \"All\", \"Stderr\", \"Stdout\""
                    ),
                });
                None
            }
        };
        if stream.is_some() && tail.is_some() {
            faults.push(Fault {
                field: String::new(),
                reason: FaultReason::Forbidden,
                detail: "Forbidden: `tailLines` and specific `stream` are mutually exclusive for now".to_owned(),
            });
        }
        if !faults.is_empty() {
            return Err(ApiError::Invalid {
                group: "",
                kind: "PodLogOptions",
                name: pod.to_owned(),
                faults,
            });
        }
        let ago = seconds.map(|s| {
            let seconds = i64::try_from(s).unwrap_or(i64::MAX);
            now.checked_sub(jiff::SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MIN)
        });
        Ok(Self {
            follow: params.flag("follow").unwrap_or(false),
            previous: params.flag("previous").unwrap_or(false),
            timestamps: params.flag("timestamps").unwrap_or(false),
            since: time.or(ago),
            tail,
            limit,
            stream,
        })
    }
}

/// The container that is meant (`pkg/registry/core/pod/strategy.go`, `LogLocation`).
pub(super) fn choose_container(pod: &Pod, name: &str, asked: Option<&str>) -> Result<String, ApiError> {
    let spec = pod.spec.as_ref();
    let main: Vec<&str> = spec
        .into_iter()
        .flat_map(|s| &s.containers)
        .map(|c| c.name.as_str())
        .collect();
    let init: Vec<&str> = spec
        .into_iter()
        .flat_map(|s| s.init_containers.iter().flatten())
        .map(|c| c.name.as_str())
        .collect();
    let is_ephemeral = |name: &str| {
        let mut ephemeral = spec.into_iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
        ephemeral.any(|c| c.name == name)
    };
    match asked {
        Some(asked) if main.contains(&asked) || init.contains(&asked) || is_ephemeral(asked) => Ok(asked.to_owned()),
        Some(asked) => Err(ApiError::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        ))),
        None => match main.as_slice() {
            [one] => Ok((*one).to_owned()),
            several => {
                let mut message = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    several.join(" ")
                );
                if !init.is_empty() {
                    message = format!("{message} or one of the init containers: [{}]", init.join(" "));
                }
                Err(ApiError::bad_request(message))
            }
        },
    }
}

pub(super) fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let [regular, init, ephemeral] = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let mut all = [regular, init, ephemeral].into_iter().flatten().flatten();
    all.find(|c| c.name == container)
}

/// The id of the instance whose log is meant, without its scheme (`pkg/kubelet/kubelet_pods.go`,
/// `validateContainerLogStatus`), or why it has none.
fn choose_instance<'a>(
    pod: &'a Pod,
    name: &str,
    container: &str,
    previous: bool,
) -> Result<&'a ContainerStatus, String> {
    let Some(status) = status_of(pod, container) else {
        return Err(format!("container \"{container}\" in pod \"{name}\" is not available"));
    };
    let state = status.state.as_ref();
    let has_last = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    if previous {
        return if has_last {
            Ok(status)
        } else {
            Err(format!(
                "previous terminated container \"{container}\" in pod \"{name}\" not found"
            ))
        };
    }
    let begun = state.is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    if begun || has_last {
        return Ok(status);
    }
    let waiting = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
    let what = match waiting {
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(reason) => reason,
        None => {
            return Err(format!(
                "container \"{container}\" in pod \"{name}\" is waiting to start - no logs yet"
            ));
        }
    };
    Err(format!(
        "container \"{container}\" in pod \"{name}\" is waiting to start: {what}"
    ))
}

/// Which attempt is meant: the one that has the id the status names. (The restart count is that of the newest attempt,
/// whether that one runs or is the last that ended.)
fn attempt_of(uid: &str, status: &ContainerStatus, previous: bool) -> u32 {
    let newest = u32::try_from(status.restart_count).unwrap_or(0);
    let ended = |s: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        s.as_ref()
            .and_then(|s| s.terminated.as_ref())
            .and_then(|t| t.container_id.clone())
    };
    let begun = status
        .state
        .as_ref()
        .is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    let id = if previous || !begun {
        ended(&status.last_state)
    } else {
        ended(&status.state).or_else(|| status.container_id.clone())
    };
    let fallback = if previous && begun {
        newest.saturating_sub(1)
    } else {
        newest
    };
    let Some(id) = id else { return fallback };
    let hex = id.rsplit('/').next().unwrap_or("");
    let uid = Uid(uid.to_owned());
    (newest.saturating_sub(8)..=newest.saturating_add(1))
        .rev()
        .find(|attempt| uid.container_id(&status.name, *attempt) == hex)
        .unwrap_or(fallback)
}

/// Whether this attempt may still write.
fn is_running(object: &Value, container: &str, attempt: u32) -> bool {
    let Ok(pod) = Pod::deserialize(object) else {
        return false;
    };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let Some(status) = status_of(&pod, container) else {
        return false;
    };
    status.state.as_ref().is_some_and(|s| s.running.is_some()) && attempt_of(&uid, status, false) == attempt
}

pub(crate) async fn serve(State(state): State<Api>, head: Head) -> Result<Response, ApiError> {
    let name = head.name()?.to_owned();
    let options = Options::parse(&head.params, &name, state.now())?;
    // Subscribed before the status is read, so that its next change is not missed.
    let changes = state.store.subscribe();
    let object = read::stored(&state, &POD, head.namespace(), &name).await?;
    let pod =
        Pod::deserialize(object.json.as_ref()).map_err(|e| ApiError::internal("a stored pod cannot be read", e))?;
    let container = choose_container(&pod, &name, head.params.text("container"))?;
    let status = choose_instance(&pod, &name, &container, options.previous).map_err(ApiError::bad_request)?;
    let attempt = attempt_of(object.uid.as_str(), status, options.previous);
    let directory = format!("{}_{}_{}", object.namespace, object.name, object.uid);
    let permit = state.stream_permit()?;
    let opened = open(&state, directory, container.clone(), attempt, &options).await;
    let reader = match opened {
        Ok(reader) => Some(reader),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(ApiError::internal("the log cannot be read", error)),
    };
    let Some(reader) = reader else {
        return Ok(response(StatusCode::OK, "text/plain", Body::empty()));
    };
    let following = options.follow && is_running(&object.json, &container, attempt);
    let watch = if following {
        let watch = state.inotify.watch(reader.directory().as_fd());
        Some(watch.map_err(|e| ApiError::internal("the log cannot be watched", e))?)
    } else {
        None
    };
    let follower = Follower {
        state,
        reader: Some(reader),
        printer: Some(cri::Printer::new(options.since, options.timestamps, options.limit).only(options.stream)),
        instance: Instance {
            uid: object.uid.0.clone(),
            namespace: object.namespace,
            name: object.name,
            container,
            attempt,
        },
        watch,
        changes,
        stopping: head.stopping,
        _permit: permit,
    };
    let stream = futures_util::stream::unfold(follower, |mut follower| async move {
        let bytes = follower.next().await?;
        Some((Ok::<_, Infallible>(bytes), follower))
    });
    Ok(response(StatusCode::OK, "text/plain", Body::from_stream(stream)))
}

async fn open(state: &Api, pod: String, container: String, attempt: u32, options: &Options) -> io::Result<Reader> {
    let (log_dir, tail, since) = (Arc::clone(&state.log_dir), options.tail, options.since);
    blocking(move || {
        let directory = LogDir::open(&log_dir, &pod, &container, attempt)?;
        Reader::begin(directory, tail, since)
    })
    .await
}

/// Files are read where blocking harms nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Whose log it is.
#[derive(Debug)]
struct Instance {
    uid: String,
    namespace: Arc<str>,
    name: Arc<str>,
    container: String,
    attempt: u32,
}

struct Follower {
    state: Api,
    /// Both are lent to a blocking thread while it reads; gone for good once reading failed.
    reader: Option<Reader>,
    printer: Option<cri::Printer>,
    instance: Instance,
    /// While the instance runs and is followed.
    watch: Option<Watch>,
    changes: Receiver<Arc<Change>>,
    stopping: Option<watch::Receiver<bool>>,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Armed before reading: what is written after the last look wakes us.
            let armed = self.watch.as_ref().map(Watch::armed);
            let bytes = self.read().await?;
            if !bytes.is_empty() {
                return Some(bytes);
            }
            let armed = armed?;
            // Cancel-safe: an armed wake-up and a change are only hints, and the next round looks anew.
            let ended = tokio::select! {
                () = armed => false,
                () = stopped(&mut self.stopping) => return None,
                ended = has_ended(&mut self.changes, &self.state, &self.instance) => ended,
            };
            if ended {
                // Whatever it wrote is in the files by now: read on to their end, then stop.
                self.watch = None;
            }
        }
    }

    /// Read until there is something to send or nothing left. `None`: nothing will come any more.
    async fn read(&mut self) -> Option<Bytes> {
        let (mut reader, mut printer) = (self.reader.take()?, self.printer.take()?);
        let read = blocking(move || {
            let mut out = Vec::new();
            while !printer.is_done() && out.len() < file::CHUNK && reader.read(&mut printer, &mut out)? {}
            Ok((reader, printer, out))
        });
        match read.await {
            Ok((reader, printer, out)) => {
                if !printer.is_done() {
                    (self.reader, self.printer) = (Some(reader), Some(printer));
                }
                Some(Bytes::from(out)).filter(|b| !b.is_empty() || self.reader.is_some())
            }
            Err(error) => {
                tracing::warn!(pod.name = %self.instance.name, container = %self.instance.container, %error, "a log cannot be read on");
                None
            }
        }
    }
}

/// Wait for the next change that may have ended the instance; true when it has.
async fn has_ended(changes: &mut Receiver<Arc<Change>>, state: &Api, instance: &Instance) -> bool {
    loop {
        let json = match changes.recv().await {
            Ok(change) if change.object.uid.as_str() == instance.uid => {
                if change.change_type == ChangeType::Deleted {
                    return true;
                }
                Arc::clone(&change.object.json)
            }
            Ok(_) => continue,
            Err(RecvError::Closed) => return true,
            Err(RecvError::Lagged(_)) => match state.store.get(POD.kind, &instance.namespace, &instance.name).await {
                Ok(Some(object)) if object.uid.as_str() == instance.uid => object.json,
                Ok(_) => return true,
                Err(error) => {
                    tracing::warn!(%error, "a pod whose log is followed cannot be read");
                    return true;
                }
            },
        };
        if !is_running(&json, &instance.container, instance.attempt) {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: &Value) -> Pod {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": {"containerStatuses": [status]},
        });
        Pod::deserialize(&object).unwrap()
    }

    fn container(state: &Value, last: &Value, restarts: u32) -> Value {
        json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": state, "lastState": last})
    }

    fn ended(attempt: u32) -> Value {
        json!({"terminated": {"exitCode": 1, "containerID": format!("podd://{}", Uid("u".to_owned()).container_id("a", attempt))}})
    }

    #[test]
    fn a_container_has_to_be_named_where_there_are_several() {
        let several = pod(&container(&json!({}), &json!({}), 0));
        assert_eq!(
            choose_container(&several, "p", None).unwrap_err().to_string(),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(
            choose_container(&several, "p", Some("x")).unwrap_err().to_string(),
            "container x is not valid for pod p"
        );
        assert_eq!(choose_container(&several, "p", Some("i")).unwrap(), "i");
    }

    #[test]
    fn what_has_not_begun_has_no_log() {
        let waiting = |reason: &str| pod(&container(&json!({"waiting": {"reason": reason}}), &json!({}), 0));
        let said = |pod: &Pod, previous| choose_instance(pod, "p", "a", previous).unwrap_err();
        assert_eq!(
            said(&waiting("ContainerCreating"), false),
            "container \"a\" in pod \"p\" is waiting to start: ContainerCreating"
        );
        assert_eq!(
            said(&waiting("ImagePullBackOff"), false),
            "container \"a\" in pod \"p\" is waiting to start: trying and failing to pull image"
        );
        assert_eq!(
            said(&waiting("ContainerCreating"), true),
            "previous terminated container \"a\" in pod \"p\" not found"
        );
        assert_eq!(
            choose_instance(&waiting("x"), "p", "b", false).unwrap_err(),
            "container \"b\" in pod \"p\" is not available"
        );
    }

    #[test]
    fn the_instance_is_the_one_whose_id_the_status_names() {
        let running = json!({"running": {}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let attempt = |state: &Value, last: &Value, restarts, previous| {
            let pod = pod(&container(state, last, restarts));
            let status = choose_instance(&pod, "p", "a", previous).unwrap();
            attempt_of("u", status, previous)
        };
        assert_eq!(attempt(&running, &json!({}), 0, false), 0);
        assert_eq!(attempt(&running, &ended(2), 3, false), 3);
        assert_eq!(attempt(&running, &ended(2), 3, true), 2);
        assert_eq!(attempt(&waiting, &ended(3), 3, false), 3);
        assert_eq!(attempt(&waiting, &ended(3), 3, true), 3);
        assert_eq!(attempt(&ended(1), &ended(0), 1, false), 1);
        assert_eq!(attempt(&ended(1), &ended(0), 1, true), 0);
    }

    #[test]
    fn an_instance_runs_until_its_own_status_says_otherwise() {
        let id = |attempt| format!("podd://{}", Uid("u".to_owned()).container_id("a", attempt));
        let object = |attempt: u32, state: &Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"uid": "u"}, "status": {"containerStatuses": [{
                "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": attempt, "state": state, "containerID": id(attempt)}]}})
        };
        assert!(is_running(&object(0, &json!({"running": {}})), "a", 0));
        assert!(!is_running(&object(1, &json!({"running": {}})), "a", 0));
        assert!(!is_running(
            &object(0, &json!({"waiting": {"reason": "CrashLoopBackOff"}})),
            "a",
            0
        ));
        assert!(!is_running(&json!({}), "a", 0));
    }
}

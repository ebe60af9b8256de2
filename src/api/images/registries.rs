//! Images to and from registries: answers that tell how far the work is.
//!
//! Goes in: `POST` of [`PULL`], [`PUSH`] or [`REPAIR`], with a [`Login`] as the body. Comes out: a line of JSON for each
//! [`Step`], the last of them what came of it. The answer begins before that is known, so its code is always 200.
//!
//! **Invariant:** no credential is logged, kept or answered. The work goes on to its end when the client is gone.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{Image, ImportQuery, NameQuery, Status, chain};
use crate::image::registry::{Credentials, DockerConfig};
use crate::image::{ImageStore, Progress, PushProgress, RepairError};
use crate::store::ImageRow;

/// `POST ?name=REF`.
pub const PULL: &str = "/podd/v1/images/pull";
/// `POST ?name=REF&to=NAME`; without `to` the image is pushed under its own name.
pub const PUSH: &str = "/podd/v1/images/push";
/// `POST ?name=REF`, or without a name for every image that is damaged.
pub const REPAIR: &str = "/podd/v1/images/repair";

/// A layer is told of at most so often, but for its beginning and its end.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What a registry is to be shown, before what the node has of its own.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Login {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The text of a docker config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

fn credentials(login: Login) -> Result<Credentials, Status> {
    let Login {
        username,
        password,
        config,
    } = login;
    let refused = |message: &str| Status {
        code: StatusCode::BAD_REQUEST,
        reason: "BadRequest",
        message: message.to_owned(),
    };
    let mut credentials = match (username, password) {
        (Some(username), Some(password)) => Credentials::password(&username, &password),
        (None, None) => Credentials::default(),
        (Some(_), None) | (None, Some(_)) => return Err(refused("a username and a password go together")),
    };
    if let Some(config) = config {
        let config = DockerConfig::parse(config.as_bytes(), "the given docker config");
        let config = config.map_err(|error| refused(&chain(&error)))?;
        credentials = credentials.then(Credentials::of_configs(vec![config]));
    }
    Ok(credentials)
}

/// How far the work is, or what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    Resolving,
    Packing,
    /// Bytes of a layer that were carried over.
    Layer {
        digest: String,
        done: u64,
        total: u64,
    },
    Unpacking {
        digest: String,
    },
    /// The last word of a pull.
    Pulled(Image),
    /// The last word of a push: the image's digest there.
    Pushed {
        digest: String,
    },
    /// The word of one image of a repair: `error` says why it is damaged still.
    Repaired {
        image: Image,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The last word of what failed.
    Failed {
        message: String,
    },
}

#[derive(Deserialize)]
pub(super) struct PushQuery {
    name: String,
    to: Option<String>,
}

/// Steps on their way to a client, few enough of each layer.
struct Teller {
    sender: mpsc::UnboundedSender<Step>,
    told: std::sync::Mutex<HashMap<String, Instant>>,
}

impl Teller {
    fn new() -> (Self, mpsc::UnboundedReceiver<Step>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let told = std::sync::Mutex::default();
        (Self { sender, told }, receiver)
    }

    fn tell(&self, step: Step) {
        if let Step::Layer { digest, done, total } = &step
            && done != total
        {
            let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let now = Instant::now();
            if told
                .get(digest)
                .is_some_and(|last| now.duration_since(*last) < TELL_EVERY)
            {
                return;
            }
            told.insert(digest.clone(), now);
        }
        // Nobody may be listening any more.
        let _ = self.sender.send(step);
    }

    fn failed(&self, error: &dyn std::error::Error) {
        self.tell(Step::Failed { message: chain(error) });
    }
}

fn lines(receiver: mpsc::UnboundedReceiver<Step>) -> Response {
    let stream = unfold(receiver, |mut steps| async move {
        let step = steps.recv().await?;
        let mut line = serde_json::to_vec(&step).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), steps))
    });
    let headers = [(axum::http::header::CONTENT_TYPE, "application/x-ndjson")];
    (headers, Body::from_stream(stream)).into_response()
}

pub(super) async fn pull(
    State(images): State<ImageStore>,
    Query(NameQuery { name }): Query<NameQuery>,
    Json(login): Json<Login>,
) -> Result<Response, Status> {
    let credentials = credentials(login)?;
    let (teller, receiver) = Teller::new();
    tokio::spawn(async move {
        let done = images.pull(&name, credentials, |progress| match progress {
            Progress::Resolving => teller.tell(Step::Resolving),
            Progress::Layer { digest, done, total } => teller.tell(Step::Layer { digest, done, total }),
            Progress::Unpacking { digest } => teller.tell(Step::Unpacking { digest }),
            // Told with the image.
            Progress::Done => {}
        });
        tokio::select! {
            // Whoever asked is gone, and with this goes the pull, if nobody else waits for it.
            () = teller.sender.closed() => {}
            done = done => match done {
                Ok(row) => teller.tell(Step::Pulled(row.into())),
                Err(error) => teller.failed(&*error),
            },
        }
    });
    Ok(lines(receiver))
}

pub(super) async fn push(
    State(images): State<ImageStore>,
    Query(PushQuery { name, to }): Query<PushQuery>,
    Json(login): Json<Login>,
) -> Result<Response, Status> {
    let credentials = credentials(login)?;
    let to = to.unwrap_or_else(|| name.clone());
    let (teller, receiver) = Teller::new();
    let (progress, mut steps) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let tell = async {
            while let Some(step) = steps.recv().await {
                teller.tell(match step {
                    PushProgress::Packing => Step::Packing,
                    PushProgress::Layer { digest, done, total } => Step::Layer { digest, done, total },
                });
            }
        };
        // Its end of the channel goes with the work, and that ends the telling.
        let work = images.push(&name, &to, &credentials, progress);
        match tokio::join!(work, tell).0 {
            Ok(digest) => teller.tell(Step::Pushed { digest }),
            Err(error) => teller.failed(&error),
        }
    });
    Ok(lines(receiver))
}

pub(super) async fn repair(
    State(images): State<ImageStore>,
    Query(ImportQuery { name }): Query<ImportQuery>,
    Json(login): Json<Login>,
) -> Result<Response, Status> {
    let credentials = credentials(login)?;
    let (teller, receiver) = Teller::new();
    tokio::spawn(async move {
        let verified = match images.verify(name.as_deref()).await {
            Ok(verified) => verified,
            Err(error) => return teller.failed(&error),
        };
        let told = |image: ImageRow, done: Result<(), RepairError>| {
            teller.tell(Step::Repaired {
                image: image.into(),
                error: done.err().map(|error| chain(&error)),
            });
        };
        images.repair(verified, &credentials, told).await;
    });
    Ok(lines(receiver))
}

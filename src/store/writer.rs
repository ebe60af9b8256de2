//! The one task that writes.
//!
//! Requests come in through a queue. What is queued goes into one transaction, so that many callers share one sync of
//! the disk; each request has a savepoint of its own, so that one that fails does not take the others with it. Changes
//! are published, and requests answered, only after the commit. A caller that goes away changes nothing here: its
//! request is carried out whole or, if it never got into the queue, not at all.
//!
//! **Invariant:** after a commit that failed for any other reason than a full disk, nothing is acknowledged any more.
//! Trying again, or opening the database again in the same process, would not help: the kernel may have marked the
//! pages it could not write as clean, so that the next fsync succeeds and the data is lost all the same ("fsyncgate",
//! `PostgreSQL` 2018). The agent ends (see [`super::Store::failure`]); its successor reads the log again and writes all
//! that is in it anew. A full disk is another matter: `SQLite` learns of it from write(2), before there is a commit
//! record, and takes the transaction back whole.

use std::sync::Arc;

use serde_json::Value;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::history::History;
use super::recent::Recent;
use super::{
    Change, ChangeType, ImageRow, StoreError, StoredObject, UserRange, image, object, observed, place, setting,
    user_range,
};
use crate::model::{Allocatable, Claim, Lack, Observed, Uid};

/// The kind whose objects are asked for by uid again and again.
const POD: &str = "Pod";
const BEGIN: &str = "BEGIN IMMEDIATE";
/// Each request of several begins in a savepoint of its own. Two statements at once, since each is a way to the
/// connection's thread and back; the last savepoint ends with the commit.
const BEGIN_FIRST_REQUEST: &str = "BEGIN IMMEDIATE; SAVEPOINT request";
const NEXT_REQUEST: &str = "RELEASE request; SAVEPOINT request";
const UNDO_REQUEST: &str = "ROLLBACK TO request";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

/// Requests in one transaction at most: what one failed commit can take with it.
const BATCH: usize = 64;

/// Requests that may wait; further callers wait for a place.
pub(super) const QUEUE: usize = 256;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Everything that can be written.
#[derive(Debug)]
pub(super) enum Request {
    Create {
        key: object::Key,
        uid: Uid,
        halves: object::Halves,
        in_namespace: bool,
        reply: Reply<StoredObject>,
    },
    Update {
        key: object::Key,
        expected: u64,
        halves: object::Halves,
        reply: Reply<StoredObject>,
    },
    Delete {
        key: object::Key,
        expected: u64,
        reply: Reply<StoredObject>,
    },
    SetStatus {
        uid: Uid,
        expected: Option<u64>,
        status: Value,
        reply: Reply<bool>,
    },
    SaveObserved {
        uid: Uid,
        difference: Box<observed::Difference>,
        after: Arc<Observed>,
        reply: Reply<()>,
    },
    ForgetPod {
        uid: Uid,
        reply: Reply<bool>,
    },
    TakePlace {
        uid: Uid,
        wanted: Box<place::Wanted>,
        reply: Reply<place::Place>,
    },
    RaisePlace {
        uid: Uid,
        wanted: Box<(Claim, Allocatable)>,
        reply: Reply<Option<Lack>>,
    },
    SettlePlace {
        uid: Uid,
        claim: Box<Claim>,
        reply: Reply<()>,
    },
    ReleasePlace {
        uid: Uid,
        reply: Reply<()>,
    },
    UserIds {
        uid: Uid,
        range: UserRange,
        reply: Reply<u32>,
    },
    PutImage {
        image: Box<ImageRow>,
        reply: Reply<()>,
    },
    NoteImage {
        note: image::Note,
        reply: Reply<()>,
    },
    RemoveImageName {
        name: String,
        reply: Reply<Option<ImageRow>>,
    },
    RemoveImage {
        id: String,
        reply: Reply<Option<ImageRow>>,
    },
    PutSetting {
        key: String,
        value: String,
        reply: Reply<()>,
    },
}

/// The end of a request: says what came of it, or why its transaction was lost.
type Answer = Box<dyn FnOnce(Option<StoreError>) + Send>;

/// A transaction in the making.
#[derive(Debug)]
pub(super) struct Transaction<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    /// The newest resource version given out.
    pub(super) version: u64,
    pub(super) changes: Vec<RecordedChange>,
    /// What is stored of these pods once this is committed.
    records: Vec<(Uid, Option<Arc<Observed>>)>,
}

/// What a transaction leaves behind.
#[derive(Debug)]
struct Committed {
    version: u64,
    changes: Vec<RecordedChange>,
    records: Vec<(Uid, Option<Arc<Observed>>)>,
}

/// A change, and what its row takes.
#[derive(Debug)]
pub(super) struct RecordedChange {
    pub(super) change: Change,
    pub(super) bytes: u64,
}

/// The first failure to commit, for whoever waits for it.
pub(super) type Failure = watch::Receiver<Option<Arc<sqlx::Error>>>;

#[derive(Debug)]
pub(super) struct Writer {
    connection: SqliteConnection,
    requests: mpsc::Receiver<Request>,
    changes: broadcast::Sender<Arc<Change>>,
    failure: watch::Sender<Option<Arc<sqlx::Error>>>,
    /// The newest resource version that is committed.
    version: u64,
    history: History,
    recent: Recent,
}

impl Writer {
    pub(super) fn new(
        connection: SqliteConnection,
        version: u64,
        history: History,
        changes: broadcast::Sender<Arc<Change>>,
        recent: Recent,
    ) -> (Self, mpsc::Sender<Request>, Failure) {
        let (send, requests) = mpsc::channel(QUEUE);
        let (failure, failed) = watch::channel(None);
        (
            Self {
                connection,
                requests,
                changes,
                failure,
                version,
                history,
                recent,
            },
            send,
            failed,
        )
    }

    /// Until the last handle of the store is gone.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.requests.recv_many(&mut batch, BATCH).await > 0 {
            self.write(&mut batch).await;
            self.drop_old_changes().await;
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing the database failed");
        }
    }

    /// One transaction. Leaves `batch` empty and everyone answered.
    async fn write(&mut self, batch: &mut Vec<Request>) {
        let failure = self.failure.borrow().clone();
        if let Some(source) = failure {
            for request in batch.drain(..) {
                request.refuse(StoreError::Failed {
                    source: Arc::clone(&source),
                });
            }
            return;
        }

        let mut answers = Vec::with_capacity(batch.len());
        match self.transact(batch, &mut answers).await {
            Ok(Committed {
                version,
                changes,
                records,
            }) => {
                self.version = version;
                for (uid, record) in records {
                    self.recent.put_record(uid, record);
                }
                for RecordedChange { change, bytes } in changes {
                    self.history.add(bytes);
                    self.recent
                        .put_change(&change.object.kind, change.object.resource_version);
                    if &*change.object.kind == POD {
                        let there = change.change_type != ChangeType::Deleted;
                        self.recent
                            .put_object(change.object.uid.clone(), there.then(|| change.object.clone()));
                    }
                    // Nobody listens: fine.
                    let _ = self.changes.send(Arc::new(change));
                }
                for answer in answers {
                    answer(None);
                }
            }
            Err(lost) => {
                for answer in answers {
                    answer(Some(lost.error()));
                }
                for request in batch.drain(..) {
                    request.refuse(lost.error());
                }
            }
        }
    }

    /// Carries out the batch and commits. On an error nothing of it stands.
    async fn transact(&mut self, batch: &mut Vec<Request>, answers: &mut Vec<Answer>) -> Result<Committed, Lost> {
        let alone = batch.len() == 1;
        self.begin(if alone { BEGIN } else { BEGIN_FIRST_REQUEST }).await?;
        let mut transaction = Transaction {
            connection: &mut self.connection,
            version: self.version,
            changes: Vec::new(),
            records: Vec::new(),
        };
        for (position, request) in batch.drain(..).enumerate() {
            if position > 0
                && let Err(error) = execute(transaction.connection, NEXT_REQUEST).await
            {
                return Err(self.roll_back("set a savepoint", error).await);
            }
            let (version, changes, records) = (
                transaction.version,
                transaction.changes.len(),
                transaction.records.len(),
            );
            let (answer, done) = request.carry_out(&mut transaction).await;
            answers.push(answer);
            if done {
                continue;
            }
            transaction.version = version;
            transaction.changes.truncate(changes);
            transaction.records.truncate(records);
            // Fails when `SQLite` has rolled back everything by itself, as it does after some errors
            // (sqlite.org/lang_transaction.html): then the other requests of the batch are lost too.
            let undone = execute(transaction.connection, if alone { ROLLBACK } else { UNDO_REQUEST }).await;
            if alone {
                return Ok(Committed {
                    version,
                    changes: Vec::new(),
                    records: Vec::new(),
                });
            }
            if let Err(error) = undone {
                return Err(self.roll_back("undo a request", error).await);
            }
        }
        let Transaction {
            connection: _,
            version,
            changes,
            records,
        } = transaction;
        self.commit().await?;
        Ok(Committed {
            version,
            changes,
            records,
        })
    }

    /// Between transactions, so that nobody waits for it with a request that is already carried out.
    async fn drop_old_changes(&mut self) {
        if !self.history.is_too_long() || self.failure.borrow().is_some() {
            return;
        }
        match self.shorten_history().await {
            Ok(history) => self.history = history,
            Err(lost) => tracing::warn!(error = %lost.error(), "old changes could not be dropped"),
        }
    }

    async fn shorten_history(&mut self) -> Result<History, Lost> {
        self.begin(BEGIN).await?;
        match self.history.shortened(&mut self.connection).await {
            Ok(history) => {
                self.commit().await?;
                Ok(history)
            }
            Err(error) => Err(self.roll_back("drop old changes", error).await),
        }
    }

    async fn begin(&mut self, how: &'static str) -> Result<(), Lost> {
        let begun = match execute(&mut self.connection, how).await {
            // A transaction is open still, which only a ROLLBACK that failed can have left.
            Err(error) if has_code(&error, SQLITE_ERROR) => {
                let _ = execute(&mut self.connection, ROLLBACK).await;
                execute(&mut self.connection, how).await
            }
            begun => begun,
        };
        begun.map_err(|error| Lost::Database("begin a transaction", Arc::new(error)))
    }

    async fn commit(&mut self) -> Result<(), Lost> {
        let Err(error) = execute(&mut self.connection, COMMIT).await else {
            return Ok(());
        };
        if has_code(&error, SQLITE_FULL) {
            return Err(self.roll_back("commit", error).await);
        }
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the database failed to commit: no more writes"
        );
        let source = Arc::new(error);
        self.failure.send_replace(Some(Arc::clone(&source)));
        Err(Lost::Failed(source))
    }

    async fn roll_back(&mut self, operation: &'static str, error: sqlx::Error) -> Lost {
        // Fails when SQLite has rolled back by itself, which is as good.
        let _ = execute(&mut self.connection, ROLLBACK).await;
        Lost::Database(operation, Arc::new(error))
    }
}

/// Why a whole transaction came to nothing.
#[derive(Debug)]
enum Lost {
    Database(&'static str, Arc<sqlx::Error>),
    Failed(Arc<sqlx::Error>),
}

impl Lost {
    fn error(&self) -> StoreError {
        match self {
            Self::Database(operation, source) => StoreError::Database {
                operation,
                source: Arc::clone(source),
            },
            Self::Failed(source) => StoreError::Failed {
                source: Arc::clone(source),
            },
        }
    }
}

impl Request {
    /// The answer, which waits for the commit, and whether all of the request was done.
    async fn carry_out(self, transaction: &mut Transaction<'_>) -> (Answer, bool) {
        match self {
            Self::Create {
                key,
                uid,
                halves,
                in_namespace,
                reply,
            } => {
                let created = object::create(transaction, key, uid, halves, in_namespace).await;
                answer(reply, created)
            }
            Self::Update {
                key,
                expected,
                halves,
                reply,
            } => answer(reply, object::update(transaction, &key, expected, halves).await),
            Self::Delete { key, expected, reply } => answer(reply, object::delete(transaction, &key, expected).await),
            Self::SetStatus {
                uid,
                expected,
                status,
                reply,
            } => answer(reply, object::set_status(transaction, &uid, expected, status).await),
            Self::SaveObserved {
                uid,
                difference,
                after,
                reply,
            } => {
                let saved = observed::save(transaction.connection, &uid, *difference).await;
                transaction.records.push((uid, Some(after)));
                answer(reply, saved)
            }
            Self::ForgetPod { uid, reply } => answer(reply, forget_pod(transaction, &uid).await),
            Self::UserIds { uid, range, reply } => {
                answer(reply, user_range::take(transaction.connection, &uid, range).await)
            }
            Self::TakePlace { uid, wanted, reply } => {
                answer(reply, place::take(transaction.connection, &uid, &wanted).await)
            }
            Self::RaisePlace { uid, wanted, reply } => {
                let (claim, room) = *wanted;
                answer(reply, place::raise(transaction.connection, &uid, &claim, &room).await)
            }
            Self::SettlePlace { uid, claim, reply } => {
                answer(reply, place::settle(transaction.connection, &uid, &claim).await)
            }
            Self::ReleasePlace { uid, reply } => answer(reply, place::release(transaction.connection, &uid).await),
            Self::PutImage { image, reply } => answer(reply, image::put(transaction.connection, &image).await),
            Self::NoteImage { note, reply } => answer(reply, image::note(transaction.connection, note).await),
            Self::RemoveImageName { name, reply } => {
                answer(reply, image::remove_name(transaction.connection, &name).await)
            }
            Self::RemoveImage { id, reply } => answer(reply, image::remove(transaction.connection, &id).await),
            Self::PutSetting { key, value, reply } => {
                answer(reply, setting::put(transaction.connection, &key, &value).await)
            }
        }
    }

    fn refuse(self, error: StoreError) {
        // A caller that is gone needs no answer.
        match self {
            Self::Create { reply, .. } | Self::Update { reply, .. } | Self::Delete { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::SetStatus { reply, .. } | Self::ForgetPod { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::SaveObserved { reply, .. }
            | Self::SettlePlace { reply, .. }
            | Self::ReleasePlace { reply, .. }
            | Self::PutImage { reply, .. }
            | Self::NoteImage { reply, .. }
            | Self::PutSetting { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::TakePlace { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::RaisePlace { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::UserIds { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            Self::RemoveImageName { reply, .. } | Self::RemoveImage { reply, .. } => {
                let _ = reply.send(Err(error));
            }
        }
    }
}

fn answer<T: Send + 'static>(reply: Reply<T>, result: Result<T, StoreError>) -> (Answer, bool) {
    let done = result.is_ok();
    let answer = move |lost: Option<StoreError>| {
        // A caller that is gone needs no answer.
        let _ = reply.send(lost.map_or(result, Err));
    };
    (Box::new(answer), done)
}

/// The object and everything that was stored of the pod, in one transaction.
async fn forget_pod(transaction: &mut Transaction<'_>, uid: &Uid) -> Result<bool, StoreError> {
    if !object::forget(transaction, uid).await? {
        return Ok(false);
    }
    observed::forget(transaction.connection, uid).await?;
    transaction.records.push((uid.clone(), None));
    user_range::release(transaction.connection, uid).await?;
    place::release(transaction.connection, uid).await.map(|()| true)
}

/// A statement that is no query: it takes and gives nothing.
async fn execute(connection: &mut SqliteConnection, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(|_nothing| ())
}

/// `SQLITE_ERROR`: a statement that makes no sense where it stands.
const SQLITE_ERROR: &str = "1";

/// `SQLITE_FULL`, which has no extended codes (sqlite.org/rescode.html).
pub(super) const SQLITE_FULL: &str = "13";

pub(super) fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|found| found == code)
}

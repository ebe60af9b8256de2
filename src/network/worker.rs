//! The thread on which everything about the network happens.
//!
//! Goes in: jobs. Comes out: their results. The thread holds an rtnetlink socket of the machine's own namespace and
//! may visit a pod's; no other thread of the agent ever leaves the machine's namespace.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::NetworkError;
use crate::linux::netlink::Netlink;
use crate::linux::netns::Home;

/// What a job works with.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) netlink: Netlink,
    pub(super) home: Home,
    /// Set when the thread did not come home from a visit: it must not go on.
    pub(super) lost: bool,
}

type Job = Box<dyn FnOnce(&mut Tools) + Send>;

/// A handle on the thread. It ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Mutex<Sender<Job>>,
}

impl Worker {
    /// Start the thread, in the calling thread's network namespace.
    pub(super) fn start() -> Result<Self, NetworkError> {
        Ok(Self {
            jobs: Mutex::new(spawn()?),
        })
    }

    /// Do a job on the thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tools) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (give, result) = oneshot::channel();
        let job: Job = Box::new(move |tools| {
            // Nobody waits for it any more: the job is done all the same.
            let _ = give.send(job(tools));
        });
        self.send(job)?;
        result.await.unwrap_or(Err(NetworkError::ThreadEnded))
    }

    fn send(&self, job: Job) -> Result<(), NetworkError> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(unsent) = jobs.send(job) else {
            return Ok(());
        };
        // The thread was lost in a pod's namespace or panicked: a new one takes over.
        *jobs = spawn()?;
        jobs.send(unsent.0).map_err(|_| NetworkError::ThreadEnded)
    }
}

fn spawn() -> Result<Sender<Job>, NetworkError> {
    let (give, jobs) = channel::<Job>();
    let (started, start) = channel();
    std::thread::Builder::new()
        .name("podd-net".to_owned())
        .stack_size(256 << 10)
        .spawn(move || {
            let tools = Home::of_this_thread().map_err(NetworkError::Thread).and_then(|home| {
                Ok(Tools {
                    netlink: Netlink::open()?,
                    home,
                    lost: false,
                })
            });
            let mut tools = match tools {
                Ok(tools) => tools,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            while let Ok(job) = jobs.recv() {
                job(&mut tools);
                if tools.lost {
                    return;
                }
            }
        })
        .map_err(NetworkError::Thread)?;
    start.recv().unwrap_or(Err(NetworkError::ThreadEnded))?;
    Ok(give)
}

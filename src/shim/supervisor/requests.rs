//! What agents ask of the shim, and what they are answered.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::super::connection::{Connection, Received};
use super::super::containers::Known;
use super::super::execs::{Outcome, not_running};
use super::super::output::Found;
use super::super::protocol::{Attach, Exec, Fact, FromShim, PROTOCOL, Reply, Request, RequestBody, StartContainer};
use super::{MAX_CONNECTIONS, SIGKILL, Supervisor, Waiter};
use crate::linux::poll::Interest;
use crate::linux::process;

impl Supervisor<'_> {
    pub(super) fn connect(&mut self, socket: UnixStream) {
        // Only root can reach the socket's directory; a connection that cannot be served is closed.
        let Ok(connection) = Connection::new(socket) else {
            return;
        };
        let id = self.next_connection;
        if self.poller.add(&connection, id, Interest::Read).is_ok() {
            self.next_connection += 1;
            self.connections.insert(id, connection);
        }
    }

    pub(super) fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            // One agent has a few; who opens more must not use up our descriptors.
            let room = self.connections.len() < MAX_CONNECTIONS;
            if room && crate::linux::fd::peer_uid(&socket).is_ok_and(|uid| uid == 0) {
                self.connect(socket);
            }
        }
    }

    pub(super) fn disconnect(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            // A child on its way to exec may hold a copy, which would keep it in the poller.
            let _removed = self.poller.remove(&connection);
        }
        // With a session goes what was done for it alone.
        if let Some(cgroup) = self.execs.kill(id, &self.poller) {
            self.remove_soon(cgroup);
        }
        self.outputs.leave(id, &self.poller);
    }

    pub(super) fn send(&mut self, id: u64, message: &FromShim) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.send(message).is_err() {
            self.disconnect(id);
        } else if connection.is_behind() {
            let _watched = self.poller.change(connection, id, Interest::ReadWrite);
        }
    }

    pub(super) fn reply(&mut self, waiter: Waiter, result: Reply) {
        self.send(
            waiter.connection,
            &FromShim::Reply {
                id: waiter.request,
                result,
            },
        );
    }

    pub(super) fn requests(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.is_behind() {
            if connection.flush().is_err() {
                return self.disconnect(id);
            }
            if !connection.is_behind() {
                let _watched = self.poller.change(connection, id, Interest::Read);
            }
        }
        match connection.receive() {
            Ok(requests) => {
                for request in requests {
                    match request {
                        Received::Request(request) => self.request(id, request),
                        Received::Unknown { id: request, message } => {
                            let waiter = Waiter {
                                connection: id,
                                request,
                            };
                            self.reply(waiter, Reply::Refused(message));
                        }
                    }
                }
            }
            Err(_) => self.disconnect(id),
        }
    }

    fn request(&mut self, connection: u64, request: Request) {
        let Request { id, body } = request;
        let waiter = Waiter {
            connection,
            request: id,
        };
        let Some(greeted) = self.connections.get(&connection).map(|c| c.greeted) else {
            return;
        };
        match body {
            RequestBody::Hello { protocol } => {
                // Both speak the lower of the two.
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.greeted = true;
                }
                self.send(
                    connection,
                    &FromShim::Hello {
                        protocol: protocol.min(PROTOCOL),
                        pid: process::own_pid(),
                    },
                );
                self.send(
                    connection,
                    &FromShim::Journal {
                        length: self.journal.length(),
                    },
                );
            }
            RequestBody::Start(_)
            | RequestBody::Ahead(_)
            | RequestBody::Signal { .. }
            | RequestBody::Stop
            | RequestBody::Exec(_)
            | RequestBody::Attach(_)
            | RequestBody::Resize { .. }
                if !greeted =>
            {
                self.disconnect(connection);
            }
            RequestBody::Start(start) => self.start(waiter, *start),
            RequestBody::Ahead(ahead) => {
                self.reply(waiter, Reply::Done);
                if let Some(start) = self.containers.expect(ahead) {
                    self.make_ahead(start);
                }
            }
            RequestBody::Signal {
                container,
                attempt,
                signal,
                all,
            } => {
                self.signal(waiter, &container, attempt, signal, all);
            }
            RequestBody::Stop => self.stop(Some(waiter)),
            RequestBody::Exec(exec) => self.exec(waiter, *exec),
            RequestBody::Attach(attach) => self.attach(waiter, attach),
            RequestBody::Resize { width, height } => {
                let reply = match self.outputs.resize(connection, width, height) {
                    Ok(()) => Reply::Done,
                    Err(message) => Reply::Refused(message),
                };
                self.reply(waiter, reply);
            }
        }
    }

    /// The descriptors of a session that begins on this connection. `None`, and refused: there is one already.
    fn begin_session(&mut self, waiter: Waiter) -> Option<Vec<OwnedFd>> {
        let connection = self.connections.get_mut(&waiter.connection)?;
        if connection.session {
            self.reply(
                waiter,
                Reply::Refused("this connection has a session already".to_owned()),
            );
            return None;
        }
        connection.session = true;
        Some(connection.take_descriptors())
    }

    fn exec(&mut self, waiter: Waiter, exec: Exec) {
        let Some(descriptors) = self.begin_session(waiter) else {
            return;
        };
        if self.stopping.is_some() {
            return self.reply(waiter, Reply::Refused("the sandbox is being stopped".to_owned()));
        }
        let outcome = self.execs.start(
            waiter,
            exec,
            descriptors,
            &mut self.containers,
            &self.machine,
            &self.poller,
        );
        self.settle(outcome);
    }

    /// Tell what has become of a program, and end what is to be ended.
    pub(super) fn settle(&mut self, outcome: Outcome) {
        let Outcome { reply, ended, remove } = outcome;
        if let Some((waiter, reply)) = reply {
            self.reply(waiter, reply);
        }
        if let Some((connection, status)) = ended {
            self.send(connection, &FromShim::Ended { status });
        }
        if let Some(cgroup) = remove {
            self.remove_soon(cgroup);
        }
    }

    /// What lives in it is killed, and it is removed.
    fn remove_soon(&mut self, cgroup: String) {
        self.remove.insert(cgroup);
        self.retry_ms = 1;
    }

    fn attach(&mut self, waiter: Waiter, attach: Attach) {
        let Some(descriptors) = self.begin_session(waiter) else {
            return;
        };
        let Attach {
            container,
            stdin,
            stdout,
            stderr,
        } = attach;
        let mut descriptors = descriptors.into_iter();
        let mut next = |wanted: bool| if wanted { descriptors.next() } else { None };
        let (source, outlets) = (next(stdin), [next(stdout), next(stderr)]);
        let Some(output) = self.containers.running(&container).map(|running| running.output) else {
            return self.reply(waiter, not_running(&container));
        };
        let joined = self
            .outputs
            .join(output, waiter.connection, source, outlets, &self.poller);
        let reply = match joined {
            Ok(Found { stdin, tty }) => Reply::Attached { stdin, tty },
            Err(message) => Reply::Failed(message),
        };
        self.reply(waiter, reply);
    }

    fn start(&mut self, waiter: Waiter, start: StartContainer) {
        match self.containers.known(&start.container, start.attempt, waiter) {
            Known::Answer(reply) => return self.reply(waiter, reply),
            Known::Later => return,
            Known::No => {}
        }
        if self.stopping.is_some() {
            return self.reply(waiter, Reply::Refused("the sandbox is being stopped".to_owned()));
        }
        if self.infra.is_none() {
            return self.reply(waiter, Reply::Refused("the infra process has ended".to_owned()));
        }
        let (container, attempt) = (start.container.clone(), start.attempt);
        self.containers.remember(&container, attempt);
        self.write_down(Fact::Starting {
            container: container.clone(),
            attempt,
        });
        match self.containers.start(
            start,
            waiter,
            &self.machine,
            &self.poller,
            self.config,
            &mut self.outputs,
            &mut self.remove,
        ) {
            Ok(()) => {}
            Err(failure) => {
                if let Some(cgroup) = failure.cgroup {
                    self.remove.insert(cgroup);
                }
                let message = failure.message;
                self.write_down(Fact::StartFailed {
                    container,
                    attempt,
                    message: message.clone(),
                });
                self.reply(waiter, Reply::Failed(message));
            }
        }
    }

    /// While nobody waits for it: make what is likely to be asked for next.
    pub(super) fn make_ahead(&mut self, start: StartContainer) {
        // In a shared pid namespace others of the pod could reach a process that waits with all the shim's privileges. The
        // command of an OCI runtime makes its own.
        let is_possible = !self.config.share_pid && !self.config.host_pid && self.config.runtime.is_none();
        if is_possible && self.stopping.is_none() && self.infra.is_some() {
            self.containers.make_ahead(start, &self.machine, &mut self.remove);
        }
    }

    fn signal(&mut self, waiter: Waiter, container: &str, attempt: u32, signal: i32, all: bool) {
        let signal = if all { SIGKILL } else { signal };
        if !self.containers.is_known(container, attempt) {
            let message = format!("attempt {attempt} of container {container} was never started here");
            return self.reply(waiter, Reply::Refused(message));
        }
        if self.containers.first_signal(container, attempt, signal) {
            self.write_down(Fact::Signalled {
                container: container.to_owned(),
                attempt,
                signal,
            });
        }
        let reply = match self.containers.signal(container, attempt, signal, all, &self.machine) {
            Ok(()) => Reply::Done,
            Err(message) => Reply::Failed(message),
        };
        self.reply(waiter, reply);
    }
}

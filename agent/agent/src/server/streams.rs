//! stdio streams: connections of the host, ends in the guest, relays between.

use std::os::fd::{AsRawFd, OwnedFd};

use vmrun_proto::{ProcessRef, Stream, StreamKind};

use super::Server;
use super::names::describe_stream;
use super::poller::{Event, Token};
use crate::log;
use crate::stdio::{Progress, Relay, kinds};

/// Connections that may wait for their process. The host opens a handful for
/// each process that it is about to ask for.
const MAX_WAITING_STREAMS: usize = 1024;

/// A stream with both ends.
#[derive(Debug)]
pub(crate) struct AttachedStream {
    pub(crate) stream: Stream,
    pub(crate) relay: Relay,
}

impl Server {
    /// The host has opened `stream`.
    pub(super) fn stream_connected(&mut self, stream: Stream, socket: OwnedFd, first: Vec<u8>) {
        let known = self.process_id(&stream.process);
        if let Some(process) = known.and_then(|id| self.processes.get_mut(&id)) {
            let announced = kinds(&process.io).contains(&stream.kind);
            if !announced || !process.connected.insert(stream.kind) {
                return log::warn(format_args!("the host opened {} unannounced", describe_stream(&stream)));
            }
        } else if self.waiting_streams.len() >= MAX_WAITING_STREAMS {
            let refused = describe_stream(&stream);
            return log::warn(format_args!("too many streams wait for their process; refused {refused}"));
        }
        self.waiting_streams.insert(stream, (socket, first));
        if let Some(id) = known {
            self.attach_streams(id);
            self.streams_changed(id);
        }
    }

    /// Counts the streams that were connected before the process was known.
    pub(super) fn adopt_waiting_streams(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        for kind in kinds(&process.io) {
            let stream = Stream { process: process.reference.clone(), kind };
            if self.waiting_streams.contains_key(&stream) {
                process.connected.insert(kind);
            }
        }
    }

    /// Joins the streams of a process that are there at both ends.
    pub(super) fn attach_streams(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let reference = process.reference.clone();
        let mut attached = Vec::new();
        for kind in kinds(&process.io) {
            let stream = Stream { process: reference.clone(), kind };
            if !process.endpoints.contains_key(&kind) {
                continue;
            }
            let Some((socket, first)) = self.waiting_streams.remove(&stream) else { continue };
            if let Some(endpoint) = process.endpoints.remove(&kind) {
                attached.push(AttachedStream { stream, relay: Relay::new(socket, first, endpoint) });
            }
        }
        for stream in attached {
            self.start_stream(stream);
        }
    }

    fn start_stream(&mut self, stream: AttachedStream) {
        let id = self.new_id();
        let [connection, guest] = stream.relay.descriptors();
        let watched = self
            .poller
            .watch_changes(connection, Token::StreamConnection(id))
            .and_then(|()| self.poller.watch_changes(guest, Token::StreamGuest(id)));
        if let Err(error) = watched {
            return log::warn(format_args!("cannot watch {}: {error}", describe_stream(&stream.stream)));
        }
        self.streams.insert(id, stream);
        self.advance_stream(id);
    }

    pub(super) fn stream_ready(&mut self, id: u64, event: Event) {
        let Some(attached) = self.streams.get_mut(&id) else { return };
        if event.hung_up {
            let [connection, guest] = attached.relay.descriptors().map(|fd| fd.as_raw_fd());
            let which = if matches!(event.token, Token::StreamGuest(_)) { guest } else { connection };
            attached.relay.hung_up(which);
        }
        self.advance_stream(id);
    }

    fn advance_stream(&mut self, id: u64) {
        let Some(attached) = self.streams.get_mut(&id) else { return };
        match attached.relay.advance() {
            Progress::Waiting => {
                self.busy_streams.remove(&id);
            }
            Progress::More => {
                self.busy_streams.insert(id);
            }
            Progress::Over => {
                self.busy_streams.remove(&id);
                self.streams.remove(&id);
            }
        }
    }

    /// Moves what a process that has ended left in its pipes, which one turn can
    /// hold, so that it is on its way before the news of the end.
    pub(super) fn send_what_is_written(&mut self, process: &ProcessRef) {
        let its = |attached: &AttachedStream| attached.stream.process == *process;
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, attached)| its(attached)).map(|(id, _)| *id).collect();
        for id in streams {
            self.advance_stream(id);
        }
    }

    /// One turn for each stream that has more to do.
    pub(super) fn advance_busy_streams(&mut self) {
        let busy: Vec<u64> = self.busy_streams.iter().copied().collect();
        for id in busy {
            self.advance_stream(id);
        }
    }

    /// The terminal of a process, attached or not.
    pub(super) fn terminal_stream(&self, process: &ProcessRef) -> Option<&Relay> {
        let is_terminal = |attached: &&AttachedStream| {
            attached.stream.kind == StreamKind::Terminal && attached.stream.process == *process
        };
        self.streams.values().find(is_terminal).map(|attached| &attached.relay)
    }

    /// Closes the connections that wait for a process that will not be.
    pub(super) fn drop_waiting_streams(&mut self, process: &ProcessRef) {
        self.waiting_streams.retain(|stream, _| stream.process != *process);
    }
}

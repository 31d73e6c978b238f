//! Connections of containers to Unix sockets of the host.

use std::path::Path;

use super::Server;
use super::poller::Token;
use crate::host_sockets::HostSockets;
use crate::log;

/// Name of the directory, in an init's, with the sockets that stand for the host's.
pub(super) const DIRECTORY: &str = "sockets";

impl Server {
    /// Listens for the sockets that the plan of a container names, in its init's directory.
    pub(super) fn open_host_sockets(&mut self, container: &str, directory: &Path) -> std::io::Result<()> {
        let Some(entry) = self.containers.get_mut(container) else { return Ok(()) };
        if entry.plan.sockets.is_empty() {
            return Ok(());
        }
        let sockets = HostSockets::open(&entry.plan.sockets, &directory.join(DIRECTORY))?;
        self.poller.watch_input(&sockets, Token::Sockets(entry.init))?;
        entry.sockets = Some(sockets);
        Ok(())
    }

    /// The host will connect when it is told so over this connection.
    pub(super) fn become_sockets(&mut self, id: u64, container: &str) {
        let Some(connection) = self.take_connection(id) else { return };
        match self.sockets_of(container) {
            Some(sockets) => sockets.attach(connection),
            None => log::warn(format_args!("the host connects to sockets that {container:?} does not have")),
        }
    }

    /// The host has connected.
    pub(super) fn become_socket(&mut self, id: u64, container: &str, call: u64) {
        let Some(connection) = self.take_connection(id) else { return };
        let (socket, first) = connection.into_stream();
        if let Some(sockets) = self.sockets_of(container) {
            sockets.join(call, socket, first);
        }
    }

    /// A program has connected, or bytes are there to be carried.
    pub(super) fn sockets_ready(&mut self, init: u64) {
        let mut entries = self.containers.values_mut();
        let entry = entries.find(|entry| entry.init == init);
        if let Some(sockets) = entry.and_then(|entry| entry.sockets.as_mut()) {
            sockets.turn();
        }
    }

    /// Whether there are bytes to be carried though nothing happens.
    pub(super) fn has_busy_sockets(&self) -> bool {
        self.containers.values().filter_map(|entry| entry.sockets.as_ref()).any(HostSockets::is_busy)
    }

    pub(super) fn advance_busy_sockets(&mut self) {
        let sockets = self.containers.values_mut().filter_map(|entry| entry.sockets.as_mut());
        sockets.filter(|sockets| sockets.is_busy()).for_each(HostSockets::turn);
    }

    /// No program is left.
    pub(super) fn end_host_sockets(&mut self) {
        self.containers.values_mut().filter_map(|entry| entry.sockets.as_mut()).for_each(HostSockets::end);
    }

    fn sockets_of(&mut self, container: &str) -> Option<&mut HostSockets> {
        self.containers.get_mut(container)?.sockets.as_mut()
    }
}

//! The host answers what containers ask their name servers.

use std::net::IpAddr;

use super::Server;
use super::poller::Token;
use crate::log;
use crate::name_service::NameService;

impl Server {
    /// Stands for the name servers that the plan of a container names, whose init has this pid.
    pub(super) fn serve_planned_names(&mut self, container: &str, init: i32) -> Result<(), String> {
        let network = self.containers.get(container).and_then(|entry| entry.plan.network.as_ref());
        let servers = network.map(|network| network.name_servers.clone()).unwrap_or_default();
        self.serve_names(container, init, &servers)
    }

    /// Stands for these from now on, and for no others.
    pub(super) fn serve_names(
        &mut self,
        container: &str,
        init: i32,
        servers: &[IpAddr],
    ) -> Result<(), String> {
        let Some(entry) = self.containers.get_mut(container) else { return Ok(()) };
        if entry.names.as_ref().map_or(&[][..], NameService::servers) == servers {
            return Ok(());
        }
        let before = entry.names.take();
        if servers.is_empty() {
            return Ok(());
        }
        let mut service = NameService::open(init, servers)?;
        self.poller
            .watch_input(&service, Token::Names(entry.init))
            .map_err(|errno| format!("cannot watch the name servers of {container:?}: {errno}"))?;
        if let Some(before) = before {
            service.succeed(before);
        }
        entry.names = Some(service);
        Ok(())
    }

    /// The host will answer over this connection.
    pub(super) fn become_names(&mut self, id: u64, container: &str) {
        let Some(connection) = self.take_connection(id) else { return };
        match self.containers.get_mut(container).and_then(|entry| entry.names.as_mut()) {
            Some(service) => service.attach(connection),
            None => log::warn(format_args!("the host answers for names that {container:?} does not ask for")),
        }
    }

    /// Something is asked or answered.
    pub(super) fn names_ready(&mut self, init: u64) {
        let mut entries = self.containers.values_mut();
        if let Some(service) = entries.find(|entry| entry.init == init).and_then(|entry| entry.names.as_mut())
        {
            service.turn();
        }
    }
}

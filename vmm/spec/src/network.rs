//! The network of a sandbox that stands alone.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The caller's network, reached through a process with the caller's rights that opens sockets for
/// the guest (passt).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserNetwork {
    /// Ports of the host that lead into the guest; a port stands in it once for each protocol.
    pub ports: Vec<PublishedPort>,
    /// The gateway's address leads to what listens on the host's loopback.
    pub host_loopback: bool,
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// The host's address; none for all of them.
    pub address: Option<IpAddr>,
    /// Its port, at least 1.
    pub host: u16,
    /// The guest's, at least 1.
    pub guest: u16,
    /// Which of the two.
    pub protocol: PortProtocol,
}

/// What a port number belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

//! What a container asks the name servers at loopback addresses of its namespace, which are on the host.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The port of name servers.
pub const NAME_SERVER_PORT: u16 = 53;

/// A question of the container's. Each gets one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Chosen by the agent; higher than those before.
    pub id: u64,
    /// Whom: one of [`Network::name_servers`](crate::Network).
    pub server: IpAddr,
    /// How.
    pub transport: Transport,
    /// What (RFC 1035), without the length that goes before it over TCP.
    pub message: Vec<u8>,
}

/// What name servers are asked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// To which.
    pub id: u64,
    /// What the name server says; none where it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Vec<u8>>,
}

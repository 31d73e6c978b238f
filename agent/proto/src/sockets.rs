//! Unix sockets of the host that are mounted into a container.

use serde::{Deserialize, Serialize};

/// Most connections of a container to sockets of the host's at a time, all of them together: each is three descriptors
/// on the host and two in the guest. Further ones wait until one of these has ended.
pub const MAX_SOCKET_CONNECTIONS: usize = 256;

/// A stream socket of the host's, for which the agent listens in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSocket {
    /// Where the shared tree has it: an absolute path in the guest.
    pub path: String,
}

/// A program has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketCall {
    /// Chosen by the agent, and used once.
    pub id: u64,
    /// To which: the number in [`ContainerPlan::sockets`](crate::ContainerPlan).
    pub socket: u32,
}

/// Nobody on the host takes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRefusal {
    /// Which: that of its [`SocketCall`].
    pub id: u64,
}

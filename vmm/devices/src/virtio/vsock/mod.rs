//! virtio-vsock: stream sockets between host and guest (virtio 1.2, §5.10).
//!
//! ```text
//!  guest driver      device.rs          muxer.rs               host processes
//!   tx queue  --->  VsockWorker  --->  Muxer ---> Connection --- UnixStream
//!   rx queue  <---   (queues)    <---   who has something for the guest
//! ```
//!
//! On the host the device is a Unix socket. A client that connects to it writes
//! `CONNECT <port>\n`, reads `OK <host port>\n`, and then talks to the guest's
//! listener on that port ([`handshake`]). A guest that connects to port P of the
//! host reaches whoever listens on the socket's path with `_P` behind it. The
//! convention is Firecracker's (docs/vsock.md there).
//!
//! [`connection`] is the state machine of one connection, generic over its
//! stream; [`muxer`] owns all of them and decides whose packet the guest gets
//! next; [`device`] moves packets between the queues and the muxer.

mod connection;
mod device;
mod handshake;
mod header;
mod muxer;
#[cfg(test)]
mod test_host;

use std::time::Duration;

pub use device::{Vsock, VsockError};

/// What failures call the device.
const NAME: &str = "virtio-vsock";

/// Context id of the host.
const HOST_CID: u64 = 2;

/// Receive buffer of each connection on the host side, bytes: how much the
/// guest may send before the host's reader has taken it.
const BUFFER_BYTES: u32 = 256 << 10;

/// Largest payload of one packet, bytes, as in the Linux driver
/// (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
const MAX_PACKET_BYTES: u32 = 64 << 10;

/// How long a client on the host may take to say what it wants, and the guest to answer that. What
/// opens connections here is less patient, so this ends what nobody waits for any more.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Most connections at a time that clients on the host open, those in their handshake included: each
/// costs a file descriptor.
const MAX_CONNECTIONS: usize = 1024;

/// Most connections at a time that the guest opens, those included that it has closed while the
/// host's reader is behind. They are counted apart, since any program in the guest may open them: the
/// agent needs one, and what the host opens to reach the agent must not be refused for the others.
const MAX_GUEST_CONNECTIONS: usize = 8;

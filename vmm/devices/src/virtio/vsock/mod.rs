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
//! listener on that port ([`handshake`]). The convention is Firecracker's
//! (docs/vsock.md there). The guest itself may connect to the one port of the host
//! that the device was made with, once: the thread behind this names no path and
//! makes no socket.
//!
//! [`connection`] is the state machine of one connection, generic over its
//! stream; [`muxer`] owns all of them and decides whose packet the guest gets
//! next; [`device`] moves packets between the queues and the muxer.

mod connection;
mod device;
mod handshake;
mod header;
mod muxer;
#[cfg(feature = "fuzzing")]
pub(crate) use muxer::fuzz;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
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

/// Most connections at a time, those in their handshake included: each costs a file descriptor. The
/// guest opens one of them.
const MAX_CONNECTIONS: usize = 1024;

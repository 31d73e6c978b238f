//! The wire contract between the host and the agent in the guest.
//!
//! Everything that crosses the virtio-vsock link is defined here and nowhere
//! else. There are two kinds of connection, told apart by their first frame:
//!
//! ```text
//!   host                                        agent (guest PID 1)
//!    |  <--- connects to HOST_CID:READY_PORT ---  |   boot is over
//!    |  <--- Event::Ready ----------------------  |
//!    |  ---- Envelope<Request> ---------------->  |   the control connection
//!    |  <--- Message::Reply / Message::Event ---  |
//!    |                                            |
//!    |  ---- connects to AGENT_PORT ----------->  |
//!    |  ---- Hello ---------------------------->  |
//!    |  <=== frames or raw bytes ==============>  |
//! ```
//!
//! * The connection that the agent opens at boot is a control connection.
//! * A connection that the host opens starts with one [`Hello`] frame. After
//!   [`Hello::Control`] it carries frames like the boot connection; after
//!   [`Hello::Stream`] it carries the raw bytes of one stdio stream and nothing
//!   else: no framing, so no byte can be lost or reordered by us, and vsock
//!   credit is the back-pressure. Closing a direction is end of file.
//! * After [`Hello::Names`] the agent sends frames with a [`Question`] each, the host
//!   frames with an [`Answer`] each.
//! * After [`Hello::Sockets`] the agent sends a [`SocketCall`] for each connection to a socket
//!   of the host's. The host answers with a connection of its own, which begins with
//!   [`Hello::Socket`] and carries raw bytes, or with a [`SocketRefusal`]. The agent closes this
//!   connection when the container has ended and nothing is left to carry.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON
//! ([`frame`]). The contract is append-only: see `VERSIONING.md`.

mod checkpoint;
mod figures;
mod frame;
mod marks;
mod message;
mod mounts;
mod names;
pub mod netfilter;
mod network;
mod plan;
mod sockets;

pub use checkpoint::{CHECKPOINT_PORT, CHECKPOINT_VARIABLE};
pub use figures::{
    ContainerFigures, DeviceFigures, InterfaceFigures, PacketFigures, PressureFigures, PressureLine,
    ProcessInfo,
};
pub use frame::{FrameError, FrameReader, MAX_FRAME_BYTES, encode, read_frame, write_frame};
pub use marks::{GuestMark, MARK_PORT, MARK_VARIABLE};
pub use message::{
    Envelope, ErrorKind, ErrorReply, Event, ExitStatus, Hello, Message, ProcessRef, Reply, Request, Stage,
    Stream, StreamKind,
};
pub use mounts::{SharedMount, mount_attr};
pub use names::{Answer, NAME_SERVER_PORT, Question, Transport};
pub use network::{
    Address, Hop, INTERFACE_SETTINGS, Interface, Neighbour, Network, NetworkDevice, Prefix, Route, Rule,
};
pub use plan::{Changes, ConsoleSize, ContainerPlan, Disk, ProcessIo, RootImage, Share};
pub use sockets::{HostSocket, MAX_SOCKET_CONNECTIONS, SocketCall, SocketRefusal};

/// Version of the contract. It grows when a message is added that an older peer
/// must not be sent; fields with defaults do not change it.
pub const VERSION: u32 = 9;

/// Context id of the host on every virtio-vsock link (virtio 1.2, §5.10.4).
pub const HOST_CID: u32 = 2;

/// vsock port on which the agent listens for connections from the host.
pub const AGENT_PORT: u32 = 1024;

/// vsock port of the host to which the agent connects when it is ready.
pub const READY_PORT: u32 = 1024;

/// Name of the directory, in the shared tree, that is the container's root file system.
pub const ROOTFS_DIR: &str = "rootfs";

/// Name of the directory, in the shared tree, that holds one entry for each volume.
pub const VOLUMES_DIR: &str = "volumes";

/// virtio-fs tag of the shared tree.
pub const SHARE_TAG: &str = "vmrun";

/// Where the agent mounts the shared tree in the guest.
pub const SHARE_MOUNT: &str = "/run/vmrun/share";

/// Where the agent mounts the file systems of disks in the guest.
pub const DISKS_DIR: &str = "/run/vmrun/disks";

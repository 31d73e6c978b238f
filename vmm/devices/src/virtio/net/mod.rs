//! virtio-net: a network interface on a tap of the host's, or on a socket ([`stream`]) (virtio 1.2, §5.1).
//!
//! ```text
//!   guest driver         worker.rs                      host
//!    tx queue  ──▶ tx.rs: Sender ───── writev ─────▶  tap  ──▶ where its owner leads it
//!    rx queue  ◀── rx.rs: Receiver ─── readv ──────   tap  ◀──
//!    control   ◀─▶ control.rs          limits.rs: what each direction may carry
//! ```
//!
//! The device and the tap share the header before each frame, so the device does not look into it:
//! what of sums and segments the driver took over is set on the tap ([`features`]), and the kernel
//! writes and checks the headers. Frames go between the tap and the guest's buffers in one copy, the
//! kernel's ([`tap`]).
//!
//! Each interface has a thread of its own, which is there before the guest uses it (see [`session`](super::session)).

mod class;
mod control;
mod counters;
mod features;
mod limits;
mod link;
mod rx;
mod stream;
mod tap;
mod tx;
mod watch;
mod worker;

use std::io;
use std::sync::Arc;

pub(crate) use class::NET;
pub use class::{CALLS, TAP};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_F_CTRL_VQ;
use vmrun_spec::{DeviceChange, Frames, NetSpec};

use crate::failure::FailureSink;
use crate::virtio::config_space::ConfigSpace;
use crate::virtio::counters::Counters;
use crate::virtio::device::{ActivateError, Activation, ChangeError, VirtioDevice};
use crate::virtio::queue::ActiveQueue;
use crate::virtio::session::{SessionError, SessionThread};
use crate::virtio::state::{DeviceState, StateError, Suspended};
use counters::NetCounters;
use features::{Features, Offloads, SEGMENTS_OF_UDP_FLAGS};
use limits::Limits;
use link::Link;
use stream::Stream;
use tap::{LinuxTap, Tap};

/// What failures call it.
const NAME: &str = "virtio-net";

/// Receive, transmit, control.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// `struct virtio_net_hdr_v1`, which is before each frame.
const HEADER_BYTES: usize = 12;

/// The longest frame behind a header: an IP packet of 64 KiB behind an Ethernet header with two VLAN tags.
const MAX_FRAME_BYTES: usize = HEADER_BYTES + 14 + 2 * 4 + 0xffff;

/// Form of the saved state, which is empty: the driver announces itself, and knows the rest.
const STATE_VERSION: u16 = 1;

/// Why the device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The descriptor is not a tap's.
    #[error("the descriptor of the network interface is no tap's: {0}")]
    NoTap(#[source] io::Error),
    /// It has no header, or no frames.
    #[error("the tap was made without IFF_TAP, IFF_NO_PI or IFF_VNET_HDR; make it with all three")]
    Flags,
    /// The tap has another header.
    #[error("the tap has a header of {0} bytes before each frame where {HEADER_BYTES} are needed")]
    Header(usize),
    /// The tap's settings.
    #[error("cannot set the tap up: {0}")]
    SetUp(#[source] io::Error),
    /// There was no descriptor for it.
    #[error("cannot make the timer of rate limits: {0}")]
    Timer(#[source] io::Error),
    /// Its thread.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// The device.
#[derive(Debug)]
pub struct Net {
    shared: Arc<Shared>,
    features: Features,
    thread: SessionThread<Option<NetQueues>>,
}

/// What the device and its thread share.
#[derive(Debug)]
struct Shared {
    link: Link,
    counters: NetCounters,
}

/// What the driver has set up.
#[derive(Debug)]
struct NetQueues {
    rx: ActiveQueue,
    tx: ActiveQueue,
    control: Option<ActiveQueue>,
    features: Features,
}

impl Net {
    /// A device on `frames`; `failures` hears why if its thread ends.
    pub fn new(spec: &NetSpec, frames: Frames, failures: FailureSink) -> Result<Self, NetError> {
        let tap = match frames {
            Frames::Stream(socket) => return Self::on(spec, Stream::new(socket), failures),
            Frames::Tap(tap) => LinuxTap::new(tap),
        };
        if !tap.has_headers().map_err(NetError::NoTap)? {
            return Err(NetError::Flags);
        }
        let header = tap.header_bytes().map_err(NetError::NoTap)?;
        if header != HEADER_BYTES {
            return Err(NetError::Header(header));
        }
        Self::on(spec, tap, failures)
    }

    fn on(spec: &NetSpec, tap: impl Tap, failures: FailureSink) -> Result<Self, NetError> {
        let set_up = NetError::SetUp;
        rustix::io::ioctl_fionbio(&tap, true).map_err(|errno| set_up(errno.into()))?;
        let offloads = match tap.set_offload(libc::TUN_F_CSUM | SEGMENTS_OF_UDP_FLAGS) {
            _ if !tap.has_offloads() => Offloads::None,
            Ok(()) => Offloads::WithUdp,
            Err(_) => Offloads::WithoutUdp,
        };
        tap.set_offload(0).map_err(set_up)?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(|errno| NetError::Timer(errno.into()))?;
        let shared = Arc::new(Shared { link: Link::new(spec), counters: NetCounters::default() });
        let (served, mut limits) = (Arc::clone(&shared), Limits::new(spec));
        let serve =
            move |queues: &mut _, stop: &_| worker::serve(&served, &tap, &timer, &mut limits, queues, stop);
        let thread = SessionThread::start("vmm-net", NAME, NET, failures, serve)?;
        let features = Features::offered(offloads, spec.mtu.is_some());
        Ok(Self { shared, features, thread })
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn features(&self) -> u64 {
        self.features.0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &ConfigSpace {
        self.shared.link.config()
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { queues, interrupt, features, .. } = activation;
        let found = queues.iter().flatten().count();
        let mut queues = queues.into_iter();
        let mut next = || queues.next().flatten();
        let (Some(rx), Some(tx), control) = (next(), next(), next()) else {
            return Err(ActivateError::Queues { expected: 2, found });
        };
        // It is the driver's choice.
        let control = control.filter(|_| features & 1 << VIRTIO_NET_F_CTRL_VQ != 0);
        let queues = NetQueues { rx, tx, control, features: Features(features) };
        self.thread.serve(Some(queues), interrupt)
    }

    fn suspend(&mut self) -> Option<Suspended> {
        let NetQueues { rx, tx, control, .. } = self.thread.stop()??;
        let state = DeviceState { device_type: VIRTIO_ID_NET, version: STATE_VERSION, bytes: Vec::new() };
        Some(Suspended { queues: [rx, tx].into_iter().chain(control).collect(), state: Ok(state) })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        if !state.of(NAME, VIRTIO_ID_NET, STATE_VERSION)?.is_empty() {
            return Err(StateError::Damaged(NAME));
        }
        // Switches still lead its address to where it was.
        self.shared.link.announce(true);
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.shared.counters.named()
    }

    fn change(&mut self, change: DeviceChange) -> Result<(), ChangeError> {
        let DeviceChange::Link(up) = change;
        self.shared.link.set(up);
        Ok(())
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) use worker::fuzz;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
mod test_tap;
#[cfg(test)]
mod tests;

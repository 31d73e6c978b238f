//! Packets between the queues and the muxer.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::DescriptorChain;
use virtio_vsock::packet::{PKT_HEADER_SIZE, VsockPacket};
use vmrun_spec::{HostPort, VsockSpec};

use super::header::Header;
use super::muxer::{Muxer, Token, Watch};
use super::{HOST_CID, MAX_PACKET_BYTES, NAME};
use crate::event_loop::{LoopError, LoopHandle, LoopWorker};
use crate::memory::Memory;
use crate::virtio::config_space::ConfigSpace;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::queue::{ActiveQueue, QueueError};
use crate::virtio::state::{DeviceState, StateError, Suspended};

/// Receive, transmit, event.
const QUEUE_SIZES: [u16; 3] = [256, 256, 8];

/// Tokens of the event loop: three queues, the listener, the timer, then the streams.
const RX_KICK: u32 = 0;
const TX_KICK: u32 = 1;
const EVENT_KICK: u32 = 2;
const LISTENER: u32 = 3;
const TIMER: u32 = 4;
const FIRST_STREAM: u32 = 5;

/// Why the device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// Context ids 0 to 2 are reserved (virtio 1.2, §5.10.4).
    #[error("the vsock context id {0} is reserved; the lowest free one is 3")]
    ReservedCid(u32),
    /// The socket could not be bound.
    #[error("cannot listen on the vsock socket {path}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There was no descriptor for it.
    #[error("cannot make the timer of vsock requests")]
    Timer(#[source] io::Error),
    /// What the guest shall reach cannot be served without waiting for it.
    #[error("cannot prepare the connection for the guest")]
    HostPort(#[source] io::Error),
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    events: LoopHandle,
    config: ConfigSpace,
    spec: VsockSpec,
    /// Bound at once, so that a client that comes early waits instead of failing, and for
    /// all activations: those come on a vCPU's thread, which may not make sockets.
    listener: Arc<UnixListener>,
    /// Likewise.
    timer: Arc<TimerFd>,
    /// Likewise, until the guest has connected to it.
    host_port: Arc<Mutex<Option<HostPort>>>,
    worker: Option<SubscriberId>,
}

impl Vsock {
    /// A device whose worker runs on `events`, and whose guest reaches `host_port`.
    pub fn new(
        spec: &VsockSpec,
        host_port: Option<HostPort>,
        events: LoopHandle,
    ) -> Result<Self, VsockError> {
        if u64::from(spec.cid) <= HOST_CID {
            return Err(VsockError::ReservedCid(spec.cid));
        }
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(|errno| VsockError::Timer(errno.into()))?;
        let listener = Arc::new(listen(spec)?);
        if let Some(HostPort { stream, .. }) = &host_port {
            stream.set_nonblocking(true).map_err(VsockError::HostPort)?;
        }
        Ok(Self {
            events,
            config: ConfigSpace::new(u64::from(spec.cid).to_le_bytes()),
            spec: spec.clone(),
            listener,
            timer: Arc::new(timer),
            host_port: Arc::new(Mutex::new(host_port)),
            worker: None,
        })
    }
}

fn listen(spec: &VsockSpec) -> Result<UnixListener, VsockError> {
    let bound = UnixListener::bind(&spec.socket)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(|source| {
        // The specification's may be relative to a directory that a reader does not know.
        let path = std::path::absolute(&spec.socket).unwrap_or_else(|_| spec.socket.clone());
        VsockError::Bind { path, source }
    })
}

impl Drop for Vsock {
    fn drop(&mut self) {
        // Whoever made the directory removes it too; a socket that is gone is fine.
        let _ = std::fs::remove_file(&self.spec.socket);
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let [rx, tx, event] = activation.take_queues()?;
        let muxer = Muxer::new(self.spec.cid, Arc::clone(&self.listener), Arc::clone(&self.host_port));
        let scratch = vec![0; usize::try_from(MAX_PACKET_BYTES).unwrap_or_default()].into_boxed_slice();
        let timer = Timer { descriptor: Arc::clone(&self.timer), armed: false };
        let worker = VsockWorker { rx, tx, event, muxer, timer, scratch, failed: false };
        self.worker = Some(self.events.add(Box::new(worker))?);
        Ok(())
    }

    fn suspend(&mut self) -> Option<Suspended> {
        // Fails only when the loop is gone, and the worker with it.
        self.events.remove(self.worker.take()?).ok()
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        state.is_nothing(NAME, VIRTIO_ID_VSOCK)
    }
}

struct VsockWorker {
    rx: ActiveQueue,
    tx: ActiveQueue,
    /// Never written to: the guest's context id does not change while it runs.
    event: ActiveQueue,
    muxer: Muxer,
    timer: Timer,
    /// Room for the data of one packet.
    scratch: Box<[u8]>,
    failed: bool,
}

/// Wakes the event loop when a client has waited long enough.
#[derive(Debug)]
struct Timer {
    descriptor: Arc<TimerFd>,
    armed: bool,
}

impl Timer {
    /// It has gone off, or has not: either way it is quiet now.
    fn clear(&mut self) -> io::Result<()> {
        self.descriptor.unset()?;
        self.armed = false;
        Ok(())
    }

    /// Makes it go off at `deadline`, unless it goes off before that anyway.
    fn arm(&mut self, deadline: Instant, now: Instant) -> io::Result<()> {
        if !self.armed {
            // Not zero, which would disarm it, and not before the deadline.
            let left = deadline.saturating_duration_since(now) + std::time::Duration::from_millis(1);
            let once = Expiration::OneShot(TimeSpec::from_duration(left));
            self.descriptor.set(once, TimerSetTimeFlags::empty())?;
            self.armed = true;
        }
        Ok(())
    }
}

impl MutEventSubscriber for VsockWorker {
    fn init(&mut self, ops: &mut EventOps) {
        // Told once of each client: one that cannot be taken yet would be an event without end.
        let set = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let listener = Events::with_data(self.muxer.listener(), LISTENER, set);
        let added = [
            ops.add(Events::with_data(self.rx.kick(), RX_KICK, EventSet::IN)),
            ops.add(Events::with_data(self.tx.kick(), TX_KICK, EventSet::IN)),
            ops.add(Events::with_data(self.event.kick(), EVENT_KICK, EventSet::IN)),
            ops.add(listener),
            ops.add(Events::with_data(&self.timer.descriptor.as_fd(), TIMER, EventSet::IN)),
        ];
        if let Some(error) = added.into_iter().find_map(Result::err) {
            self.rx.fail(NAME, &LoopError::from(error));
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let result = match events.data() {
            RX_KICK => {
                self.rx.clear_kick();
                Ok(())
            }
            TX_KICK => {
                self.tx.clear_kick();
                self.serve_transmit().map_err(WorkerError::from)
            }
            EVENT_KICK => {
                self.event.clear_kick();
                Ok(())
            }
            LISTENER => {
                self.muxer.clients_arrived();
                Ok(())
            }
            TIMER => self.expire(),
            stream => {
                self.stream_event(stream - FIRST_STREAM, events.event_set());
                Ok(())
            }
        };
        self.deliver(result, ops);
        // Behind all that may have freed a descriptor for them.
        if self.muxer.clients_wait() {
            let now = Instant::now();
            self.muxer.accept(now);
            let armed = self.arm(now);
            self.deliver(armed, ops);
        }
    }
}

impl LoopWorker for VsockWorker {
    fn suspend(self: Box<Self>) -> Suspended {
        // Connections are between processes of this host and the guest's.
        let state = if self.muxer.is_idle() {
            Ok(DeviceState::nothing(VIRTIO_ID_VSOCK))
        } else {
            Err(StateError::InUse(NAME))
        };
        Suspended { queues: vec![self.rx, self.tx, self.event], state }
    }
}

impl VsockWorker {
    /// Ends the requests whose time is over.
    fn expire(&mut self) -> Result<(), WorkerError> {
        self.timer.clear()?;
        let now = Instant::now();
        self.muxer.expire(now);
        self.arm(now)
    }

    fn arm(&mut self, now: Instant) -> Result<(), WorkerError> {
        if let Some(deadline) = self.muxer.next_deadline() {
            self.timer.arm(deadline, now)?;
        }
        Ok(())
    }

    /// Gives the guest what is due and the event loop its streams, unless the device has failed.
    fn deliver(&mut self, served: Result<(), WorkerError>, ops: &mut EventOps) {
        let result = if self.failed { Ok(()) } else { served.and_then(|()| Ok(self.fill_receive()?)) };
        if let Err(error) = result {
            self.failed = true;
            self.rx.fail(NAME, &error);
        }
        self.update_watches(ops);
    }

    fn stream_event(&mut self, token: Token, set: EventSet) {
        let readable = set.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        let hangup = set.intersects(EventSet::HANG_UP | EventSet::ERROR);
        self.muxer.host_event(token, readable, set.contains(EventSet::OUT), hangup);
    }

    /// Serves the guest's transmit queue.
    fn serve_transmit(&mut self) -> Result<(), QueueError> {
        let (muxer, scratch) = (&mut self.muxer, &mut self.scratch);
        self.tx.drain(|memory, chain| {
            match read_packet(memory, chain, scratch) {
                Packet::Whole(header, data) => muxer.guest_packet(&header, data),
                Packet::Short(header) => muxer.guest_nonsense(&header),
                Packet::NoHeader => return Err(QueueError::Nonsense("a vsock packet without a header")),
            }
            Ok(0)
        })
    }

    /// Fills the guest's buffers while there are both buffers and packets.
    fn fill_receive(&mut self) -> Result<(), QueueError> {
        let mut used = false;
        while self.muxer.has_packet() {
            let Some((memory, chain)) = self.rx.pop()? else {
                if self.rx.rearm()? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            match write_packet(&mut self.muxer, memory, chain)? {
                Some(length) => {
                    self.rx.push_used(head, length)?;
                    used = true;
                }
                // Nobody had anything after all. Whoever is due again is served at the next event.
                None => {
                    self.rx.undo_pop();
                    break;
                }
            }
        }
        if used { self.rx.notify() } else { Ok(()) }
    }

    fn update_watches(&mut self, ops: &mut EventOps) {
        let watches = self.muxer.take_watches();
        for watch in watches {
            match watch {
                Watch::Add(token) => {
                    let Some(stream) = self.muxer.stream(token) else { continue };
                    let set =
                        EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
                    let events = Events::with_data(stream, token.wrapping_add(FIRST_STREAM), set);
                    if ops.add(events).is_err() {
                        self.muxer.unwatched(token);
                    }
                }
                Watch::Remove(stream) => {
                    // A stream that was never watched is removed in vain.
                    let _ = ops.remove(Events::empty(&stream));
                }
            }
        }
    }
}

/// Why the device cannot go on.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("cannot set the timer of vsock requests: {0}")]
    Timer(#[from] io::Error),
}

/// What the guest put into a transmit chain.
enum Packet<'s> {
    Whole(Header, &'s [u8]),
    /// The chain ends before the data that the header announces, or it is too much.
    Short(Header),
    NoHeader,
}

/// Copies a packet out of guest memory, once, so that the guest cannot change
/// what was checked. The driver spreads large ones over many descriptors.
fn read_packet<'s>(memory: &Memory, chain: DescriptorChain<&Memory>, scratch: &'s mut [u8]) -> Packet<'s> {
    let mut bytes = [0; PKT_HEADER_SIZE];
    let Ok(mut reader) = chain.reader(memory) else { return Packet::NoHeader };
    if reader.read_exact(&mut bytes).is_err() {
        return Packet::NoHeader;
    }
    let header = Header::from_bytes(&bytes);
    let room = usize::try_from(header.len).ok().and_then(|length| scratch.get_mut(..length));
    let Some(data) = room else { return Packet::Short(header) };
    if reader.read_exact(data).is_ok() { Packet::Whole(header, data) } else { Packet::Short(header) }
}

/// Writes the next packet into the guest's buffer; `None` if there is none after all.
fn write_packet(
    muxer: &mut Muxer,
    memory: &Memory,
    mut chain: DescriptorChain<&Memory>,
) -> Result<Option<u32>, QueueError> {
    const NO_BUFFER: QueueError = QueueError::Nonsense("a vsock receive buffer that is none");
    let mut packet =
        VsockPacket::from_rx_virtq_chain(memory, &mut chain, MAX_PACKET_BYTES).map_err(|_| NO_BUFFER)?;
    // Without room no data would ever fit, and a connection that has some would be due for ever.
    let room = packet.data_slice().filter(|room| !room.is_empty()).ok_or(NO_BUFFER)?;
    let Some(header) = muxer.next_packet(room) else { return Ok(None) };
    packet.set_header_from_raw(&header.to_bytes()).map_err(|_| NO_BUFFER)?;
    let header_bytes = u32::try_from(PKT_HEADER_SIZE).map_err(|_| NO_BUFFER)?;
    Ok(Some(header_bytes.saturating_add(header.len)))
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;

//! Packets between the queues and the muxer.

use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::DescriptorChain;
use virtio_vsock::packet::{PKT_HEADER_SIZE, VsockPacket};
use vmrun_spec::VsockSpec;

use super::header::Header;
use super::muxer::{Muxer, Token, Watch};
use super::{HOST_CID, MAX_PACKET_BYTES};
use crate::event_loop::LoopHandle;
use crate::memory::Memory;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::queue::{ActiveQueue, QueueError};

/// Receive, transmit, event.
const QUEUE_SIZES: [u16; 3] = [256, 256, 8];

/// Tokens of the event loop: three queues, the listener, then the streams.
const RX_KICK: u32 = 0;
const TX_KICK: u32 = 1;
const EVENT_KICK: u32 = 2;
const LISTENER: u32 = 3;
const FIRST_STREAM: u32 = 4;

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
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    events: LoopHandle,
    config: [u8; 8],
    spec: VsockSpec,
    /// Bound at once, so that a client that comes early waits instead of failing, and for
    /// all activations: those come on a vCPU's thread, which may not make sockets.
    listener: Arc<UnixListener>,
    worker: Option<SubscriberId>,
}

impl Vsock {
    /// A device whose worker runs on `events`.
    pub fn new(spec: &VsockSpec, events: LoopHandle) -> Result<Self, VsockError> {
        if u64::from(spec.cid) <= HOST_CID {
            return Err(VsockError::ReservedCid(spec.cid));
        }
        let listener = Arc::new(listen(spec)?);
        Ok(Self {
            events,
            config: u64::from(spec.cid).to_le_bytes(),
            spec: spec.clone(),
            listener,
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

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let [rx, tx, event] = activation.take_queues()?;
        let muxer = Muxer::new(self.spec.cid, &self.spec.socket, Arc::clone(&self.listener));
        let scratch = vec![0; usize::try_from(MAX_PACKET_BYTES).unwrap_or_default()].into_boxed_slice();
        self.worker =
            Some(self.events.add(Box::new(VsockWorker { rx, tx, event, muxer, scratch, failed: false }))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            // Fails only when the loop is gone, and the worker with it.
            let _ = self.events.remove(worker);
        }
    }
}

struct VsockWorker {
    rx: ActiveQueue,
    tx: ActiveQueue,
    /// Never written to: the guest's context id does not change while it runs.
    event: ActiveQueue,
    muxer: Muxer,
    /// Room for the data of one packet.
    scratch: Box<[u8]>,
    failed: bool,
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
        ];
        if let Some(error) = added.into_iter().find_map(Result::err) {
            log::error!("virtio-vsock: cannot watch the device's events: {error}");
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
                self.serve_transmit()
            }
            EVENT_KICK => {
                self.event.clear_kick();
                Ok(())
            }
            LISTENER => {
                self.muxer.clients_arrived();
                Ok(())
            }
            stream => {
                self.stream_event(stream - FIRST_STREAM, events.event_set());
                Ok(())
            }
        };
        self.deliver(result, ops);
        // Behind all that may have freed a descriptor for them.
        if self.muxer.clients_wait() {
            self.muxer.accept();
            self.deliver(Ok(()), ops);
        }
    }
}

impl VsockWorker {
    /// Gives the guest what is due and the event loop its streams, unless a queue is broken.
    fn deliver(&mut self, served: Result<(), QueueError>, ops: &mut EventOps) {
        let result = if self.failed { Ok(()) } else { served.and_then(|()| self.fill_receive()) };
        if let Err(error) = result {
            self.failed = true;
            self.rx.fail("virtio-vsock", &error);
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
                Packet::NoHeader => log::debug!("virtio-vsock: dropped a packet without a header"),
            }
            0
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
            match write_packet(&mut self.muxer, memory, chain) {
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
        for watch in self.muxer.take_watches() {
            match watch {
                Watch::Add(token) => {
                    let Some(stream) = self.muxer.stream(token) else { continue };
                    let set =
                        EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
                    let events = Events::with_data(stream, token.wrapping_add(FIRST_STREAM), set);
                    if let Err(error) = ops.add(events) {
                        log::error!("virtio-vsock: cannot watch a connection: {error}");
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

/// Writes the next packet into the guest's buffer; `None` if there is none after
/// all. A buffer that is not one takes nothing and goes back to the guest.
fn write_packet(muxer: &mut Muxer, memory: &Memory, mut chain: DescriptorChain<&Memory>) -> Option<u32> {
    let mut packet = match VsockPacket::from_rx_virtq_chain(memory, &mut chain, MAX_PACKET_BYTES) {
        Ok(packet) => packet,
        Err(error) => {
            log::debug!("virtio-vsock: dropped a malformed receive buffer: {error}");
            return Some(0);
        }
    };
    let Some(room) = packet.data_slice().filter(|room| !room.is_empty()) else {
        // No data would ever fit, and a connection that has some would be due for ever.
        log::debug!("virtio-vsock: dropped a receive buffer without room for data");
        return Some(0);
    };
    let header = muxer.next_packet(room)?;
    if packet.set_header_from_raw(&header.to_bytes()).is_err() {
        return Some(0);
    }
    u32::try_from(PKT_HEADER_SIZE).ok()?.checked_add(header.len)
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;

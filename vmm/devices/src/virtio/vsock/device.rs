//! Packets between the queues and the muxer.

use std::io;
use std::path::PathBuf;

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
    /// Bound at once, so that a client that comes early waits instead of failing.
    muxer: Option<Muxer>,
    worker: Option<SubscriberId>,
}

impl Vsock {
    /// A device whose worker runs on `events`.
    pub fn new(spec: &VsockSpec, events: LoopHandle) -> Result<Self, VsockError> {
        if u64::from(spec.cid) <= HOST_CID {
            return Err(VsockError::ReservedCid(spec.cid));
        }
        let muxer = bind(spec)?;
        Ok(Self {
            events,
            config: u64::from(spec.cid).to_le_bytes(),
            spec: spec.clone(),
            muxer: Some(muxer),
            worker: None,
        })
    }
}

fn bind(spec: &VsockSpec) -> Result<Muxer, VsockError> {
    Muxer::bind(spec.cid, &spec.socket)
        .map_err(|source| VsockError::Bind { path: spec.socket.clone(), source })
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
        let muxer = match self.muxer.take() {
            Some(muxer) => muxer,
            None => bind(&self.spec).map_err(io::Error::other)?,
        };
        self.worker = Some(self.events.add(Box::new(VsockWorker { rx, tx, event, muxer, failed: false }))?);
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
    failed: bool,
}

impl MutEventSubscriber for VsockWorker {
    fn init(&mut self, ops: &mut EventOps) {
        let listener = Events::with_data(self.muxer.listener(), LISTENER, EventSet::IN);
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
                self.from_guest()
            }
            EVENT_KICK => {
                self.event.clear_kick();
                Ok(())
            }
            LISTENER => {
                self.muxer.accept();
                Ok(())
            }
            stream => {
                self.stream_event(stream - FIRST_STREAM, events.event_set());
                Ok(())
            }
        };
        let result = if self.failed { Ok(()) } else { result.and_then(|()| self.to_guest()) };
        if let Err(error) = result {
            self.failed = true;
            self.rx.fail("virtio-vsock", &error);
        }
        self.update_watches(ops);
    }
}

impl VsockWorker {
    fn stream_event(&mut self, token: Token, set: EventSet) {
        let readable = set.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        let hangup = set.intersects(EventSet::HANG_UP | EventSet::ERROR);
        self.muxer.host_event(token, readable, set.contains(EventSet::OUT), hangup);
    }

    fn from_guest(&mut self) -> Result<(), QueueError> {
        let muxer = &mut self.muxer;
        self.tx.drain(|memory, mut chain| {
            match VsockPacket::from_tx_virtq_chain(memory, &mut chain, MAX_PACKET_BYTES) {
                Ok(packet) => muxer.guest_packet(&Header::of(&packet), packet.data_slice()),
                Err(error) => log::debug!("virtio-vsock: dropped a malformed packet: {error}"),
            }
            0
        })
    }

    /// Fills the guest's buffers while there are both buffers and packets.
    fn to_guest(&mut self) -> Result<(), QueueError> {
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
                None => self.rx.undo_pop(),
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
    let header = muxer.next_packet(packet.data_slice())?;
    if packet.set_header_from_raw(&header.to_bytes()).is_err() {
        return Some(0);
    }
    u32::try_from(PKT_HEADER_SIZE).ok()?.checked_add(header.len)
}

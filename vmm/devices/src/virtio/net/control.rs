//! The control queue (virtio 1.2, §5.1.6.5): the driver says that it announces itself.

use std::io::{Read, Write};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use virtio_queue::DescriptorChain;

use super::link::Link;
use crate::memory::Memory;
use crate::virtio::queue::{ActiveQueue, QueueError};

/// Answers the commands that are there. One that is none, or has no room for its answer, gets none.
pub(super) fn serve(queue: &mut ActiveQueue, link: &Link) -> Result<(), QueueError> {
    queue.drain(|memory, chain| Ok(answer(memory, chain, link).unwrap_or(0)))
}

/// How many bytes were written.
fn answer(memory: &Memory, chain: DescriptorChain<&Memory>, link: &Link) -> Option<u32> {
    let mut command = [0; 2];
    chain.clone().reader(memory).ok()?.read_exact(&mut command).ok()?;
    let status = match command.map(u32::from) {
        [VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK] => {
            link.announce(false);
            VIRTIO_NET_OK
        }
        _ => VIRTIO_NET_ERR,
    };
    let mut writer = chain.writer(memory).ok()?;
    writer.write_all(&status.to_le_bytes()[..1]).ok()?;
    Some(1)
}

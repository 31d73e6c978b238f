//! What the driver is told of a disk (virtio 1.2, §5.2.3 and §5.2.4).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use vmrun_spec::DiskSpec;

use super::{QUEUE_SIZES, SECTOR_BYTES};

/// Pieces of one request's data: as many as there are descriptors beside those of header and status.
pub(super) const MAX_SEGMENTS: u32 = QUEUE_SIZES[0] as u32 - 2;

/// Bytes of one of them: with all of them a request is longer than any that Linux makes.
const MAX_SEGMENT_BYTES: u32 = 1 << 20;

/// What one discard takes: 1 GiB, of which a host makes a hole in a moment.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;

/// What one request fills with zeros: 64 MiB, for on some hosts they are written.
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 17;

/// Length of `struct virtio_blk_config` up to the fields that are offered.
const CONFIG_BYTES: usize = 60;

/// The features of the disk.
pub(super) fn features(spec: &DiskSpec) -> u64 {
    let always = [
        VIRTIO_BLK_F_SIZE_MAX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_TOPOLOGY,
    ];
    let others: &[u32] =
        if spec.read_only { &[VIRTIO_BLK_F_RO] } else { &[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES] };
    always.iter().chain(others).fold(0, |bits, feature| bits | 1 << feature)
}

/// Its configuration space.
pub(super) fn space(spec: &DiskSpec) -> Vec<u8> {
    let mut space = vec![0; CONFIG_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = space.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    let block = spec.block_bytes.max(512);
    let physical = spec.physical_block_bytes.max(block);
    put(0, &(spec.bytes / SECTOR_BYTES).to_le_bytes());
    put(8, &MAX_SEGMENT_BYTES.to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(20, &block.to_le_bytes());
    // Logical blocks in a physical one, as a power of two; the least that is worth a request is one physical block.
    let blocks = physical / block;
    put(24, &[u8::try_from(blocks.ilog2()).unwrap_or(0)]);
    put(26, &u16::try_from(blocks).unwrap_or(u16::MAX).to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &1u32.to_le_bytes());
    put(44, &(physical / 512).to_le_bytes());
    put(48, &MAX_ZERO_SECTORS.to_le_bytes());
    put(52, &1u32.to_le_bytes());
    // Zeros may be a hole.
    put(56, &[1]);
    space
}

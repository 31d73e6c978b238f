//! The type of guest memory.

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{GuestMemoryMmap, GuestRegionMmap};

/// Guest memory. The bitmap type is the one that the virtio-fs server's
/// descriptor readers are written for; without dirty logging it costs one
/// uncontended lock a write and no memory.
pub type Memory = GuestMemoryMmap<BitmapMmapRegion>;

/// One contiguous piece of guest memory.
pub type GuestRegion = GuestRegionMmap<BitmapMmapRegion>;

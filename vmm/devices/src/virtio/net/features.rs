//! What driver and device do for each other (virtio 1.2, §5.1.3).

use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO, TUN_F_USO4, TUN_F_USO6, c_uint};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};

/// What a tap is asked for that shall segment UDP; it wants both at once.
pub(super) const SEGMENTS_OF_UDP_FLAGS: c_uint = TUN_F_USO4 | TUN_F_USO6;

/// Of every device. That of sums and segments is the tap's, whose header the guest writes and reads itself.
const ALWAYS: [u32; 15] = [
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_STATUS,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_UFO,
];

/// Segmentation of UDP, which the tap of a Linux before 6.2 has not.
const SEGMENTS_OF_UDP: [u32; 3] = [VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6];

/// Feature bits of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features(pub(super) u64);

impl Features {
    /// What a device with such a tap offers.
    pub(super) fn offered(segments_of_udp: bool, mtu: bool) -> Self {
        let udp = SEGMENTS_OF_UDP.iter().filter(|_| segments_of_udp);
        let mtu = mtu.then_some(&VIRTIO_NET_F_MTU);
        Self(ALWAYS.iter().chain(udp).chain(mtu).fold(0, |bits, feature| bits | 1 << feature))
    }

    fn has(self, feature: u32) -> bool {
        self.0 & 1 << feature != 0
    }

    /// A frame may fill several buffers.
    pub(super) fn mergeable(self) -> bool {
        self.has(VIRTIO_NET_F_MRG_RXBUF)
    }

    /// What the tap may leave to a driver that took these: flags of `TUNSETOFFLOAD`.
    pub(super) fn offload(self) -> c_uint {
        // Without it nothing else is allowed (§5.1.3.1).
        if !self.has(VIRTIO_NET_F_GUEST_CSUM) {
            return 0;
        }
        let tso = self.has(VIRTIO_NET_F_GUEST_TSO4) || self.has(VIRTIO_NET_F_GUEST_TSO6);
        // The tap has them together or not at all.
        let uso = self.has(VIRTIO_NET_F_GUEST_USO4) && self.has(VIRTIO_NET_F_GUEST_USO6);
        [
            (self.has(VIRTIO_NET_F_GUEST_TSO4), TUN_F_TSO4),
            (self.has(VIRTIO_NET_F_GUEST_TSO6), TUN_F_TSO6),
            (tso && self.has(VIRTIO_NET_F_GUEST_ECN), TUN_F_TSO_ECN),
            (self.has(VIRTIO_NET_F_GUEST_UFO), TUN_F_UFO),
            (uso, SEGMENTS_OF_UDP_FLAGS),
        ]
        .into_iter()
        .filter(|(taken, _)| *taken)
        .fold(TUN_F_CSUM, |flags, (_, flag)| flags | flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(bits: &[u32]) -> Features {
        Features(bits.iter().fold(0, |bits, feature| bits | 1 << feature))
    }

    #[test]
    fn tap_leaves_to_the_driver_what_that_took_and_no_more() {
        let offload = |bits: &[u32]| features(bits).offload();
        assert_eq!(offload(&[VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_UFO]), 0);
        assert_eq!(offload(&[VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN]), TUN_F_CSUM);
        let bits = [VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN];
        assert_eq!(offload(&bits), TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN);
        assert_eq!(offload(&[VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_USO4]), TUN_F_CSUM);
        assert_eq!(Features::offered(true, true).offload(), 0x7f);
    }

    #[test]
    fn segments_of_udp_and_the_mtu_are_offered_where_they_are_there() {
        let [without, with] = [false, true].map(|there| Features::offered(there, there));
        for feature in SEGMENTS_OF_UDP.iter().chain([&VIRTIO_NET_F_MTU]) {
            assert!(with.has(*feature) && !without.has(*feature));
        }
        assert!(without.mergeable());
    }
}

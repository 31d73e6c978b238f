//! The packet header (virtio 1.2, §5.10.6) as plain data.

use virtio_vsock::packet::PKT_HEADER_SIZE;

/// What a packet is for (`enum virtio_vsock_op`).
pub(super) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// `VIRTIO_VSOCK_TYPE_STREAM`
pub(super) const TYPE_STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_RCV`: the sender receives no more.
pub(super) const SHUTDOWN_RCV: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_SEND`: the sender sends no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// A header, read once from guest memory or about to be written there once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) type_: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    /// The header as it came from the guest.
    pub(super) fn from_bytes(bytes: &[u8; PKT_HEADER_SIZE]) -> Self {
        let mut fields = bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(&mut fields)),
            dst_cid: u64::from_le_bytes(take(&mut fields)),
            src_port: u32::from_le_bytes(take(&mut fields)),
            dst_port: u32::from_le_bytes(take(&mut fields)),
            len: u32::from_le_bytes(take(&mut fields)),
            type_: u16::from_le_bytes(take(&mut fields)),
            op: u16::from_le_bytes(take(&mut fields)),
            flags: u32::from_le_bytes(take(&mut fields)),
            buf_alloc: u32::from_le_bytes(take(&mut fields)),
            fwd_cnt: u32::from_le_bytes(take(&mut fields)),
        }
    }

    /// The header as it lies in guest memory.
    pub(super) fn to_bytes(self) -> [u8; PKT_HEADER_SIZE] {
        let mut bytes = [0; PKT_HEADER_SIZE];
        let fields: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.type_.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        let all = fields.into_iter().flatten();
        for (byte, value) in bytes.iter_mut().zip(all) {
            *byte = *value;
        }
        bytes
    }
}

/// The next `N` bytes; zeros behind the end, which a whole header never reaches.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let Some((first, rest)) = bytes.split_first_chunk() else { return [0; N] };
    *bytes = rest;
    *first
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_header_survives_the_way_through_bytes(bytes in any::<[u8; 32]>(), more in any::<[u8; 12]>()) {
            let mut all = [0; PKT_HEADER_SIZE];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&more);
            prop_assert_eq!(Header::from_bytes(&all).to_bytes(), all);
        }
    }
}

//! Addresses of interfaces, from the kernel's words to the guest's description.

use std::net::IpAddr;

use vmrun_netlink::route::address::{AddressAttribute, AddressFlags, AddressMessage};
use vmrun_proto::{Address, Prefix};

/// `INFINITY_LIFE_TIME`.
const FOR_EVER: u32 = u32::MAX;

/// The kernel takes these from who sets an address; the others are its own findings.
const SETTABLE: AddressFlags = AddressFlags::Nodad
    .union(AddressFlags::Homeaddress)
    .union(AddressFlags::Noprefixroute)
    .union(AddressFlags::Mcautojoin);

/// An address, and what the kernel has made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) interface: u32,
    pub(super) address: Address,
    /// Another one of the same network was there before: its route is that one's.
    pub(super) secondary: bool,
}

/// None where the address is of another family, or was found to be somebody else's.
pub(super) fn look_at(message: &AddressMessage) -> Option<Found> {
    let mut local = None;
    let mut other = None;
    let mut address = Address {
        address: IpAddr::from([0, 0, 0, 0]),
        prefix: message.header.prefix_len,
        peer: None,
        broadcast: None,
        label: None,
        scope: message.header.scope.into(),
        flags: 0,
        priority: None,
        preferred_s: None,
        valid_s: None,
        protocol: 0,
    };
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            AddressAttribute::Broadcast(ip) => address.broadcast = Some(*ip),
            AddressAttribute::Label(label) => address.label = Some(label.clone()),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::RoutePriority(priority) => address.priority = Some(*priority),
            AddressAttribute::Protocol(protocol) => address.protocol = (*protocol).into(),
            AddressAttribute::CacheInfo(times) => {
                address.preferred_s = Some(times.ifa_preferred).filter(|seconds| *seconds != FOR_EVER);
                address.valid_s = Some(times.ifa_valid).filter(|seconds| *seconds != FOR_EVER);
            }
            _ => {}
        }
    }
    address.address = local.or(other)?;
    address.peer = other.filter(|other| *other != address.address);
    if flags.contains(AddressFlags::Dadfailed) {
        return None;
    }
    let mut kept = flags & SETTABLE;
    if address.address.is_ipv6() {
        // It was looked for on the host already, and a start does not wait for it twice.
        kept |= AddressFlags::Nodad;
    }
    address.flags = kept.bits();
    let secondary = address.address.is_ipv4() && flags.contains(AddressFlags::Secondary);
    Some(Found { interface: message.header.index, address, secondary })
}

impl Found {
    /// Every loopback has it.
    pub(super) fn is_loopbacks(&self) -> bool {
        matches!(
            (self.address.address, self.address.prefix),
            (IpAddr::V4(ip), 8) if ip.octets() == [127, 0, 0, 1]
        ) || matches!((self.address.address, self.address.prefix), (IpAddr::V6(ip), 128) if ip.is_loopback())
    }

    /// The network whose route the kernel makes for the address; none where it makes none.
    pub(super) fn network(&self) -> Option<Prefix> {
        if self.secondary || self.address.flags & AddressFlags::Noprefixroute.bits() != 0 {
            return None;
        }
        let of = self.address.peer.unwrap_or(self.address.address);
        if of.is_ipv4() && self.address.prefix == 32 && self.address.peer.is_none() {
            return None;
        }
        Some(masked(of, self.address.prefix))
    }

    /// The kernel is not to make that route.
    pub(super) fn without_route(&mut self) {
        self.address.flags |= AddressFlags::Noprefixroute.bits();
    }
}

/// A network's address.
pub(super) fn masked(address: IpAddr, bits: u8) -> Prefix {
    let address = match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::from((u32::from(ip) & mask).to_be_bytes())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::from((u128::from(ip) & mask).to_be_bytes())
        }
    };
    Prefix { address, bits }
}

//! The network of a sandbox that stands alone: a card with passt behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vmrun_proto::{Address, Hop, Interface, Network, NetworkDevice, Prefix, Route};
use vmrun_spec::{Frames, NicSlot, UserNetwork};

use super::error::NetworkError;
use super::passt::{self, Families, GATEWAY_V4, GATEWAY_V6, GUEST_V4, GUEST_V6, Passt, PasstError};
use super::slots::Slots;
use crate::agent_client::Watch;

const NAME: &str = "eth0";

/// The guest's hardware address, locally administered. Nobody but passt sees it.
const MAC: [u8; 6] = [0x02, 0x76, 0x6d, 0x72, 0x75, 0x01];

/// passt's own default, the most that an IPv4 packet can have: it goes no further than passt.
const MTU: u32 = 65520;

/// `RT_TABLE_MAIN`, `RTPROT_STATIC`, `RT_SCOPE_UNIVERSE`, `RTN_UNICAST`, `IFA_F_NODAD | IFA_F_PERMANENT`.
const MAIN: u32 = 254;
const STATIC: u8 = 4;
const UNIVERSE: u8 = 0;
const UNICAST: u8 = 1;
const NO_DAD: u32 = 0x82;

/// All that the interface has is said here, and nobody else is on the link: the guest listens to no
/// router and probes for no address. A probe comes from the unspecified address, which passt of 2023
/// (`tap6_handler`; later ones pass over it) then takes for the guest's own: connections to published
/// ports are reset.
const SETTINGS: [(&str, i32); 3] = [("ipv6/accept_dad", 0), ("ipv6/accept_ra", 0), ("ipv6/autoconf", 0)];

/// passt, and the card that waits for its slot.
#[derive(Debug)]
pub(crate) struct Alone {
    passt: Passt,
    socket: OwnedFd,
}

/// passt, and the slot of the card that it is behind. Both go with this value.
pub(crate) struct Connected {
    passt: Passt,
    slot: NicSlot,
    slots: Arc<dyn Slots>,
}

impl Alone {
    /// Starts passt in the caller's network, and leaves that.
    pub(crate) fn begin(network: &UserNetwork) -> Result<Self, PasstError> {
        let (passt, socket) = passt::start(network)?;
        Ok(Self { passt, socket })
    }

    /// Waits until passt is ready, and plugs the card in. Gives what the guest is told.
    pub(crate) fn connect(
        mut self,
        slots: Arc<dyn Slots>,
        watch: Watch<'_>,
    ) -> Result<(Connected, Network), ConnectError> {
        self.passt.ready(watch)?;
        let families = self.passt.families;
        // There is one: this card is the only one.
        let slot = NicSlot::all().next().ok_or_else(|| plug_error("the machine has no slots".to_owned()))?;
        slots.plug(slot, NAME, MAC, Frames::Stream(self.socket)).map_err(plug_error)?;
        Ok((Connected { passt: self.passt, slot, slots }, network(slot, families)))
    }
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Passt(#[from] PasstError),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

fn plug_error(cause: String) -> NetworkError {
    NetworkError::Plug { interface: NAME.to_owned(), cause }
}

/// Readable once passt has ended.
impl AsFd for Connected {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.passt.as_fd()
    }
}

impl Drop for Connected {
    /// Takes the card out, by which passt ends, and waits for that: nothing is left when the sandbox is gone.
    fn drop(&mut self) {
        if let Err(cause) = self.slots.unplug(self.slot) {
            crate::log::warn(&format!("cannot unplug the network card of {NAME}: {cause}"));
        }
        if let Err(error) = self.passt.end() {
            crate::log::warn(&format!("cannot end passt: {error}"));
        }
    }
}

fn network(slot: NicSlot, families: Families) -> Network {
    let mut addresses = vec![address(GUEST_V4.0, GUEST_V4.1)];
    let mut routes = vec![default_route(Prefix { address: [0; 4].into(), bits: 0 }, GATEWAY_V4.into())];
    if families.v6 {
        addresses.push(address(GUEST_V6.0, GUEST_V6.1));
        routes.push(default_route(Prefix { address: [0u16; 8].into(), bits: 0 }, GATEWAY_V6.into()));
    }
    let device = NetworkDevice::Card { device: slot.device(), announcement: slot.announcement() };
    let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value)).into();
    let interface =
        Interface { mac: Some(MAC), mtu: MTU, addresses, settings, ..Interface::new(NAME, device) };
    Network { interfaces: vec![interface], routes, ..Network::default() }
}

fn address(address: impl Into<std::net::IpAddr>, prefix: u8) -> Address {
    Address {
        address: address.into(),
        prefix,
        peer: None,
        broadcast: None,
        label: None,
        scope: UNIVERSE,
        flags: NO_DAD,
        priority: None,
        preferred_s: None,
        valid_s: None,
        protocol: 0,
    }
}

fn default_route(destination: Prefix, gateway: std::net::IpAddr) -> Route {
    Route {
        destination,
        source: None,
        tos: 0,
        table: MAIN,
        protocol: STATIC,
        scope: UNIVERSE,
        kind: UNICAST,
        priority: None,
        preferred_source: None,
        preference: None,
        metrics: Default::default(),
        expires_s: None,
        hops: vec![Hop { interface: Some(NAME.to_owned()), gateway: Some(gateway), ..Hop::default() }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_has_the_addresses_of_the_families_that_lead_out() {
        let slot = NicSlot::new(0).unwrap();
        let both = network(slot, Families { v4: true, v6: true });
        assert_eq!((both.interfaces[0].addresses.len(), both.routes.len()), (2, 2));
        assert!(SETTINGS.iter().all(|(name, _)| both.interfaces[0].settings[*name] == 0));
        let one = network(slot, Families { v4: true, v6: false });
        assert_eq!((one.interfaces[0].addresses.len(), one.routes.len()), (1, 1));
        assert!(one.interfaces[0].addresses.iter().all(|address| address.address.is_ipv4()));
    }
}

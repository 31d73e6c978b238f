//! Doing the steps from one network to another, in the container's namespace.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use vmrun_netlink::core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use vmrun_netlink::{Change as Message, Netlink};
use vmrun_proto::{Address, Interface, Network, NetworkDevice, Route};

use super::difference::{Change, difference, kept};
use super::wait::{FLAGS_AT, Heard, INDEX_AT, Listener};
use super::{advertised, messages, netfilter, settings};
use crate::late_device;

/// `IPV6_MIN_MTU`
const LEAST_IPV6_MTU: u32 = 1280;

/// IPv6 makes no address of its own accord.
const NO_ADDRESSES: u8 = 1;

/// For how long it is waited until interfaces can send. What the kernel does at once takes no longer than the first,
/// unless the host stands still; where requests of others wait meanwhile, all interfaces together have the second.
const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_secs(1);

/// Who waits until interfaces can send.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiting {
    /// The container's start alone, which goes wrong without.
    Start,
    /// Everybody who asks the agent for something. What is not ready by then will be later.
    Everybody,
}

/// The sockets with which interfaces are set up in the container's namespace.
#[derive(Debug)]
pub(super) struct Hand {
    netlink: RefCell<Netlink>,
    changing: RefCell<Listener>,
    /// The interfaces' numbers, as far as they have been asked for.
    indexes: RefCell<BTreeMap<String, u32>>,
    /// Settings of new interfaces may be others than the kernel's.
    has_other_defaults: bool,
    /// When others shall have waited for long enough, if there are any.
    others_wait_until: Option<Instant>,
}

impl Hand {
    /// In the namespace in which the thread is.
    pub(super) fn reach(waiting: Waiting) -> io::Result<Self> {
        Ok(Self {
            netlink: RefCell::new(Netlink::open()?),
            changing: RefCell::new(Listener::open()?),
            indexes: RefCell::default(),
            has_other_defaults: false,
            others_wait_until: match waiting {
                Waiting::Start => None,
                Waiting::Everybody => Some(Instant::now() + SHORT),
            },
        })
    }

    /// Goes from one network to the other as far as it can; says what failed first, and what there
    /// is now.
    pub(super) fn go(&mut self, old: &Network, new: &Network) -> (Network, Result<(), String>) {
        let mut result = settings::apply_all(&old.settings, &new.settings);
        // New interfaces have what was written for all of them.
        self.has_other_defaults = !new.settings.is_empty();
        let (old, new) = (&with_loopback(old), &with_loopback(new));
        if old.settings != new.settings {
            // What is written for all interfaces is written to those that are there.
            for interface in old.interfaces.iter().filter_map(|one| kept(old, new, one)) {
                result = result.and(settings::apply(interface, &settings::unlike(&interface.settings)));
            }
        }
        let mut reached = new.clone();
        let mut wanted = new.clone();
        advertised::keep(old, &mut wanted);
        let changes = difference(old, &wanted);
        for changes in changes.chunk_by(|one, next| !is_of_an_interface(one) && !is_of_an_interface(next)) {
            let results = match changes {
                [change] if is_of_an_interface(change) => vec![self.carry_out(*change)],
                changes => self.ask_for(changes, &reached),
            };
            for (change, failure) in changes.iter().zip(results) {
                if let Err(error) = failure {
                    forget(&mut reached, *change);
                    result = result.and(Err(error));
                }
            }
        }
        reached.interfaces.retain(|interface| *interface != loopback());
        let (tables, followed) = netfilter::follow(&old.tables, &new.tables);
        reached.tables = tables;
        (reached, result.and(followed))
    }

    /// Namespaces may have hundreds of addresses and routes: each alone would cost more in words with
    /// the kernel than in work.
    fn ask_for(&self, changes: &[Change<'_>], reached: &Network) -> Vec<Result<(), String>> {
        let mut messages = Vec::new();
        let mut sent = Vec::new();
        for change in changes {
            // What there is nothing to be asked for is done.
            let message = self.message(*change, reached);
            sent.push(message.map(|message| message.map(|message| messages.push(message)).is_some()));
        }
        let mut said = match self.netlink.borrow_mut().change_all(messages) {
            Ok(said) => said.into_iter(),
            Err(error) => {
                let error = format!("cannot change the network: {}", words(&error));
                return sent.into_iter().map(|_| Err(error.clone())).collect();
            }
        };
        let results = changes.iter().zip(sent).map(|(change, sent)| match sent? {
            true => said.next().map_or(Ok(()), |said| judged(*change, self.insist(*change, said))),
            false => Ok(()),
        });
        results.collect()
    }

    /// A route that the host has may lead to a router of which no other one tells any more. The kernel takes it
    /// where it is said that the router is there.
    fn insist(&self, change: Change<'_>, said: io::Result<()>) -> io::Result<()> {
        const NO_WAY: [Errno; 3] = [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EINVAL];
        let (Change::AddRoute(route), Err(error)) = (change, &said) else { return said };
        let Some(route) = onlink(route).filter(|_| NO_WAY.iter().any(|errno| is(error, *errno))) else {
            return said;
        };
        match messages::route(&route, &|name| self.index_of(name)) {
            Ok(message) => {
                self.inside(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_APPEND).or(said)
            }
            Err(_) => said,
        }
    }

    /// What the kernel is to be asked for.
    fn message(&self, change: Change<'_>, reached: &Network) -> Result<Option<Message>, String> {
        let replace = NLM_F_CREATE | NLM_F_REPLACE;
        Ok(Some(match change {
            Change::FinishInterface(interface) if is_there(reached, interface) => {
                let Some(mode) = interface.address_mode.filter(|mode| *mode != NO_ADDRESSES) else {
                    return Ok(None);
                };
                (messages::address_mode(self.index_of(&interface.name)?, mode), 0)
            }
            Change::AddAddress(interface, address) if is_there(reached, interface) => {
                let message = messages::address(self.index_of(&interface.name)?, address);
                (RouteNetlinkMessage::NewAddress(message), replace)
            }
            // Why it is not there has been said.
            Change::FinishInterface(_) | Change::AddAddress(..) => return Ok(None),
            Change::RemoveAddress(interface, address) => {
                let Ok(index) = self.index_of(&interface.name) else { return Ok(None) };
                (RouteNetlinkMessage::DelAddress(messages::address(index, address)), 0)
            }
            Change::AddNeighbour(neighbour) => {
                let message = messages::neighbour(self.index_of(&neighbour.interface)?, neighbour);
                (RouteNetlinkMessage::NewNeighbour(message), replace)
            }
            Change::RemoveNeighbour(neighbour) => {
                let Ok(index) = self.index_of(&neighbour.interface) else { return Ok(None) };
                (RouteNetlinkMessage::DelNeighbour(messages::neighbour(index, neighbour)), 0)
            }
            Change::AddRoute(route) => {
                let message = messages::route(route, &|name| self.index_of(name))?;
                (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_APPEND)
            }
            Change::RemoveRoute(route) => {
                // With its interface it is gone, too.
                let Ok(message) = messages::route(route, &|name| self.index_of(name)) else {
                    return Ok(None);
                };
                (RouteNetlinkMessage::DelRoute(message), 0)
            }
            Change::AddRule(rule) => (RouteNetlinkMessage::NewRule(messages::rule(rule)), NLM_F_CREATE),
            Change::RemoveRule(rule) => (RouteNetlinkMessage::DelRule(messages::rule(rule)), 0),
            Change::AddInterface(_) | Change::SetInterface(..) | Change::RemoveInterface(_) => {
                return Ok(None);
            }
        }))
    }

    fn carry_out(&mut self, change: Change<'_>) -> Result<(), String> {
        match change {
            Change::AddInterface(interface) => self.add(interface),
            Change::SetInterface(before, interface) => self.set(before, interface),
            Change::RemoveInterface(interface) => self.remove(interface),
            _ => Ok(()),
        }
    }

    fn add(&mut self, interface: &Interface) -> Result<(), String> {
        self.indexes.borrow_mut().remove(&interface.name);
        let made = match &interface.device {
            NetworkDevice::Loopback => Ok(()),
            NetworkDevice::Card { device, announcement } => self.fetch(device, announcement, interface),
            NetworkDevice::Vlan { parent, id, protocol } => self.make_vlan(interface, parent, *id, *protocol),
        };
        made.and_then(|()| self.switch_on(interface)).inspect_err(|_| {
            // It is tried anew with the next description.
            let _ = self.remove(interface);
        })
    }

    /// Has a card's interface appear in the container's namespace, under its name there.
    fn fetch(&mut self, device: &str, announcement: &str, interface: &Interface) -> Result<(), String> {
        let about = |error: String| format!("{}: {error}", interface.name);
        let virtio = late_device::bind(device, announcement)
            .map_err(|error| about(format!("cannot bind the network card at {device}: {error}")))?;
        let card = self.card(&virtio).map_err(|error| {
            about(format!("the network card at {device} has not become an interface: {}", words(&error)))
        })?;
        if let Some(message) = identity(&card, interface) {
            self.link(message, &format!("make {} into", card.name), interface)?;
        }
        self.indexes.borrow_mut().insert(interface.name.clone(), card.index);
        Ok(())
    }

    /// The interface that a virtio device is. The kernel has told of it when it appeared.
    fn card(&self, virtio: &str) -> io::Result<Heard> {
        if let Some(heard) = self.changing.borrow_mut().on_device(virtio)? {
            return Ok(heard.clone());
        }
        let mut all = LinkMessage::default();
        all.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let links = self.netlink.borrow_mut().dump(&RouteNetlinkMessage::GetLink(all))?;
        let mut links = links.iter().filter_map(Heard::of);
        let found = links.find(|link| link.device.as_deref() == Some(virtio));
        found.ok_or_else(|| io::Error::from(Errno::ENODEV))
    }

    fn make_vlan(&self, interface: &Interface, parent: &str, id: u16, protocol: u16) -> Result<(), String> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(interface.name.clone()),
            LinkAttribute::Link(self.index_of(parent)?),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id), InfoVlan::Protocol(protocol.into())])),
            ]),
        ];
        message.attributes.extend(interface.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        self.inside(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE).map_err(|error| {
            format!("cannot make {}, VLAN {id} of {parent}: {}", interface.name, words(&error))
        })
    }

    /// Sets what counts before there are addresses, and switches it on.
    fn switch_on(&self, interface: &Interface) -> Result<(), String> {
        if interface.device == NetworkDevice::Loopback {
            return Ok(());
        }
        let index = self.index_of(&interface.name)?;
        if interface.address_mode.is_some() {
            let silent = self.inside(messages::address_mode(index, NO_ADDRESSES), 0);
            judged(Change::FinishInterface(interface), silent)?;
        }
        settings::apply(interface, &self.before(interface))?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.extend((interface.mtu > 0).then_some(LinkAttribute::Mtu(interface.mtu)));
        set_flags(&mut message, interface);
        self.link(message, "switch on", interface)?;
        self.await_carrier(interface, index)
    }

    /// What settings a new interface may have.
    fn before(&self, interface: &Interface) -> BTreeMap<String, i32> {
        if self.has_other_defaults { settings::unlike(&interface.settings) } else { BTreeMap::new() }
    }

    fn set(&self, before: &Interface, interface: &Interface) -> Result<(), String> {
        settings::apply(interface, &before.settings)?;
        if interface.device == NetworkDevice::Loopback {
            return Ok(());
        }
        let index = self.index_of(&interface.name)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(mac) = interface.mac.filter(|mac| before.mac != Some(*mac)) {
            message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        }
        if interface.mtu > 0 && interface.mtu != before.mtu {
            message.attributes.push(LinkAttribute::Mtu(interface.mtu));
        }
        set_flags(&mut message, interface);
        self.link(message, "change", interface)?;
        if before.mtu < LEAST_IPV6_MTU && interface.mtu >= LEAST_IPV6_MTU {
            // It has IPv6 from now on, with the kernel's settings.
            settings::apply(interface, &settings::unlike(&interface.settings))?;
            let mode = interface.address_mode.map(|mode| self.inside(messages::address_mode(index, mode), 0));
            judged(Change::FinishInterface(interface), mode.unwrap_or(Ok(())))?;
        }
        self.await_carrier(interface, index)
    }

    fn inside(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.netlink.borrow_mut().change(message, flags)
    }

    /// The four bytes of its message that are at `range`.
    fn look(&self, link: LinkMessage, range: Range<usize>) -> io::Result<u32> {
        let answers = self.netlink.borrow_mut().get(RouteNetlinkMessage::GetLink(link))?;
        Ok(answers.first().and_then(|answer| answer.number(range)).unwrap_or_default())
    }

    fn index_of(&self, name: &str) -> Result<u32, String> {
        if let Some(index) = self.indexes.borrow().get(name) {
            return Ok(*index);
        }
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let index = self
            .look(link, INDEX_AT)
            .map_err(|error| format!("the interface {name} is not there: {}", words(&error)))?;
        self.indexes.borrow_mut().insert(name.to_owned(), index);
        Ok(index)
    }

    fn link(&self, message: LinkMessage, act: &str, interface: &Interface) -> Result<(), String> {
        self.inside(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|error| format!("cannot {act} {}: {}", interface.name, words(&error)))
    }

    /// Before that nothing would be sent.
    fn await_carrier(&self, interface: &Interface, index: u32) -> Result<(), String> {
        if !interface.up || !interface.carrier {
            return Ok(());
        }
        let what = || format!("{} to be able to send", interface.name);
        let deadline = self.others_wait_until.unwrap_or_else(|| Instant::now() + LIMIT);
        let sends = self.changing.borrow_mut().until(&what, deadline, |listener| {
            let flags = match listener.of(index) {
                Some(heard) => heard.flags,
                None => self.flags(interface, index)?,
            };
            Ok(flags.contains(LinkFlags::Running).then_some(()))
        })?;
        if sends.is_none() && self.others_wait_until.is_none() {
            return Err(format!("timed out after {} s waiting for {}", LIMIT.as_secs(), what()));
        }
        Ok(())
    }

    fn flags(&self, interface: &Interface, index: u32) -> Result<LinkFlags, String> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let flags = self.look(link, FLAGS_AT);
        flags
            .map(LinkFlags::from_bits_retain)
            .map_err(|error| format!("cannot look at {}: {}", interface.name, words(&error)))
    }

    fn remove(&self, interface: &Interface) -> Result<(), String> {
        match &interface.device {
            NetworkDevice::Loopback => return Ok(()),
            NetworkDevice::Card { device, .. } => {
                return unless(Errno::ENODEV, late_device::unbind(device))
                    .map_err(|error| format!("cannot take {} away: {}", interface.name, words(&error)));
            }
            NetworkDevice::Vlan { .. } => {}
        }
        let Ok(index) = self.index_of(&interface.name) else { return Ok(()) };
        self.indexes.borrow_mut().remove(&interface.name);
        let mut message = LinkMessage::default();
        message.header.index = index;
        unless_gone(self.inside(RouteNetlinkMessage::DelLink(message), 0))
            .map_err(|error| format!("cannot remove {}: {}", interface.name, words(&error)))
    }
}

/// What makes a card's interface the one that is wanted; none where it is that. The card has the address of the time
/// when it was plugged in, and the interface may have got another name and another address since.
fn identity(card: &Heard, wanted: &Interface) -> Option<LinkMessage> {
    let mut message = LinkMessage::default();
    message.header.index = card.index;
    let mac = wanted.mac.filter(|mac| card.mac != Some(*mac));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    if card.name != wanted.name {
        message.attributes.push(LinkAttribute::IfName(wanted.name.clone()));
    }
    (!message.attributes.is_empty()).then_some(message)
}

fn loopback() -> Interface {
    Interface::new("lo", NetworkDevice::Loopback)
}

/// Every namespace has it, also where there is nothing to say of it.
fn with_loopback(network: &Network) -> Network {
    let mut network = network.clone();
    if !network.interfaces.iter().any(|interface| interface.device == NetworkDevice::Loopback) {
        network.interfaces.insert(0, loopback());
    }
    network
}

/// Takes out what could not be added or changed, so that it is tried again with the next description.
fn forget(reached: &mut Network, change: Change<'_>) {
    match change {
        Change::AddInterface(interface) => reached.interfaces.retain(|one| one.name != interface.name),
        Change::AddAddress(interface, address) => {
            let mut interfaces = reached.interfaces.iter_mut();
            if let Some(one) = interfaces.find(|one| one.name == interface.name) {
                one.addresses.retain(|one| one != address);
            }
        }
        Change::AddNeighbour(neighbour) => reached.neighbours.retain(|one| one != neighbour),
        Change::AddRoute(route) => reached.routes.retain(|one| one != route),
        Change::AddRule(rule) => {
            let count = reached.rules.len();
            reached.rules.retain(|one| one != rule);
            if reached.rules.len() == count {
                reached.missing_rules.push(rule.clone());
            }
        }
        Change::RemoveRule(rule) => reached.missing_rules.retain(|one| one != rule),
        Change::SetInterface(before, interface) => {
            let mut interfaces = reached.interfaces.iter_mut();
            if let Some(one) = interfaces.find(|one| one.name == interface.name) {
                *one = Interface { addresses: std::mem::take(&mut one.addresses), ..before.clone() };
            }
        }
        _ => {}
    }
}

fn is_of_an_interface(change: &Change<'_>) -> bool {
    matches!(change, Change::AddInterface(_) | Change::SetInterface(..) | Change::RemoveInterface(_))
}

/// What comes of what the kernel says of a change.
fn judged(change: Change<'_>, said: io::Result<()>) -> Result<(), String> {
    let (said, what) = match change {
        Change::AddAddress(interface, address) => {
            (unless(Errno::EEXIST, said), format!("give {} the address {}", interface.name, shown(address)))
        }
        Change::RemoveAddress(interface, address) => {
            (unless_gone(said), format!("take the address {} from {}", shown(address), interface.name))
        }
        // With an MTU that is too small for it an interface has no IPv6.
        Change::FinishInterface(interface) => {
            (unless(Errno::EAFNOSUPPORT, said), format!("set how IPv6 makes addresses of {}", interface.name))
        }
        Change::AddNeighbour(neighbour) => (said, format!("set the neighbour {}", neighbour.address)),
        Change::RemoveNeighbour(neighbour) => {
            (unless_gone(said), format!("remove the neighbour {}", neighbour.address))
        }
        Change::AddRoute(route) => {
            (unless(Errno::EEXIST, said), format!("add the route {}", route_shown(route)))
        }
        Change::RemoveRoute(route) => (unless_gone(said), format!("remove the route {}", route_shown(route))),
        Change::AddRule(rule) => {
            (unless(Errno::EEXIST, said), format!("add the routing rule of priority {}", rule.priority))
        }
        Change::RemoveRule(rule) => {
            (unless_gone(said), format!("remove the routing rule of priority {}", rule.priority))
        }
        Change::AddInterface(interface)
        | Change::SetInterface(_, interface)
        | Change::RemoveInterface(interface) => (said, format!("change {}", interface.name)),
    };
    said.map_err(|error| format!("cannot {what}: {}", words(&error)))
}

fn is_there(reached: &Network, interface: &Interface) -> bool {
    reached.interfaces.iter().any(|one| one.name == interface.name)
}

fn set_flags(message: &mut LinkMessage, interface: &Interface) {
    message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
    message.header.flags.set(LinkFlags::Up, interface.up);
    message.header.flags.set(LinkFlags::Noarp, interface.noarp);
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn unless(known: Errno, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is(&error, known) => Ok(()),
        other => other,
    }
}

/// The route with routers that are there whatever other routes say; none if that is said already.
fn onlink(route: &Route) -> Option<Route> {
    let mut route = route.clone();
    let mut changed = false;
    for hop in route.hops.iter_mut().filter(|hop| hop.gateway.is_some() && !hop.onlink) {
        (hop.onlink, changed) = (true, true);
    }
    changed.then_some(route)
}

/// The container may have removed it before.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    [Errno::ENOENT, Errno::ESRCH, Errno::ENODEV, Errno::EADDRNOTAVAIL]
        .into_iter()
        .fold(result, |result, errno| unless(errno, result))
}

fn shown(address: &Address) -> String {
    format!("{}/{}", address.address, address.prefix)
}

fn route_shown(route: &Route) -> String {
    let mut text = format!("{}/{}", route.destination.address, route.destination.bits);
    if let Some(gateway) = route.hops.iter().find_map(|hop| hop.gateway) {
        text.push_str(&format!(" via {gateway}"));
    }
    if let Some(interface) = route.hops.iter().find_map(|hop| hop.interface.as_deref()) {
        text.push_str(&format!(" dev {interface}"));
    }
    if route.table != 254 {
        text.push_str(&format!(" table {}", route.table));
    }
    text
}

/// The system's words without its number.
pub(super) fn words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_gets_the_name_and_the_address_that_it_does_not_have() {
        let (old, new) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let device = NetworkDevice::Card { device: "virtio-mmio.7".into(), announcement: String::new() };
        let wanted = Interface { mac: Some(new), ..Interface::new("eth0", device) };
        let card = |name: &str, mac| {
            let flags = LinkFlags::empty();
            let card = Heard { index: 3, name: name.to_owned(), mac, device: None, flags };
            identity(&card, &wanted).map(|message| message.attributes)
        };
        let address = LinkAttribute::Address(new.to_vec());
        let name = LinkAttribute::IfName("eth0".to_owned());
        assert_eq!(card("eth0", Some(new)), None);
        assert_eq!(card("eth7", Some(new)), Some(vec![name.clone()]));
        assert_eq!(card("eth0", Some(old)), Some(vec![address.clone()]));
        assert_eq!(card("eth7", None), Some(vec![address, name]));
    }
}

//! Doing the steps from one network to another, in the container's namespace.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use vmrun_netlink::Netlink;
use vmrun_netlink::core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use vmrun_proto::{Address, Interface, Network, NetworkDevice};

use super::difference::{Change, difference};
use super::wait::Listener;
use super::{messages, netfilter, nic};
use crate::sys;

/// IPv6 makes no address of its own accord.
const NO_ADDRESSES: u8 = 1;

/// Where an interface's number and its flags are in the body of its message (`struct ifinfomsg`).
const INDEX_AT: Range<usize> = 4..8;
const FLAGS_AT: Range<usize> = 8..12;

/// The sockets with which interfaces get from the agent's namespace, where they appear, to the
/// container's, and are set up there.
#[derive(Debug)]
pub(super) struct Hand<'n> {
    outside: Netlink,
    appearing: Listener,
    inside: RefCell<Netlink>,
    changing: RefCell<Listener>,
    namespace: BorrowedFd<'n>,
    /// The interfaces' numbers, as far as they have been asked for and none has come or gone since.
    indexes: RefCell<BTreeMap<String, u32>>,
}

/// The half that is opened in the agent's own namespace.
#[derive(Debug)]
pub(super) struct Outside {
    netlink: Netlink,
    listener: Listener,
}

impl Outside {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, listener: Listener::open()? })
    }
}

impl<'n> Hand<'n> {
    /// The thread is in `namespace` by now.
    pub(super) fn reach(outside: Outside, namespace: BorrowedFd<'n>) -> io::Result<Self> {
        Ok(Self {
            outside: outside.netlink,
            appearing: outside.listener,
            inside: RefCell::new(Netlink::open()?),
            changing: RefCell::new(Listener::open()?),
            namespace,
            indexes: RefCell::default(),
        })
    }

    /// Goes from one network to the other as far as it can; says what failed first, and what there
    /// is now.
    pub(super) fn go(&mut self, old: &Network, new: &Network) -> (Network, Result<(), String>) {
        let mut reached = new.clone();
        let mut result = Ok(());
        let changes = difference(old, new);
        for changes in changes.chunk_by(|one, next| is_route(one) && is_route(next)) {
            let results = match changes {
                [change] => vec![self.carry_out(*change, &reached)],
                routes => self.add_routes(routes),
            };
            for (change, failure) in changes.iter().zip(results) {
                if let Err(error) = failure {
                    forget(&mut reached, *change);
                    result = result.and(Err(error));
                }
            }
        }
        let (tables, followed) = netfilter::follow(&old.tables, &new.tables);
        reached.tables = tables;
        (reached, result.and(followed))
    }

    /// Namespaces may have many of them: each alone would cost more in words with the kernel than in
    /// routes.
    fn add_routes(&self, changes: &[Change<'_>]) -> Vec<Result<(), String>> {
        let routes = changes.iter().filter_map(|change| match change {
            Change::AddRoute(route) => Some(*route),
            _ => None,
        });
        let (mut messages, mut results) = (Vec::new(), Vec::new());
        for route in routes {
            let message = messages::route(route, &|name| self.index_of(name));
            results
                .push((route, message.map(|message| messages.push(RouteNetlinkMessage::NewRoute(message)))));
        }
        let said = match self.inside.borrow_mut().change_all(messages, NLM_F_CREATE | NLM_F_APPEND) {
            Ok(said) => said,
            Err(error) => {
                let error = format!("cannot add the routes: {}", words(&error));
                return results.into_iter().map(|_| Err(error.clone())).collect();
            }
        };
        let mut said = said.into_iter();
        let results = results.into_iter().map(|(route, sent)| match sent {
            Ok(()) => said.next().map_or(Ok(()), |said| route_added(route, said)),
            Err(error) => Err(error),
        });
        results.collect()
    }

    fn carry_out(&mut self, change: Change<'_>, reached: &Network) -> Result<(), String> {
        let about = |what: String| move |error: io::Error| format!("cannot {what}: {}", words(&error));
        if matches!(change, Change::AddInterface(_) | Change::SetInterface(..) | Change::RemoveInterface(_)) {
            self.indexes.borrow_mut().clear();
        }
        match change {
            Change::AddInterface(interface) => self.add(interface),
            Change::SetInterface(before, interface) => self.set(before, interface),
            Change::RemoveInterface(interface) => self.remove(interface),
            Change::FinishInterface(interface) if is_there(reached, interface) => self.finish(interface),
            Change::AddAddress(interface, address) if is_there(reached, interface) => {
                let message = messages::address(self.index_of(&interface.name)?, address);
                let flags = NLM_F_CREATE | NLM_F_REPLACE;
                unless(Errno::EEXIST, self.inside(RouteNetlinkMessage::NewAddress(message), flags))
                    .map_err(about(format!("give {} the address {}", interface.name, shown(address))))
            }
            // Why it is not there has been said.
            Change::FinishInterface(_) | Change::AddAddress(..) => Ok(()),
            Change::RemoveAddress(interface, address) => {
                let Ok(index) = self.index_of(&interface.name) else { return Ok(()) };
                let message = RouteNetlinkMessage::DelAddress(messages::address(index, address));
                unless_gone(self.inside(message, 0)).map_err(about(format!(
                    "take the address {} from {}",
                    shown(address),
                    interface.name
                )))
            }
            Change::AddNeighbour(neighbour) => {
                let message = messages::neighbour(self.index_of(&neighbour.interface)?, neighbour);
                let flags = NLM_F_CREATE | NLM_F_REPLACE;
                self.inside(RouteNetlinkMessage::NewNeighbour(message), flags)
                    .map_err(about(format!("set the neighbour {}", neighbour.address)))
            }
            Change::RemoveNeighbour(neighbour) => {
                let Ok(index) = self.index_of(&neighbour.interface) else { return Ok(()) };
                let message = RouteNetlinkMessage::DelNeighbour(messages::neighbour(index, neighbour));
                unless_gone(self.inside(message, 0))
                    .map_err(about(format!("remove the neighbour {}", neighbour.address)))
            }
            Change::AddRoute(route) => {
                let message =
                    RouteNetlinkMessage::NewRoute(messages::route(route, &|name| self.index_of(name))?);
                route_added(route, self.inside(message, NLM_F_CREATE | NLM_F_APPEND))
            }
            Change::RemoveRoute(route) => {
                // With its interface it is gone, too.
                let Ok(message) = messages::route(route, &|name| self.index_of(name)) else { return Ok(()) };
                unless_gone(self.inside(RouteNetlinkMessage::DelRoute(message), 0))
                    .map_err(about(format!("remove the route {}", route_shown(route))))
            }
            Change::AddRule(rule) => {
                let message = RouteNetlinkMessage::NewRule(messages::rule(rule));
                unless(Errno::EEXIST, self.inside(message, NLM_F_CREATE))
                    .map_err(about(format!("add the routing rule of priority {}", rule.priority)))
            }
            Change::RemoveRule(rule) => {
                unless_gone(self.inside(RouteNetlinkMessage::DelRule(messages::rule(rule)), 0))
                    .map_err(about(format!("remove the routing rule of priority {}", rule.priority)))
            }
        }
    }

    fn add(&mut self, interface: &Interface) -> Result<(), String> {
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

    /// Brings a card's interface from the agent's namespace to the container's, under its name there.
    fn fetch(&mut self, device: &str, announcement: &str, interface: &Interface) -> Result<(), String> {
        let index = nic::bind(device, announcement, &mut self.appearing)
            .map_err(|error| format!("{}: {error}", interface.name))?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![
            LinkAttribute::NetNsFd(self.namespace.as_raw_fd()),
            LinkAttribute::IfName(interface.name.clone()),
        ];
        self.outside.change(RouteNetlinkMessage::SetLink(message), 0).map_err(|error| {
            format!("cannot move {} to the container's network namespace: {}", interface.name, words(&error))
        })
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
            return sys::loopback_up().map_err(|error| format!("cannot switch lo on: {}", words(&error)));
        }
        let index = self.index_of(&interface.name)?;
        if interface.address_mode.is_some() {
            self.set_address_mode(interface, index, NO_ADDRESSES)?;
        }
        apply_settings(interface)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.extend((interface.mtu > 0).then_some(LinkAttribute::Mtu(interface.mtu)));
        set_flags(&mut message, interface);
        self.link(message, "switch on", interface)?;
        self.await_carrier(interface, index)
    }

    fn set(&self, before: &Interface, interface: &Interface) -> Result<(), String> {
        if interface.device == NetworkDevice::Loopback {
            return Ok(());
        }
        let index = self.index_of(&interface.name)?;
        apply_settings(interface)?;
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
        self.await_carrier(interface, index)
    }

    fn finish(&self, interface: &Interface) -> Result<(), String> {
        match interface.address_mode {
            Some(mode) if mode != NO_ADDRESSES => {
                self.set_address_mode(interface, self.index_of(&interface.name)?, mode)
            }
            _ => Ok(()),
        }
    }

    fn set_address_mode(&self, interface: &Interface, index: u32, mode: u8) -> Result<(), String> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mode = AfSpecInet6::AddrGenMode(mode.into());
        message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])];
        // With an MTU that is too small for it an interface has no IPv6.
        unless(Errno::EAFNOSUPPORT, self.inside(RouteNetlinkMessage::SetLink(message), 0)).map_err(|error| {
            format!("cannot set how IPv6 makes addresses of {}: {}", interface.name, words(&error))
        })
    }

    fn inside(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.inside.borrow_mut().change(message, flags)
    }

    /// The four bytes of its message that are at `range`.
    fn look(&self, link: LinkMessage, range: Range<usize>) -> io::Result<u32> {
        let answers = self.inside.borrow_mut().get(RouteNetlinkMessage::GetLink(link))?;
        let bytes = answers.first().and_then(|answer| answer.body().get(range)?.try_into().ok());
        Ok(bytes.map_or(0, u32::from_ne_bytes))
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
        self.changing.borrow_mut().until(&what, || {
            let mut link = LinkMessage::default();
            link.header.index = index;
            let flags = self
                .look(link, FLAGS_AT)
                .map_err(|error| format!("cannot look at {}: {}", interface.name, words(&error)))?;
            Ok(LinkFlags::from_bits_retain(flags).contains(LinkFlags::Running).then_some(()))
        })
    }

    fn remove(&self, interface: &Interface) -> Result<(), String> {
        match &interface.device {
            NetworkDevice::Loopback => return Ok(()),
            NetworkDevice::Card { device, .. } => {
                return unless(Errno::ENODEV, nic::unbind(device))
                    .map_err(|error| format!("cannot take {} away: {}", interface.name, words(&error)));
            }
            NetworkDevice::Vlan { .. } => {}
        }
        let Ok(index) = self.index_of(&interface.name) else { return Ok(()) };
        let mut message = LinkMessage::default();
        message.header.index = index;
        unless_gone(self.inside(RouteNetlinkMessage::DelLink(message), 0))
            .map_err(|error| format!("cannot remove {}: {}", interface.name, words(&error)))
    }
}

/// Takes out what could not be added, so that it is tried again with the next description.
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
        Change::AddRule(rule) => reached.rules.retain(|one| one != rule),
        _ => {}
    }
}

fn is_route(change: &Change<'_>) -> bool {
    matches!(change, Change::AddRoute(_))
}

/// What the kernel says of a new route.
fn route_added(route: &vmrun_proto::Route, said: io::Result<()>) -> Result<(), String> {
    unless(Errno::EEXIST, said)
        .map_err(|error| format!("cannot add the route {}: {}", route_shown(route), words(&error)))
}

fn is_there(reached: &Network, interface: &Interface) -> bool {
    reached.interfaces.iter().any(|one| one.name == interface.name)
}

fn set_flags(message: &mut LinkMessage, interface: &Interface) {
    message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
    message.header.flags.set(LinkFlags::Up, interface.up);
    message.header.flags.set(LinkFlags::Noarp, interface.noarp);
}

/// In the namespace in which the thread is, as all of `/proc/sys/net`.
fn apply_settings(interface: &Interface) -> Result<(), String> {
    for (name, value) in &interface.settings {
        let mut parts = Path::new(name).components();
        let (Some(Component::Normal(family)), Some(Component::Normal(setting)), None) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("{name:?} is no setting of {}", interface.name));
        };
        let path = Path::new("/proc/sys/net").join(family).join("conf").join(&interface.name).join(setting);
        match fs::write(&path, value.to_string()) {
            // The host's kernel may have more of them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(format!("cannot set {} to {value}: {}", path.display(), words(&error)));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

fn unless(known: Errno, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(known as i32) => Ok(()),
        other => other,
    }
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

fn route_shown(route: &vmrun_proto::Route) -> String {
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

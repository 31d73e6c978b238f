//! The mirror: the namespace's interfaces end in cards of the guest's, and what the guest is told of
//! the network is what the namespace holds.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vmrun_netlink::Netlink;
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use vmrun_proto::Network;
use vmrun_spec::Frames;

use super::error::NetworkError;
use super::filters::Filter;
use super::names::{NameRelay, ResolvConf};
use super::netfilter::{Listing, Rules, UnfitRule};
use super::news::News;
use super::plan::{Card, NetworkPlan, Unfit};
use super::redirect::{self, Earlier, Redirect};
use super::slots::Slots;
use super::{answers, dump, plan, tap};
use crate::agent_client::{AgentError, Watch};
use crate::log::Log;
use crate::step;

/// The namespace of the thread that has made it, and the machine.
pub(crate) struct Mirror {
    container: String,
    netlink: Netlink,
    rules: Rules,
    slots: Arc<dyn Slots>,
    /// By the interfaces' numbers on the host.
    carried: BTreeMap<u32, Carried>,
    /// What the guest has been told.
    told: Network,
    /// What could not be carried when it was looked last.
    unfit: Vec<Unfit>,
    /// What has been said of that.
    complaints: Vec<String>,
    /// Where name servers at loopback addresses are named; nowhere if the guest alone knows.
    resolv_conf: Option<ResolvConf>,
    /// Who asks them for the guest.
    names: Option<NameRelay>,
    log: Log,
}

/// An interface that ends in a card.
#[derive(Debug)]
struct Carried {
    card: Card,
    tap: u32,
    redirect: Redirect,
    /// Has the interface take frames of all groups.
    _groups: Option<OwnedFd>,
    /// Name servers of the namespace hear what they ask others through it.
    lets_answers_in: bool,
}

/// What has changed, for the guest to follow.
#[derive(Debug)]
pub(crate) struct Change {
    /// What it is to have from now on.
    pub(crate) network: Network,
    /// What cannot be carried, where that was not said before.
    pub(crate) complaints: Vec<String>,
    /// What works less well than it should, where that was not said before.
    pub(crate) warnings: Vec<String>,
}

/// What there is.
#[derive(Debug, Default)]
struct Taken {
    network: Network,
    /// What could not be carried.
    failures: Vec<NetworkError>,
    /// What the container would be right without.
    warnings: Vec<NetworkError>,
}

impl Mirror {
    pub(crate) fn new(
        container: &str,
        news: &News,
        slots: Arc<dyn Slots>,
        resolv_conf: Option<ResolvConf>,
        log: Log,
    ) -> Result<Self, NetworkError> {
        let (rule_news, wakes) = news.of_rules();
        Ok(Self {
            container: container.to_owned(),
            netlink: Netlink::open().map_err(NetworkError::Read)?,
            rules: Rules::new(rule_news, wakes),
            slots,
            carried: BTreeMap::new(),
            told: Network::default(),
            unfit: Vec::new(),
            complaints: Vec::new(),
            resolv_conf,
            names: None,
            log,
        })
    }

    /// Carries what there is. Whatever cannot be carried is an error: the container would not be right
    /// without. None where there is nothing but loopback. Beside it is what to warn of.
    pub(crate) fn begin(&mut self) -> Result<(Option<Network>, Vec<String>), NetworkError> {
        let Taken { network, mut failures, warnings } = self.take_in()?;
        if let Some(error) = self.unfit.first().map(Unfit::error).or_else(|| failures.pop()) {
            return Err(error);
        }
        let with_next_step = |error: &NetworkError| match error.next_step() {
            Some(step) => format!("{}; {step}", crate::error::chain(error)),
            None => crate::error::chain(error),
        };
        let shown = warnings.iter().map(with_next_step).collect();
        self.complaints = warnings.iter().map(|error| crate::error::chain(error)).collect();
        if network == Network::default() {
            return Ok((None, shown));
        }
        self.told(network.clone());
        Ok((Some(network), shown))
    }

    /// Looks at the namespace anew. Cards for interfaces that have come are plugged in; those of
    /// interfaces that have gone stay until the guest has been [told](Self::told). None where it has
    /// all been told.
    pub(crate) fn look(&mut self) -> Result<Option<Change>, NetworkError> {
        let Taken { mut network, failures, warnings } = self.take_in()?;
        let shown = |error: NetworkError| crate::error::chain(&error);
        let mut complaints: Vec<_> = self.unfit.iter().map(Unfit::error).chain(failures).map(shown).collect();
        let mut warnings: Vec<_> = warnings.into_iter().map(shown).collect();
        let known = std::mem::replace(&mut self.complaints, [&complaints[..], &warnings].concat());
        complaints.retain(|complaint| !known.contains(complaint));
        warnings.retain(|warning| !known.contains(warning));
        if complaints.is_empty() && warnings.is_empty() && is_the_same(&self.told, &mut network) {
            return Ok(None);
        }
        Ok(Some(Change { network, complaints, warnings }))
    }

    /// Carries what there is as far as that can be; what failed is in the answer.
    fn take_in(&mut self) -> Result<Taken, NetworkError> {
        let dump = dump::read(&mut self.netlink, |dump| self.carried.is_empty() && plan::is_empty(dump))
            .map_err(NetworkError::Read)?;
        let taken = self.carried.iter().map(|(index, carried)| (*index, carried.card.slot)).collect();
        let NetworkPlan { cards, mut network, unfit } = if self.carried.is_empty() && plan::is_empty(&dump) {
            NetworkPlan::default()
        } else {
            plan::plan(&dump, &taken)
        };
        self.unfit = unfit;
        let mut failures = Vec::new();
        for card in cards {
            let name = card.name.clone();
            match self.carried.get_mut(&card.index) {
                Some(carried) => carried.follow(&card, &mut self.netlink, &*self.slots),
                None => match carry(&mut self.netlink, &*self.slots, card) {
                    Ok(carried) => drop(self.carried.insert(carried.card.index, carried)),
                    Err(error) => {
                        plan::leave_out(&mut network, &name);
                        failures.push(error);
                    }
                },
            }
        }
        network.name_servers = self.resolv_conf.as_ref().map(ResolvConf::servers).unwrap_or_default();
        let mut warnings = Vec::new();
        if network != Network::default() || !self.carried.is_empty() {
            let Listing { tables, unfit, legacy } =
                self.rules.read(&dump::names(&dump), &network.name_servers)?;
            network.tables = tables;
            failures.extend(unfit.into_iter().map(UnfitRule::error));
            if !legacy.is_empty() {
                warnings.push(NetworkError::Legacy { tables: legacy.join(", ") });
            }
        }
        warnings.extend(self.let_answers_in(network.name_servers.first().copied()));
        Ok(Taken { network, failures, warnings })
    }

    /// Lets the namespace's name servers, of which one is named, have what they ask for.
    fn let_answers_in(&mut self, server: Option<IpAddr>) -> Vec<NetworkError> {
        let mut failures = Vec::new();
        for (index, carried) in &mut self.carried {
            match server {
                Some(server) if !carried.lets_answers_in => {
                    let interface = || carried.card.name.clone();
                    match answers::let_in(&mut self.netlink, *index, carried.tap) {
                        Ok(()) => carried.lets_answers_in = true,
                        Err((step, source)) => {
                            failures.push(NetworkError::Answers {
                                server,
                                interface: interface(),
                                step,
                                source,
                            });
                        }
                    }
                }
                None if carried.lets_answers_in => {
                    Filter::Answers.remove(&mut self.netlink, *index);
                    carried.lets_answers_in = false;
                }
                _ => {}
            }
        }
        failures
    }

    /// Asks the name servers that the guest has been told of for it, once the agent stands for them there.
    pub(crate) fn serve_names(&mut self, watch: Watch<'_>) -> Result<(), AgentError> {
        let servers = &self.told.name_servers;
        match &self.names {
            // The agent has ended the connection.
            _ if servers.is_empty() => self.names = None,
            Some(names) if names.is_there() => names.set_servers(servers),
            _ => {
                self.names = Some(NameRelay::start(&self.container, servers, self.log.clone(), watch)?);
                step!("names are asked for at {servers:?}");
            }
        }
        Ok(())
    }

    /// Whose network it is.
    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    /// The guest has done what it was asked for: what is gone from its network is unplugged.
    pub(crate) fn told(&mut self, network: Network) {
        step!("the guest's network: {}", summary(&network));
        self.told = network;
        let is_told = |card: &Card| {
            let device = card.slot.device();
            self.told.interfaces.iter().any(|interface| {
                matches!(&interface.device, vmrun_proto::NetworkDevice::Card { device: told, .. } if *told == device)
            })
        };
        let gone: Vec<u32> = self
            .carried
            .iter()
            .filter(|(_, carried)| !is_told(&carried.card))
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            if let Some(carried) = self.carried.remove(&index) {
                carried.release(&mut self.netlink, &*self.slots);
            }
        }
    }
}

impl Drop for Mirror {
    /// The namespace may be there for longer than the sandbox; the taps go with the process.
    fn drop(&mut self) {
        for carried in std::mem::take(&mut self.carried).into_values() {
            carried.redirect.remove(&mut self.netlink);
        }
    }
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("carried", &self.carried).field("told", &self.told).finish()
    }
}

impl Unfit {
    fn error(&self) -> NetworkError {
        let what =
            self.interface.as_ref().map_or("a route".to_owned(), |name| format!("the interface {name}"));
        NetworkError::Unfit { what, why: self.why.clone() }
    }
}

impl UnfitRule {
    fn error(self) -> NetworkError {
        NetworkError::Unfit { what: self.rule, why: self.why.to_owned() }
    }
}

impl Carried {
    /// The interface may have become another in some respects.
    fn follow(&mut self, card: &Card, netlink: &mut Netlink, slots: &dyn Slots) {
        if card.mtu != self.card.mtu
            && let Err(error) = set_up_tap(netlink, self.tap, card.mtu)
        {
            crate::log::warn(&format!("cannot give the tap of {} the MTU {}: {error}", card.name, card.mtu));
        }
        if card.carrier != self.card.carrier
            && let Err(cause) = slots.set_link(card.slot, card.carrier)
        {
            crate::log::warn(&format!("cannot tell the guest of the link of {}: {cause}", card.name));
        }
        if card.name != self.card.name {
            slots.rename(card.slot, &card.name);
        }
        self.card = card.clone();
    }

    fn release(self, netlink: &mut Netlink, slots: &dyn Slots) {
        self.redirect.remove(netlink);
        if let Err(cause) = slots.unplug(self.card.slot) {
            crate::log::warn(&format!("cannot unplug the network card of {}: {cause}", self.card.name));
        }
        step!("{}: unplugged", self.card.name);
    }
}

/// Makes the tap of an interface, joins both, and plugs the card in.
fn carry(netlink: &mut Netlink, slots: &dyn Slots, card: Card) -> Result<Carried, NetworkError> {
    let interface = || card.name.clone();
    let joining = |(step, source)| NetworkError::Join { interface: interface(), step, source };
    match redirect::earlier(netlink, card.index).map_err(|error| joining(("its filters", error)))? {
        Earlier::None => {}
        Earlier::Live => return Err(NetworkError::Taken { interface: interface() }),
        Earlier::Stale => redirect::clean(netlink, card.index),
    }
    let tap = |(step, source)| NetworkError::Tap { interface: interface(), step, source };
    let (descriptor, name) = tap::make().map_err(tap)?;
    let index = index_of(netlink, &name).map_err(|error| tap(("its number", error)))?;
    keep_silent(netlink, index);
    set_up_tap(netlink, index, card.mtu).map_err(|error| tap(("its MTU, and up", error)))?;
    // The tap's goes with the tap.
    redirect::add(netlink, index, card.index).map_err(joining)?;
    let redirect = redirect::add(netlink, card.index, index).map_err(joining)?;
    // Without it the guest hears of less, as on a network that filters groups.
    let groups = tap::take_multicast(card.index).ok();
    let plugged = slots.plug(card.slot, &card.name, card.mac, Frames::Tap(descriptor)).and_then(|()| {
        // A cable is in it at first.
        if card.carrier { Ok(()) } else { slots.set_link(card.slot, false) }
    });
    if let Err(cause) = plugged {
        redirect.remove(netlink);
        return Err(NetworkError::Plug { interface: interface(), cause });
    }
    step!(
        "{} is carried into the guest: {}, MTU {}, tap {name}, slot {}",
        card.name,
        mac_shown(card.mac),
        card.mtu,
        card.slot.number()
    );
    Ok(Carried { card, tap: index, redirect, _groups: groups, lets_answers_in: false })
}

fn index_of(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match netlink.get(RouteNetlinkMessage::GetLink(link))?.first().map(|answer| answer.message()) {
        Some(Ok(RouteNetlinkMessage::NewLink(link))) => Ok(link.header.index),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The host's IPv6 is not to speak through the tap. A kernel without it does not.
fn keep_silent(netlink: &mut Netlink, index: u32) {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    link.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])];
    let _ = netlink.change(RouteNetlinkMessage::SetLink(link), 0);
}

fn set_up_tap(netlink: &mut Netlink, index: u32, mtu: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![LinkAttribute::Mtu(mtu)];
    netlink.change(RouteNetlinkMessage::SetLink(link), 0)
}

/// Whether there is nothing to be told. What has only become older is as it was: then it stays so.
fn is_the_same(told: &Network, new: &mut Network) -> bool {
    for interface in &mut new.interfaces {
        let Some(before) = told.interfaces.iter().find(|before| before.name == interface.name) else {
            continue;
        };
        for address in &mut interface.addresses {
            let older = before.addresses.iter().find(|before| before.address == address.address);
            if let Some(older) = older
                && has_elapsed(address.valid_s, older.valid_s)
                && has_elapsed(address.preferred_s, older.preferred_s)
            {
                address.valid_s = older.valid_s;
                address.preferred_s = older.preferred_s;
            }
        }
    }
    for route in &mut new.routes {
        let mut as_before = told.routes.iter().filter(|before| {
            vmrun_proto::Route { expires_s: route.expires_s, ..(*before).clone() } == *route
        });
        if let Some(before) = as_before.next()
            && has_elapsed(route.expires_s, before.expires_s)
        {
            route.expires_s = before.expires_s;
        }
    }
    told == new
}

/// Whether a time is what it was, but for what has gone by.
fn has_elapsed(now: Option<u32>, then: Option<u32>) -> bool {
    now == then || now.zip(then).is_some_and(|(now, then)| now <= then)
}

fn summary(network: &Network) -> String {
    let interface = |interface: &vmrun_proto::Interface| {
        let addresses = interface.addresses.iter().map(|one| format!(" {}/{}", one.address, one.prefix));
        format!("{}{}", interface.name, addresses.collect::<String>())
    };
    let interfaces: Vec<_> = network.interfaces.iter().map(interface).collect();
    let chains = network.tables.iter().flat_map(|table| &table.chains);
    format!(
        "{}; {} routes, {} rules, {} neighbours, {} netfilter rules",
        interfaces.join(", "),
        network.routes.len(),
        network.rules.len(),
        network.neighbours.len(),
        chains.map(|chain| chain.rules.len()).sum::<usize>()
    )
}

fn mac_shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

//! From what a namespace holds to what the guest gets: a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vmrun_proto::{Interface, Network, NetworkDevice, Route};
use vmrun_spec::NicSlot;

use super::dump::Dump;
use super::links::{self, Link};
use super::routes::{self, MAIN, Names};
use super::rules::{self, Rules};
use super::{addresses, links::Found};

/// `RTPROT_KERNEL`, `RTN_UNICAST`.
const KERNEL: u8 = 2;
const UNICAST: u8 = 1;

/// The slots that are taken, by the numbers of their interfaces on the host.
pub(super) type Slots = BTreeMap<u32, NicSlot>;

/// What a namespace is to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NetworkPlan {
    /// The interfaces for which there are cards.
    pub(super) cards: Vec<Card>,
    /// What the guest is told.
    pub(super) network: Network,
    /// What cannot be carried.
    pub(super) unfit: Vec<Unfit>,
}

/// An interface of the host's that ends in a card of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) slot: NicSlot,
    /// Its number on the host.
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) carrier: bool,
}

/// Something that cannot be carried into the guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unfit {
    /// An interface by its name; nothing for what is not one.
    pub(super) interface: Option<String>,
    pub(super) why: String,
}

/// Whether the namespace holds nothing but what every guest has.
pub(super) fn is_empty(dump: &Dump) -> bool {
    let loopback = |index| {
        let mut addresses = dump.addresses.iter().filter_map(addresses::look_at);
        addresses.all(|found| found.interface != index || found.is_loopbacks())
    };
    dump.links.iter().all(|link| match links::look_at(link) {
        Found::Nothing => true,
        Found::Loopback(index, settings) => settings.is_empty() && loopback(index),
        Found::Link(_) | Found::Unfit(_) => false,
    })
}

/// Plans the guest's network. Interfaces keep the slots that they have.
pub(super) fn plan(dump: &Dump, taken: &Slots) -> NetworkPlan {
    let mut plan = NetworkPlan::default();
    let mut found = Vec::new();
    let mut loopback = None;
    for link in &dump.links {
        match links::look_at(link) {
            Found::Nothing => {}
            Found::Loopback(index, settings) => loopback = Some((index, settings)),
            Found::Link(link) => found.push(*link),
            Found::Unfit(why) => {
                let interface = Some(links::name(link).to_owned());
                plan.unfit.push(Unfit { interface, why: why.to_owned() });
            }
        }
    }
    let (loopback, settings) = loopback.unzip();
    plan.network.interfaces.push(Interface {
        settings: settings.unwrap_or_default(),
        ..Interface::new("lo", NetworkDevice::Loopback)
    });
    let mut names = plan.add_interfaces(found, taken);
    names.extend(loopback.map(|index| (index, "lo".to_owned())));
    let mut routes = plan.find_routes(dump, &names);
    plan.add_addresses(dump, &names, &mut routes);
    plan.network.routes = routes;
    plan.leave_out_dead_ways();
    let Rules { own, missing, unfit } = rules::rules(&dump.rules, &dump.rule_families);
    (plan.network.rules, plan.network.missing_rules) = (own, missing);
    plan.unfit.extend(unfit.into_iter().map(|why| Unfit { interface: None, why }));
    let neighbours = dump.neighbours.iter().filter_map(|message| routes::neighbour(message, &names));
    plan.network.neighbours = neighbours.collect();
    let unread = dump.unread.iter().map(|why| Unfit { interface: None, why: why.clone() });
    plan.unfit.extend(unread);
    // Loopback is as every namespace has it, unless there is more to it.
    plan.network.interfaces.retain(|interface| {
        interface.device != NetworkDevice::Loopback
            || !interface.addresses.is_empty()
            || !interface.settings.is_empty()
    });
    plan
}

/// Takes an interface out, with what leads through it.
pub(super) fn leave_out(network: &mut Network, name: &str) {
    let mut gone = BTreeSet::from([name.to_owned()]);
    network.interfaces.retain(|interface| {
        // It stands behind the one that it is made on.
        let is_on_one =
            matches!(&interface.device, NetworkDevice::Vlan { parent, .. } if gone.contains(parent));
        if is_on_one {
            gone.insert(interface.name.clone());
        }
        !gone.contains(&interface.name)
    });
    let is_gone = |name: &String| gone.contains(name);
    network.routes.retain(|route| !route.hops.iter().any(|hop| hop.interface.as_ref().is_some_and(is_gone)));
    network.neighbours.retain(|neighbour| !is_gone(&neighbour.interface));
}

impl NetworkPlan {
    /// Returns the names of what the guest has, by their numbers on the host.
    fn add_interfaces(&mut self, links: Vec<Link>, taken: &Slots) -> Names {
        let mut names = Names::new();
        let mut free: Vec<NicSlot> =
            NicSlot::all().filter(|slot| !taken.values().any(|taken| taken == slot)).collect();
        free.reverse();
        let (vlans, cards): (Vec<_>, Vec<_>) = links.into_iter().partition(|link| link.vlan.is_some());
        for link in cards {
            let Some(slot) = taken.get(&link.index).copied().or_else(|| free.pop()) else {
                let why = format!("the machine has room for {} network cards", NicSlot::COUNT);
                self.unfit.push(Unfit { interface: Some(link.name), why });
                continue;
            };
            let device = NetworkDevice::Card { device: slot.device(), announcement: slot.announcement() };
            names.insert(link.index, link.name.clone());
            self.cards.push(Card {
                slot,
                index: link.index,
                name: link.name.clone(),
                mac: link.mac,
                mtu: link.mtu,
                carrier: link.carrier,
            });
            self.network.interfaces.push(interface(link, device));
        }
        self.add_vlans(vlans, &mut names);
        names
    }

    /// Those that are made in the guest, each behind the one that it is made on, which may be one of them.
    fn add_vlans(&mut self, mut links: Vec<Link>, names: &mut Names) {
        loop {
            let known = |link: &Link| link.vlan.is_some_and(|(parent, ..)| names.contains_key(&parent));
            let (next, rest): (Vec<_>, Vec<_>) = links.into_iter().partition(known);
            links = rest;
            if next.is_empty() {
                break;
            }
            for link in next {
                let Some((parent, id, protocol)) = link.vlan else { continue };
                let Some(parent) = names.get(&parent).cloned() else { continue };
                names.insert(link.index, link.name.clone());
                let device = NetworkDevice::Vlan { parent, id, protocol };
                self.network.interfaces.push(interface(link, device));
            }
        }
        for link in links {
            let why = "it is a VLAN of an interface that is not carried".to_owned();
            self.unfit.push(Unfit { interface: Some(link.name), why });
        }
    }

    fn find_routes(&mut self, dump: &Dump, names: &Names) -> Vec<Route> {
        let mut found = Vec::new();
        for message in &dump.routes {
            match routes::route(message, names) {
                routes::Found::Nothing => {}
                routes::Found::Route(route) => found.push(route),
                routes::Found::Unfit(why) => self.unfit.push(Unfit { interface: None, why }),
            }
        }
        found
    }

    /// Nothing leads through an interface that is down: the kernel takes such routes away. Of an interface that came up while
    /// the namespace was read they are there all the same, and the guest's kernel would refuse them; the news of it come with
    /// them. Where there are several ways, the others are left, as the kernel leaves them.
    fn leave_out_dead_ways(&mut self) {
        let Network { interfaces, routes, .. } = &mut self.network;
        let is_card = |interface: &&Interface| interface.device != NetworkDevice::Loopback;
        let down: BTreeSet<&str> = interfaces
            .iter()
            .filter(is_card)
            .filter(|interface| !interface.up)
            .map(|interface| &*interface.name)
            .collect();
        routes.retain_mut(|route| {
            let led_somewhere = !route.hops.is_empty();
            route.hops.retain(|hop| !hop.interface.as_deref().is_some_and(|name| down.contains(name)));
            !(led_somewhere && route.hops.is_empty())
        });
    }

    /// With each address the kernel makes a route, in the guest as on the host. Where somebody has
    /// removed that on the host, the guest's kernel is not to make it; where it is, it need not be told.
    fn add_addresses(&mut self, dump: &Dump, names: &Names, routes: &mut Vec<Route>) {
        for mut found in dump.addresses.iter().filter_map(addresses::look_at) {
            let Some(name) = names.get(&found.interface) else { continue };
            let mut interfaces = self.network.interfaces.iter_mut();
            let Some(interface) = interfaces.find(|interface| interface.name == *name) else { continue };
            let is_loopback = interface.device == NetworkDevice::Loopback;
            if is_loopback && found.is_loopbacks() {
                continue;
            }
            // Loopback has none.
            if let (Some(network), true, false) = (found.network(), interface.up, is_loopback) {
                let its = |route: &Route| {
                    route.destination == network && is_of_an_address(route, name, found.address.address)
                };
                match routes.iter().position(its) {
                    Some(index) => drop(routes.remove(index)),
                    None => found.without_route(),
                }
            }
            interface.addresses.push(found.address);
        }
    }
}

fn is_of_an_address(route: &Route, interface: &str, address: IpAddr) -> bool {
    let through = matches!(&route.hops[..], [hop]
        if hop.interface.as_deref() == Some(interface) && hop.gateway.is_none());
    let from = route.preferred_source.is_none_or(|source| source == address);
    through && from && (route.table, route.protocol, route.kind) == (MAIN, KERNEL, UNICAST)
}

fn interface(link: Link, device: NetworkDevice) -> Interface {
    Interface {
        name: link.name,
        device,
        mac: Some(link.mac),
        mtu: link.mtu,
        up: link.up,
        carrier: link.carrier,
        noarp: link.noarp,
        addresses: Vec::new(),
        address_mode: Some(link.address_mode),
        settings: link.settings,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

//! What is to be done to come from one network to another: a pure function of both.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vmrun_proto::{Address, Interface, Neighbour, Network, NetworkDevice, Route, Rule};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<'n> {
    RemoveRule(&'n Rule),
    RemoveRoute(&'n Route),
    RemoveNeighbour(&'n Neighbour),
    RemoveAddress(&'n Interface, &'n Address),
    RemoveInterface(&'n Interface),
    /// One that is not there yet.
    AddInterface(&'n Interface),
    /// From the first to the second.
    SetInterface(&'n Interface, &'n Interface),
    AddAddress(&'n Interface, &'n Address),
    /// All its addresses are there.
    FinishInterface(&'n Interface),
    AddNeighbour(&'n Neighbour),
    AddRoute(&'n Route),
    AddRule(&'n Rule),
}

/// The steps in the order in which they work: what rests on others goes before them and comes after.
///
/// What the kernel takes away by itself when something else goes is added again, though both networks have it.
pub(super) fn difference<'n>(old: &'n Network, new: &'n Network) -> Vec<Change<'n>> {
    let mut lost = Lost::default();
    let mut gone_addresses = Vec::new();
    for interface in &old.interfaces {
        match kept(old, new, interface) {
            Some(after) => gone_addresses.extend(lost.addresses_of(interface, after)),
            None => lost.interface(interface),
        }
    }
    let mut changes = Vec::new();
    // One that only loses its source stays in the kernel without it, and would be in the way.
    let (old_routes, new_routes) = (set(&old.routes), set(&new.routes));
    let is_changed = |route: &&Route| !new_routes.contains(*route) || lost.has_source(route);
    let mut gone: Vec<_> = old.routes.iter().filter(is_changed).collect();
    gone.sort_by_key(|route| std::cmp::Reverse(place(route)));
    changes.extend(gone.into_iter().map(Change::RemoveRoute));
    changes.extend(missing(&old.neighbours, &new.neighbours).map(Change::RemoveNeighbour));
    changes.extend(gone_addresses);
    // One that is made on another goes before it.
    let gone = old.interfaces.iter().rev().filter(|interface| kept(old, new, interface).is_none());
    changes.extend(gone.map(Change::RemoveInterface));
    for interface in &new.interfaces {
        match kept(new, old, interface) {
            None => changes.push(Change::AddInterface(interface)),
            Some(before) if without_addresses(before) != without_addresses(interface) => {
                changes.push(Change::SetInterface(before, interface));
            }
            Some(_) => {}
        }
    }
    for interface in &new.interfaces {
        let before = kept(new, old, interface);
        let had = before.map_or(&[][..], |before| &before.addresses);
        let is_there = |address: &Address| had.contains(address) && !lost.has_address(interface, address);
        let new = interface.addresses.iter().filter(|address| !is_there(address));
        changes.extend(new.map(|address| Change::AddAddress(interface, address)));
        if before.is_none() {
            changes.push(Change::FinishInterface(interface));
        }
    }
    let (old_neighbours, neighbours) = (set(&old.neighbours), new.neighbours.iter());
    let neighbours = neighbours.filter(|one| !old_neighbours.contains(*one) || lost.has_neighbour(one));
    changes.extend(neighbours.map(Change::AddNeighbour));
    let routes = new.routes.iter().filter(|route| !old_routes.contains(*route) || lost.has_route(route));
    let mut added: Vec<_> = routes.collect();
    added.sort_by_key(|route| place(route));
    changes.extend(added.into_iter().map(Change::AddRoute));
    // All of them one after the other: without one of those that every namespace has, nothing is found.
    changes.extend(missing(&new.missing_rules, &old.missing_rules).map(Change::RemoveRule));
    changes.extend(missing(&old.rules, &new.rules).map(Change::RemoveRule));
    changes.extend(missing(&new.rules, &old.rules).map(Change::AddRule));
    changes.extend(missing(&old.missing_rules, &new.missing_rules).map(Change::AddRule));
    changes
}

/// What the kernel takes away with what is removed: with an interface all that is on it; with an address of IPv4
/// the others of its network, of which it was the first (`__inet_del_ifa`), and, with an interface's last one, all
/// routes of that family through it (`fib_disable_ip`); with either family's the routes that have it as their source.
#[derive(Debug, Default)]
struct Lost<'n> {
    interfaces: BTreeSet<&'n str>,
    /// Those whose addresses of IPv4 have all gone.
    without_ipv4: BTreeSet<&'n str>,
    addresses: BTreeSet<(&'n str, IpAddr)>,
    /// The same, wherever they were.
    sources: BTreeSet<IpAddr>,
}

impl<'n> Lost<'n> {
    fn interface(&mut self, interface: &'n Interface) {
        self.interfaces.insert(&interface.name);
        interface.addresses.iter().for_each(|one| self.address(&interface.name, one.address));
    }

    fn address(&mut self, interface: &'n str, address: IpAddr) {
        self.addresses.insert((interface, address));
        self.sources.insert(address);
    }

    /// The addresses that are to go from an interface that becomes `after`.
    fn addresses_of(&mut self, before: &'n Interface, after: &'n Interface) -> Vec<Change<'n>> {
        let stays = stay(&before.addresses, &after.addresses);
        let (kept, gone): (Vec<_>, Vec<_>) =
            before.addresses.iter().zip(stays).partition(|(_, stays)| *stays);
        let name = before.name.as_str();
        gone.iter().for_each(|(address, _)| self.address(name, address.address));
        let follows = |one: &Address| gone.iter().any(|(first, _)| are_of_one_network(first, one));
        let followers = kept.iter().filter(|(address, _)| follows(address));
        followers.for_each(|(address, _)| self.address(name, address.address));
        let survives = |one: &Address| one.address.is_ipv4() && !follows(one);
        if gone.iter().any(|(address, _)| address.address.is_ipv4())
            && !kept.iter().any(|(address, _)| survives(address))
        {
            self.without_ipv4.insert(name);
        }
        gone.into_iter().map(|(address, _)| Change::RemoveAddress(before, address)).collect()
    }

    fn has_address(&self, interface: &Interface, address: &Address) -> bool {
        self.addresses.contains(&(interface.name.as_str(), address.address))
    }

    /// Neighbours go with the interface alone.
    fn has_neighbour(&self, neighbour: &Neighbour) -> bool {
        self.interfaces.contains(&neighbour.interface.as_str())
    }

    fn has_source(&self, route: &Route) -> bool {
        route.preferred_source.is_some_and(|source| self.sources.contains(&source))
    }

    fn has_route(&self, route: &Route) -> bool {
        let is_ipv4 = route.destination.address.is_ipv4();
        let is_gone = |name: &String| {
            self.interfaces.contains(name.as_str()) || (is_ipv4 && self.without_ipv4.contains(name.as_str()))
        };
        route.hops.iter().any(|hop| hop.interface.as_ref().is_some_and(is_gone)) || self.has_source(route)
    }
}

/// Which addresses of `before` stay where there are to be those of `after`. Of a network's addresses of IPv4 the first
/// is the one that packets come from: one that is to come behind another that is not there yet goes first.
fn stay(before: &[Address], after: &[Address]) -> Vec<bool> {
    let place_of = |address: &Address| after.iter().position(|other| is_set_by(address, other));
    let stays = |(index, address): (usize, &Address)| {
        let Some(place) = place_of(address) else { return false };
        let mut ahead = after.iter().take(place).filter(|other| are_of_one_network(other, address));
        ahead.all(|other| before.iter().take(index).any(|one| is_set_by(one, other)))
    };
    before.iter().enumerate().map(stays).collect()
}

fn are_of_one_network(one: &Address, other: &Address) -> bool {
    let (IpAddr::V4(first), IpAddr::V4(second)) = (one.address, other.address) else { return false };
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(one.prefix.into())).unwrap_or(0);
    one.prefix == other.prefix && (u32::from(first) ^ u32::from(second)) & mask == 0
}

/// The same interface of the other network, whatever it has become. Under another name, or carried by
/// another device, it is another one; so is one on another that is another one.
pub(super) fn kept<'n>(
    network: &Network,
    other: &'n Network,
    interface: &Interface,
) -> Option<&'n Interface> {
    let same =
        other.interfaces.iter().find(|one| one.name == interface.name && one.device == interface.device);
    let NetworkDevice::Vlan { parent, .. } = &interface.device else { return same };
    // Each stands behind the one that it is made on, so this ends.
    let at = network.interfaces.iter().position(|one| std::ptr::eq(one, interface))?;
    let parent = network.interfaces.get(..at)?.iter().find(|one| one.name == *parent);
    same.filter(|_| parent.is_none_or(|parent| kept(network, other, parent).is_some()))
}

fn without_addresses(interface: &Interface) -> Interface {
    Interface { addresses: Vec::new(), ..interface.clone() }
}

/// Whether an address becomes the other one when that is set (`NLM_F_REPLACE`), so that it need not go first:
/// `inet_rtm_newaddr` and `inet6_addr_modify` change times, metric and origin of one that is there, the latter its
/// flags and its peer, too, which it never takes away.
fn is_set_by(address: &Address, other: &Address) -> bool {
    let (flags, peer) = if address.address.is_ipv6() {
        (other.flags, other.peer.or(address.peer))
    } else {
        (address.flags, address.peer)
    };
    let Address { priority, preferred_s, valid_s, protocol, .. } = *other;
    Address { flags, peer, priority, preferred_s, valid_s, protocol, ..address.clone() } == *other
}

fn missing<'n, T: Ord>(from: &'n [T], in_: &'n [T]) -> impl Iterator<Item = &'n T> {
    let there = set(in_);
    from.iter().filter(move |one| !there.contains(one))
}

/// There may be thousands of them, of which each is looked for.
fn set<T: Ord>(all: &[T]) -> BTreeSet<&T> {
    all.iter().collect()
}

/// A router must be known to be reachable before a route leads to it: routes without one come first,
/// and among them the most exact ones.
fn place(route: &Route) -> (bool, std::cmp::Reverse<u8>) {
    let needs_another = route.hops.iter().any(|hop| hop.gateway.is_some() && !hop.onlink);
    (needs_another, std::cmp::Reverse(route.destination.bits))
}

#[cfg(test)]
mod tests {
    use vmrun_proto::{Hop, Prefix};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn interface(name: &str, slot: u8, addresses: &[&str]) -> Interface {
        let address = |text: &&str| {
            serde_json::from_value(serde_json::json!({ "address": text, "prefix": 24 })).unwrap()
        };
        Interface {
            name: name.to_owned(),
            device: NetworkDevice::Card {
                device: format!("virtio-mmio.{slot}"),
                announcement: String::new(),
            },
            mac: Some([2, 0, 0, 0, 0, slot]),
            mtu: 1500,
            up: true,
            carrier: true,
            noarp: false,
            addresses: addresses.iter().map(address).collect(),
            address_mode: Some(0),
            settings: std::collections::BTreeMap::new(),
        }
    }

    fn route(to: &str, bits: u8, gateway: Option<&str>, onlink: bool) -> Route {
        let hop = Hop { interface: Some("eth0".into()), gateway: gateway.map(ip), onlink, weight: 0 };
        Route {
            destination: Prefix { address: ip(to), bits },
            source: None,
            tos: 0,
            table: 254,
            protocol: 3,
            scope: 0,
            kind: 1,
            priority: None,
            preferred_source: None,
            preference: None,
            metrics: std::collections::BTreeMap::new(),
            expires_s: None,
            hops: vec![hop],
        }
    }

    #[test]
    fn same_networks_differ_in_nothing() {
        let network = Network { interfaces: vec![interface("eth0", 0, &["10.0.0.2"])], ..Network::default() };
        assert_eq!(difference(&network, &network), []);
    }

    #[test]
    fn new_network_comes_from_the_link_up_and_routers_after_the_ways_to_them() {
        let default = route("0.0.0.0", 0, Some("10.1.0.1"), false);
        let on_link = route("10.1.0.1", 32, None, false);
        let far = route("10.9.0.0", 16, Some("10.8.0.1"), true);
        let new = Network {
            interfaces: vec![interface("eth0", 0, &["10.0.0.2"])],
            routes: vec![default, far, on_link],
            ..Network::default()
        };
        let eth0 = &new.interfaces[0];
        let nothing = Network::default();
        assert_eq!(
            difference(&nothing, &new),
            [
                Change::AddInterface(eth0),
                Change::AddAddress(eth0, &eth0.addresses[0]),
                Change::FinishInterface(eth0),
                Change::AddRoute(&new.routes[2]),
                Change::AddRoute(&new.routes[1]),
                Change::AddRoute(&new.routes[0]),
            ]
        );
        let removed = difference(&new, &nothing);
        assert_eq!(removed[0], Change::RemoveRoute(&new.routes[0]));
        assert_eq!(removed.last(), Some(&Change::RemoveInterface(eth0)));
    }

    #[test]
    fn interface_that_changes_is_set_and_one_of_another_slot_is_another() {
        let old = Network { interfaces: vec![interface("eth0", 0, &["10.0.0.2"])], ..Network::default() };
        let mut new = old.clone();
        new.interfaces[0].mtu = 1400;
        new.interfaces[0].addresses = interface("", 0, &["10.0.0.3"]).addresses;
        let (before, after) = (&old.interfaces[0], &new.interfaces[0]);
        assert_eq!(
            difference(&old, &new),
            [
                Change::RemoveAddress(before, &before.addresses[0]),
                Change::SetInterface(before, after),
                Change::AddAddress(after, &after.addresses[0]),
            ]
        );
        let other = Network { interfaces: vec![interface("eth0", 1, &[])], ..Network::default() };
        assert_eq!(
            difference(&old, &other),
            [
                Change::RemoveInterface(before),
                Change::AddInterface(&other.interfaces[0]),
                Change::FinishInterface(&other.interfaces[0]),
            ]
        );
    }

    fn one_interface(addresses: &[&str], routes: Vec<Route>) -> Network {
        Network { interfaces: vec![interface("eth0", 0, addresses)], routes, ..Network::default() }
    }

    #[test]
    fn what_goes_with_the_last_address_is_added_again() {
        let routes = vec![
            route("10.0.0.1", 32, None, false),
            route("0.0.0.0", 0, Some("10.0.0.1"), false),
            route("::", 0, None, false),
        ];
        let (old, new) = (one_interface(&["10.0.0.2"], routes.clone()), one_interface(&["10.0.0.3"], routes));
        assert_eq!(
            difference(&old, &new),
            [
                Change::RemoveAddress(&old.interfaces[0], &old.interfaces[0].addresses[0]),
                Change::AddAddress(&new.interfaces[0], &new.interfaces[0].addresses[0]),
                Change::AddRoute(&new.routes[0]),
                Change::AddRoute(&new.routes[1]),
            ]
        );
    }

    #[test]
    fn what_goes_with_a_first_address_is_added_again_and_what_is_of_another_network_stays() {
        let routes = vec![route("0.0.0.0", 0, Some("10.1.0.1"), false)];
        let old = one_interface(&["10.0.0.2", "10.0.0.3", "10.1.0.4", "fd00::1"], routes.clone());
        let new = one_interface(&["10.0.0.3", "10.1.0.4"], routes);
        assert_eq!(
            difference(&old, &new),
            [
                Change::RemoveAddress(&old.interfaces[0], &old.interfaces[0].addresses[0]),
                Change::RemoveAddress(&old.interfaces[0], &old.interfaces[0].addresses[3]),
                Change::AddAddress(&new.interfaces[0], &new.interfaces[0].addresses[0]),
            ]
        );
    }

    #[test]
    fn first_address_of_a_network_is_the_first_afterwards() {
        for (before, after) in [
            (&["10.0.0.2"][..], &["10.0.0.3", "10.0.0.2"][..]),
            (&["10.0.0.2", "10.0.0.3"], &["10.0.0.3", "10.0.0.2"]),
        ] {
            let (old, new) = (one_interface(before, Vec::new()), one_interface(after, Vec::new()));
            let changes = difference(&old, &new);
            assert_eq!(
                changes[0],
                Change::RemoveAddress(&old.interfaces[0], &old.interfaces[0].addresses[0])
            );
            let added = new.interfaces[0].addresses.iter();
            let added: Vec<_> = added.map(|one| Change::AddAddress(&new.interfaces[0], one)).collect();
            assert_eq!(changes[1..], added);
        }
        // In another network it stands by itself.
        let (old, new) =
            (one_interface(&["10.0.0.2"], Vec::new()), one_interface(&["10.1.0.3", "10.0.0.2"], Vec::new()));
        let one = Change::AddAddress(&new.interfaces[0], &new.interfaces[0].addresses[0]);
        assert_eq!(difference(&old, &new), [one]);
    }

    #[test]
    fn route_from_an_address_that_goes_is_added_again_wherever_it_leads() {
        let mut far = route("10.9.0.0", 16, None, false);
        far.hops[0].interface = Some("eth1".into());
        far.preferred_source = Some(ip("10.0.0.2"));
        let with = |addresses: &[&str]| Network {
            interfaces: vec![interface("eth0", 0, addresses), interface("eth1", 1, &[])],
            routes: vec![far.clone()],
            ..Network::default()
        };
        let (old, new) = (with(&["10.0.0.2"]), with(&[]));
        let changes = difference(&old, &new);
        assert_eq!(changes[0], Change::RemoveRoute(&old.routes[0]));
        assert_eq!(changes.last(), Some(&Change::AddRoute(&new.routes[0])));
    }

    #[test]
    fn times_of_an_address_are_set_without_taking_it_away() {
        let old = one_interface(&["10.0.0.2"], vec![route("0.0.0.0", 0, Some("10.0.0.1"), false)]);
        let mut new = old.clone();
        new.interfaces[0].addresses[0].valid_s = Some(60);
        new.interfaces[0].addresses[0].priority = Some(7);
        let set = Change::AddAddress(&new.interfaces[0], &new.interfaces[0].addresses[0]);
        assert_eq!(difference(&old, &new), [set]);
        // The kernel does not change a label of one that is there.
        new.interfaces[0].addresses[0].label = Some("eth0:1".into());
        assert_eq!(
            difference(&old, &new)[0],
            Change::RemoveAddress(&old.interfaces[0], &old.interfaces[0].addresses[0])
        );
    }

    #[test]
    fn peer_of_an_ipv6_address_is_set_and_taken_away_with_the_address() {
        let (without, mut with) =
            (one_interface(&["fd00::1"], Vec::new()), one_interface(&["fd00::1"], Vec::new()));
        with.interfaces[0].addresses[0].peer = Some(ip("fd00::2"));
        let set = Change::AddAddress(&with.interfaces[0], &with.interfaces[0].addresses[0]);
        assert_eq!(difference(&without, &with), [set]);
        let removed = Change::RemoveAddress(&with.interfaces[0], &with.interfaces[0].addresses[0]);
        assert_eq!(difference(&with, &without)[0], removed);
    }

    #[test]
    fn interface_that_was_made_anew_has_all_that_was_on_the_old_one() {
        let vlan =
            Interface::new("eth0.5", NetworkDevice::Vlan { parent: "eth0".into(), id: 5, protocol: 0x8100 });
        let neighbour = Neighbour {
            address: ip("10.0.0.9"),
            interface: "eth0".into(),
            mac: vec![2, 0, 0, 0, 0, 9],
            router: false,
        };
        let on = |slot| Network {
            interfaces: vec![interface("eth0", slot, &["10.0.0.2"]), vlan.clone()],
            routes: vec![route("0.0.0.0", 0, Some("10.0.0.1"), false)],
            neighbours: vec![neighbour.clone()],
            ..Network::default()
        };
        let (old, new) = (on(0), on(1));
        assert_eq!(
            difference(&old, &new),
            [
                Change::RemoveInterface(&old.interfaces[1]),
                Change::RemoveInterface(&old.interfaces[0]),
                Change::AddInterface(&new.interfaces[0]),
                Change::AddInterface(&new.interfaces[1]),
                Change::AddAddress(&new.interfaces[0], &new.interfaces[0].addresses[0]),
                Change::FinishInterface(&new.interfaces[0]),
                Change::FinishInterface(&new.interfaces[1]),
                Change::AddNeighbour(&new.neighbours[0]),
                Change::AddRoute(&new.routes[0]),
            ]
        );
    }

    #[test]
    fn rules_that_every_namespace_has_go_and_come_back() {
        let first = Rule { family: 2, action: 1, table: 255, protocol: 2, ..Rule::default() };
        let without = Network { missing_rules: vec![first], ..Network::default() };
        let with = Network::default();
        assert_eq!(difference(&with, &without), [Change::RemoveRule(&without.missing_rules[0])]);
        assert_eq!(difference(&without, &with), [Change::AddRule(&without.missing_rules[0])]);
    }

    #[test]
    fn of_many_routes_those_that_differ_are_found() {
        let routes = |metrics: std::ops::Range<u32>| {
            let one = |metric| Route { priority: Some(metric), ..route("10.9.0.0", 16, None, false) };
            metrics.map(one).collect()
        };
        let old = Network { routes: routes(0..5_000), ..Network::default() };
        let new = Network { routes: routes(1..5_001), ..Network::default() };
        let expected = [Change::RemoveRoute(&old.routes[0]), Change::AddRoute(&new.routes[4_999])];
        assert_eq!(difference(&old, &new), expected);
    }
}

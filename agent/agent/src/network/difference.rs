//! What is to be done to come from one network to another: a pure function of both.

use vmrun_proto::{Address, Interface, Neighbour, Network, Route, Rule};

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
pub(super) fn difference<'n>(old: &'n Network, new: &'n Network) -> Vec<Change<'n>> {
    let mut changes = Vec::new();
    changes.extend(missing(&old.rules, &new.rules).map(Change::RemoveRule));
    let mut gone: Vec<_> = missing(&old.routes, &new.routes).collect();
    gone.sort_by_key(|route| std::cmp::Reverse(place(route)));
    changes.extend(gone.into_iter().map(Change::RemoveRoute));
    changes.extend(missing(&old.neighbours, &new.neighbours).map(Change::RemoveNeighbour));
    for interface in &old.interfaces {
        if let Some(kept) = same(&new.interfaces, interface) {
            let gone = interface.addresses.iter().filter(|address| !has(&kept.addresses, address));
            changes.extend(gone.map(|address| Change::RemoveAddress(interface, address)));
        }
    }
    // One that is made on another goes before it.
    let gone = old.interfaces.iter().rev().filter(|interface| same(&new.interfaces, interface).is_none());
    changes.extend(gone.map(Change::RemoveInterface));
    for interface in &new.interfaces {
        match same(&old.interfaces, interface) {
            None => changes.push(Change::AddInterface(interface)),
            Some(before) if without_addresses(before) != without_addresses(interface) => {
                changes.push(Change::SetInterface(before, interface));
            }
            Some(_) => {}
        }
    }
    for interface in &new.interfaces {
        let before = same(&old.interfaces, interface);
        let had = before.map_or(&[][..], |before| &before.addresses);
        let new = interface.addresses.iter().filter(|address| !has(had, address));
        changes.extend(new.map(|address| Change::AddAddress(interface, address)));
        if before.is_none() {
            changes.push(Change::FinishInterface(interface));
        }
    }
    changes.extend(missing(&new.neighbours, &old.neighbours).map(Change::AddNeighbour));
    let mut added: Vec<_> = missing(&new.routes, &old.routes).collect();
    added.sort_by_key(|route| place(route));
    changes.extend(added.into_iter().map(Change::AddRoute));
    changes.extend(missing(&new.rules, &old.rules).map(Change::AddRule));
    changes
}

/// The same interface, whatever it has become. Under another name, or carried by another device,
/// it is another one.
fn same<'n>(among: &'n [Interface], interface: &Interface) -> Option<&'n Interface> {
    among.iter().find(|other| other.name == interface.name && other.device == interface.device)
}

fn without_addresses(interface: &Interface) -> Interface {
    Interface { addresses: Vec::new(), ..interface.clone() }
}

fn has(addresses: &[Address], wanted: &Address) -> bool {
    addresses.contains(wanted)
}

fn missing<'n, T: PartialEq>(from: &'n [T], in_: &'n [T]) -> impl Iterator<Item = &'n T> {
    from.iter().filter(|one| !in_.contains(one))
}

/// A router must be known to be reachable before a route leads to it: routes without one come first,
/// and among them the most exact ones.
fn place(route: &Route) -> (bool, std::cmp::Reverse<u8>) {
    let needs_another = route.hops.iter().any(|hop| hop.gateway.is_some() && !hop.onlink);
    (needs_another, std::cmp::Reverse(route.destination.bits))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use vmrun_proto::{Hop, NetworkDevice, Prefix};

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
}

//! What routers advertise: the host has heard of it before the sandbox was there.
//!
//! From then on advertisements reach the guest, which renews its addresses and routes by itself, and the host hears
//! none: there they end after a while. So what was told once stays as it was told for as long as the guest listens.

use std::collections::BTreeSet;

use vmrun_proto::{Address, Interface, Network, Route};

/// `IFAPROT_KERNEL_RA` and `RTPROT_RA`: whose addresses and routes these are.
const ADDRESS: u8 = 2;
const ROUTE: u8 = 9;

pub(super) fn is_address(address: &Address) -> bool {
    address.protocol == ADDRESS
}

pub(super) fn is_route(route: &Route) -> bool {
    route.protocol == ROUTE && route.destination.address.is_ipv6()
}

/// Has `new` hold what the guest has been `told` of that, as it was told.
pub(super) fn keep(told: &Network, new: &mut Network) {
    let mut listening = BTreeSet::new();
    for before in told.interfaces.iter().filter(|interface| listens(interface)) {
        let mut interfaces = new.interfaces.iter_mut();
        let same = |now: &&mut Interface| (&now.name, &now.device) == (&before.name, &before.device);
        let Some(now) = interfaces.find(same).filter(|now| listens(now)) else { continue };
        listening.insert(before.name.as_str());
        for (place, address) in before.addresses.iter().enumerate().filter(|(_, one)| is_address(one)) {
            match now.addresses.iter_mut().find(|one| one.address == address.address) {
                Some(there) if is_address(there) => there.clone_from(address),
                // Somebody has set it by hand.
                Some(_) => {}
                None => now.addresses.insert(place.min(now.addresses.len()), address.clone()),
            }
        }
    }
    let leads = |route: &Route| {
        let mut interfaces = route.hops.iter().map(|hop| hop.interface.as_deref());
        interfaces.all(|name| name.is_some_and(|name| listening.contains(name)))
    };
    for (place, route) in told.routes.iter().enumerate().filter(|(_, one)| is_route(one) && leads(one)) {
        let same = |one: &&mut Route| Route { expires_s: route.expires_s, ..(**one).clone() } == *route;
        match new.routes.iter_mut().filter(|one| is_route(one)).find(same) {
            Some(there) => there.clone_from(route),
            None => new.routes.insert(place.min(new.routes.len()), route.clone()),
        }
    }
}

/// Whether the guest hears routers there (`ipv6_accept_ra`).
fn listens(interface: &Interface) -> bool {
    let setting = |name: &str, default| interface.settings.get(name).copied().unwrap_or(default);
    let accepts = match setting("ipv6/accept_ra", 1) {
        0 => false,
        1 => setting("ipv6/forwarding", 0) == 0,
        _ => true,
    };
    interface.up && accepts && setting("ipv6/disable_ipv6", 0) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn address(ip: &str, protocol: u8, valid: u32) -> Value {
        json!({ "address": ip, "prefix": 64, "protocol": protocol, "valid_s": valid })
    }

    fn network(addresses: &[Value], routes: &[(u8, u32)], settings: &Value) -> Network {
        let route = |(protocol, expires): &(u8, u32)| {
            json!({ "destination": { "address": "::", "bits": 0 }, "table": 254, "protocol": protocol, "scope": 0,
                "kind": 1, "expires_s": expires, "hops": [{ "interface": "eth0", "gateway": "fe80::1" }] })
        };
        let routes: Vec<_> = routes.iter().map(route).collect();
        let interface = json!({ "name": "eth0", "device": "loopback", "up": true, "addresses": addresses,
            "settings": settings });
        serde_json::from_value(json!({ "interfaces": [interface], "routes": routes })).unwrap()
    }

    #[test]
    fn what_was_advertised_stays_as_it_was_told_and_all_else_goes() {
        let (advertised, own) = (address("fd00::1", 2, 90), address("fd00::2", 0, 90));
        let told = network(&[advertised.clone(), own], &[(9, 60), (3, 60)], &json!({}));
        let kept = network(std::slice::from_ref(&advertised), &[(9, 60)], &json!({}));
        // They have ended on the host, or have less left.
        let mut ended = network(&[], &[], &json!({}));
        keep(&told, &mut ended);
        assert_eq!(ended, kept);
        let mut older = network(&[address("fd00::1", 2, 50)], &[(9, 20)], &json!({}));
        keep(&told, &mut older);
        assert_eq!(older, kept);
        // Somebody has set it for good, and one that is new comes as it is.
        let set = network(&[address("fd00::1", 0, 0), address("fd00::3", 2, 70)], &[(9, 60)], &json!({}));
        let mut now = set.clone();
        keep(&told, &mut now);
        assert_eq!(now, set);
    }

    #[test]
    fn guest_that_hears_no_routers_keeps_nothing() {
        let told = network(&[address("fd00::1", 2, 90)], &[(9, 60)], &json!({}));
        for settings in [
            json!({ "ipv6/accept_ra": 0 }),
            json!({ "ipv6/forwarding": 1 }),
            json!({ "ipv6/disable_ipv6": 1 }),
        ] {
            let gone = network(&[], &[], &settings);
            let mut now = gone.clone();
            keep(&told, &mut now);
            assert_eq!(now, gone);
        }
        let mut down = network(&[], &[], &json!({}));
        down.interfaces[0].up = false;
        keep(&told, &mut down);
        assert!(down.interfaces[0].addresses.is_empty() && down.routes.is_empty());
    }
}

//! Settings of an interface that are not the kernel's own. Not each of them is for the guest: what is
//! about devices of the host, or about tunnels, is left out.

use vmrun_netlink::route::link::{Inet6DevConf, InetDevConf};
use vmrun_proto::INTERFACE_SETTINGS;

type Changed = Vec<(String, i32)>;

/// Those of `values` that are not the kernel's default.
fn changed(family: &str, values: &[(&str, i32)]) -> Changed {
    let named = values.iter().map(|(name, value)| (format!("{family}/{name}"), *value));
    let is_default = |(name, value): &(String, i32)| {
        INTERFACE_SETTINGS.iter().any(|(known, default)| known == name && default == value)
    };
    named.filter(|setting| !is_default(setting)).collect()
}

pub(super) fn ipv4(conf: &InetDevConf) -> Changed {
    changed(
        "ipv4",
        &[
            ("accept_local", conf.accept_local),
            ("accept_redirects", conf.accept_redirects),
            ("accept_source_route", conf.accept_source_route),
            ("arp_accept", conf.arp_accept),
            ("arp_announce", conf.arp_announce),
            ("arp_filter", conf.arpfilter),
            ("arp_ignore", conf.arp_ignore),
            ("arp_notify", conf.arp_notify),
            ("forwarding", conf.forwarding),
            ("log_martians", conf.log_martians),
            ("promote_secondaries", conf.promote_secondaries),
            ("proxy_arp", conf.proxy_arp),
            ("route_localnet", conf.route_localnet),
            ("rp_filter", conf.rp_filter),
            ("secure_redirects", conf.secure_redirects),
            ("send_redirects", conf.send_redirects),
            ("shared_media", conf.shared_media),
            ("src_valid_mark", conf.src_vmark),
        ],
    )
}

pub(super) fn ipv6(conf: &Inet6DevConf) -> Changed {
    changed(
        "ipv6",
        &[
            ("accept_dad", conf.accept_dad),
            ("accept_ra", conf.accept_ra),
            ("accept_ra_defrtr", conf.accept_ra_defrtr),
            ("accept_ra_pinfo", conf.accept_ra_pinfo),
            ("accept_redirects", conf.accept_redirects),
            ("autoconf", conf.autoconf),
            ("dad_transmits", conf.dad_transmits),
            ("disable_ipv6", conf.disable_ipv6),
            ("forwarding", conf.forwarding),
            ("hop_limit", conf.hoplimit),
            ("keep_addr_on_down", conf.keep_addr_on_down),
            ("ndisc_notify", conf.ndisc_notify),
            ("optimistic_dad", conf.optimistic_dad),
            ("proxy_ndp", conf.proxy_ndp),
            ("use_tempaddr", conf.use_tempaddr),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_are_looked_at_have_a_default() {
        let names: Vec<_> = [ipv4(&InetDevConf::default()), ipv6(&Inet6DevConf::default())].concat();
        // What is 0 by default is 0 here, too.
        let defaults = INTERFACE_SETTINGS.iter().filter(|(_, default)| *default != 0);
        let expected: Vec<_> = defaults.map(|(name, _)| ((*name).to_owned(), 0)).collect();
        assert_eq!(names, expected);
    }
}

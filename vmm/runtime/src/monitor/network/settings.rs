//! Settings of an interface that are not the kernel's own. Not each of them is for the guest: what is
//! about devices of the host, or about tunnels, is left out.

use vmrun_netlink::route::link::{Inet6DevConf, InetDevConf};

type Changed = Vec<(String, i32)>;

fn changed(family: &str, settings: &[(&str, i32, i32)]) -> Changed {
    let changed = settings.iter().filter(|(_, value, default)| value != default);
    changed.map(|(name, value, _)| (format!("{family}/{name}"), *value)).collect()
}

pub(super) fn ipv4(conf: &InetDevConf) -> Changed {
    changed(
        "ipv4",
        &[
            ("accept_local", conf.accept_local, 0),
            ("accept_redirects", conf.accept_redirects, 1),
            ("accept_source_route", conf.accept_source_route, 1),
            ("arp_accept", conf.arp_accept, 0),
            ("arp_announce", conf.arp_announce, 0),
            ("arp_filter", conf.arpfilter, 0),
            ("arp_ignore", conf.arp_ignore, 0),
            ("arp_notify", conf.arp_notify, 0),
            ("forwarding", conf.forwarding, 0),
            ("log_martians", conf.log_martians, 0),
            ("promote_secondaries", conf.promote_secondaries, 0),
            ("proxy_arp", conf.proxy_arp, 0),
            ("route_localnet", conf.route_localnet, 0),
            ("rp_filter", conf.rp_filter, 0),
            ("secure_redirects", conf.secure_redirects, 1),
            ("send_redirects", conf.send_redirects, 1),
            ("shared_media", conf.shared_media, 1),
            ("src_valid_mark", conf.src_vmark, 0),
        ],
    )
}

pub(super) fn ipv6(conf: &Inet6DevConf) -> Changed {
    changed(
        "ipv6",
        &[
            ("accept_dad", conf.accept_dad, 1),
            ("accept_ra", conf.accept_ra, 1),
            ("accept_ra_defrtr", conf.accept_ra_defrtr, 1),
            ("accept_ra_pinfo", conf.accept_ra_pinfo, 1),
            ("accept_redirects", conf.accept_redirects, 1),
            ("autoconf", conf.autoconf, 1),
            ("dad_transmits", conf.dad_transmits, 1),
            ("disable_ipv6", conf.disable_ipv6, 0),
            ("forwarding", conf.forwarding, 0),
            ("hop_limit", conf.hoplimit, 64),
            ("keep_addr_on_down", conf.keep_addr_on_down, 0),
            ("ndisc_notify", conf.ndisc_notify, 0),
            ("optimistic_dad", conf.optimistic_dad, 0),
            ("proxy_ndp", conf.proxy_ndp, 0),
            ("use_tempaddr", conf.use_tempaddr, 0),
        ],
    )
}

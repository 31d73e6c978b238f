//! A namespace that is changed while the sandbox runs, by several steps at once as engines and daemons do it: what the
//! guest has then is what a container beside it sees.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use super::network::{Net, end, exec, sleeping, until_exec_says};
use crate::support::{BOTH, Bundle, Detached, Runtime, wait};

/// Addresses, routes, rules and neighbours, without what the kernel does by itself and vmrun's own taps. What is
/// left of lifetimes is not told, but whether there is an end.
const VIEW: &str = "addresses() {
        ip -o $1 addr show dev eth0 | grep -v fe80 | sed 's/^[0-9]*: //; s/@[^ ]*//; s/ nodad//; s/ flags 02//; s/[0-9]*sec/limited/g' | tr -s ' '
    }
    addresses -4; addresses -6
    for family in -4 -6; do
        ip $family route show table all | grep -v 'table local\\|fe80\\|vmrun\\|ff00' |
            sed 's/expires [0-9]*sec/expires/; s/ pref medium//; s/ error [-0-9]*//; s/  *$//' | sort
        ip $family rule
    done
    ip neigh show nud permanent | grep -v vmrun | sed 's/ used .* probes [0-9]*//; s/  *$//' | sort";

/// What a container has that is in the namespace itself.
#[track_caller]
fn view(net: &Net) -> String {
    let outcome = net.bundle(VIEW).run_on(Runtime::Crun);
    outcome.exits(0);
    outcome.out()
}

/// Does all of it without a pause.
#[track_caller]
pub(super) fn at_once(net: &Net, lines: &str) {
    let mut ip = Command::new("ip");
    let ip = ip.args(["-n", &net.name, "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut ip = ip.spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = ip.wait_with_output().unwrap();
    assert!(output.status.success(), "{lines}: {output:?}");
}

/// Until the guest has what `net` has, which has `trait_` now.
#[track_caller]
fn until_same(container: &Detached, net: &Net, trait_: &str) {
    let wanted = view(net);
    assert!(wanted.contains(trait_), "{wanted}");
    wait::until_or(&wanted, || {
        let said = exec(container, VIEW);
        if said == wanted { Ok(()) } else { Err(said) }
    });
}

/// What a daemon of routing leaves behind: several tables, rules and hops, routers off the link, neighbours.
const ROUTED: &str = "addr add 10.88.1.2/24 dev eth0 valid_lft 5000 preferred_lft 4000
    route add 169.254.1.1 dev eth0 scope link
    route add 10.66.0.0/16 via 169.254.1.1 dev eth0
    route add 10.67.0.0/16 via 192.0.2.1 dev eth0 onlink table 1000
    route add 10.68.0.0/16 nexthop via 10.88.0.1 weight 3 nexthop via 10.88.0.9 weight 1
    route add 10.69.0.0/16 via 10.88.0.1 src 10.88.1.2 mtu 1300 metric 7
    route add prohibit 10.70.0.0/16
    route add unreachable fd00:70::/32
    route add fd00:71::/32 via fd00:88::1 metric 99
    rule add from 10.88.1.2 lookup 1000 pref 500
    rule add iif eth0 fwmark 1/0xff lookup 1000 pref 501
    neigh add 10.88.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
    neigh add fd00:88::77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
";

#[test]
fn what_goes_with_an_address_or_an_interface_comes_back() {
    let net = Net::with_eth0();
    at_once(&net, ROUTED);
    net.inside(&["-6", "rule", "add", "from", "fd00:88::2", "lookup", "1000", "pref", "502"]);
    let wanted = view(&net);
    let bundle = net.bundle(&format!("{VIEW}; echo ready; sleep 1000"));
    let container = sleeping(&bundle);
    let seen = String::from_utf8(container.started.stdout.so_far()).unwrap();
    assert_eq!(seen, format!("{wanted}ready\n"), "from the start");
    // All routes of IPv4 go with the last address, and come back.
    at_once(
        &net,
        "addr flush dev eth0 scope global
        addr add 10.88.0.7/16 brd + dev eth0
        addr add 10.88.0.8/16 dev eth0
        addr add fd00:88::7/64 dev eth0 nodad
        route add default via 10.88.0.1
        route replace default via fd00:88::1
        route add 10.66.0.0/16 via 10.88.0.9
        ",
    );
    until_same(&container, &net, "10.88.0.8/16");
    // The first address of a network takes the second along; the second comes back as the first.
    at_once(
        &net,
        "addr del 10.88.0.7/16 dev eth0\n addr add 10.88.0.8/16 dev eth0\n route replace default via 10.88.0.1\n",
    );
    until_same(&container, &net, "10.88.0.8/16");
    // Which of a network's addresses is the first counts.
    at_once(
        &net,
        "addr del 10.88.0.8/16 dev eth0\n addr add 10.88.0.9/16 dev eth0\n addr add 10.88.0.8/16 dev eth0\n",
    );
    until_same(&container, &net, "10.88.0.8/16");
    at_once(
        &net,
        "addr del 10.88.0.9/16 dev eth0\n addr add 10.88.0.8/16 dev eth0\n route replace default via 10.88.0.1\n",
    );
    until_same(&container, &net, "10.88.0.8/16");
    // A lease that is renewed, and one that nobody shall use any more.
    at_once(&net, "addr change 10.88.0.8/16 dev eth0 valid_lft 900 preferred_lft 800\n");
    until_same(&container, &net, "limited");
    at_once(&net, "addr change fd00:88::7/64 dev eth0 valid_lft 900 preferred_lft 800\n");
    until_same(&container, &net, "fd00:88::7");
    at_once(&net, "addr change fd00:88::7/64 dev eth0 valid_lft 900 preferred_lft 0\n");
    until_same(&container, &net, "deprecated");
    at_once(&net, "link set eth0 down\n");
    until_exec_says(&container, "cat /sys/class/net/eth0/flags", "0x1002\n");
    at_once(
        &net,
        "link set eth0 up\n addr add fd00:88::2/64 dev eth0 nodad\n route add default via 10.88.0.1\n",
    );
    until_same(&container, &net, "default via 10.88.0.1");
    // Another interface of the same name in the place of the first.
    let far = net.far();
    at_once(
        &net,
        &format!(
            "link del eth0
            link add eth0 type veth peer name eth0 netns {far}
            addr add 10.88.0.8/16 dev eth0
            link set eth0 up
            neigh add 10.88.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
            route add default via 10.88.0.1
            "
        ),
    );
    net.outside(&["addr", "add", "10.88.0.1/16", "dev", "eth0"]);
    net.outside(&["link", "set", "eth0", "up"]);
    until_same(&container, &net, "02:00:00:00:00:77");
    assert_eq!(exec(&container, "ping -c 1 -W 30 10.88.0.1 >/dev/null && echo reached"), "reached\n");
    // What every namespace has can be moved and removed.
    at_once(&net, "rule add pref 100 lookup local\n rule del pref 0\n rule del pref 32767\n");
    net.inside(&["-6", "rule", "del", "pref", "0"]);
    until_same(&container, &net, "100:");
    at_once(&net, "rule add pref 0 lookup local\n rule del pref 100\n");
    net.inside(&["-6", "rule", "add", "pref", "0", "lookup", "local"]);
    until_same(&container, &net, "0:\tfrom all lookup local");
    end(&container);
    assert_eq!(net.traces(), "");
}

#[test]
fn router_that_no_route_leads_to_any_more_still_routes() {
    let net = Net::with_eth0();
    at_once(
        &net,
        "route add 192.0.2.1 dev eth0\n route add 10.66.0.0/16 via 192.0.2.1\n route del 192.0.2.1\n",
    );
    let seen = BOTH.map(|runtime| {
        let outcome = net.bundle("ip route | grep 10.66 | sed 's/ onlink//; s/ *$//'").run_on(runtime);
        outcome.exits(0);
        outcome.out()
    });
    assert_eq!(seen, ["10.66.0.0/16 via 192.0.2.1 dev eth0\n"; 2]);
}

/// Values of settings, each on a line of its own.
fn settings(names: &[&str]) -> String {
    names.iter().map(|name| format!("cat /proc/sys/net/{name};")).collect()
}

#[track_caller]
fn set(net: &Net, name: &str, value: &str) {
    let write = format!("echo '{value}' > /proc/sys/net/{name}");
    let status = Command::new("ip").args(["netns", "exec", &net.name, "sh", "-c", &write]).status().unwrap();
    assert!(status.success(), "{write}");
}

#[test]
fn settings_follow_there_and_back_and_leave_the_containers_own_alone() {
    let net = Net::with_eth0();
    set(&net, "ipv6/conf/eth0/disable_ipv6", "1");
    let bundle = net.bundle("echo ready; sleep 1000").set("/linux/readonlyPaths", json!([]));
    let container = sleeping(&bundle);
    let look =
        settings(&["ipv6/conf/eth0/disable_ipv6", "ipv4/conf/eth0/forwarding", "ipv4/conf/eth0/arp_ignore"]);
    assert_eq!(exec(&container, &look), "1\n0\n0\n");
    // The container's own.
    exec(&container, "echo 2 >/proc/sys/net/ipv4/conf/eth0/arp_ignore");
    set(&net, "ipv6/conf/eth0/disable_ipv6", "0");
    set(&net, "ipv4/conf/eth0/forwarding", "1");
    net.inside(&["addr", "add", "fd00:88::9/64", "dev", "eth0", "nodad"]);
    until_exec_says(&container, "ip -o -6 addr show dev eth0 | grep -c fd00:88::9", "1\n");
    until_exec_says(&container, &look, "0\n1\n2\n");
    for (value, addresses) in [("1", "0\n"), ("0", "1\n")] {
        set(&net, "ipv6/conf/lo/disable_ipv6", value);
        until_exec_says(&container, "ip -o -6 addr show dev lo | wc -l", addresses);
    }
    set(&net, "ipv4/conf/eth0/forwarding", "0");
    net.inside(&["link", "set", "eth0", "mtu", "1400"]);
    until_exec_says(&container, &format!("cat /sys/class/net/eth0/mtu; {look}"), "1400\n0\n0\n2\n");
    end(&container);
}

#[test]
fn settings_of_the_whole_namespace_hold_from_the_start() {
    let net = Net::with_eth0();
    let set_by_plugins = [
        ("core/somaxconn", "77"),
        ("ipv4/ip_local_port_range", "2000\t3000"),
        ("ipv4/ip_unprivileged_port_start", "80"),
        ("ipv4/tcp_keepalive_time", "60"),
        ("ipv6/conf/lo/disable_ipv6", "1"),
    ];
    set_by_plugins.iter().for_each(|(name, value)| set(&net, name, value));
    let names = set_by_plugins.map(|(name, _)| name);
    let bundle =
        net.bundle(&settings(&names)).set("/linux/sysctl", json!({ "net.ipv4.tcp_keepalive_time": "90" }));
    // A runtime writes the bundle's own into the namespace, which has them from then on: crun is the second.
    let seen = [Runtime::Vmrun, Runtime::Crun].map(|runtime| bundle.run_on(runtime).out());
    assert_eq!(seen, ["77\n2000\t3000\n80\n90\n1\n"; 2]);
    assert_eq!(bundle_of(&net, "ip -o -6 addr show dev lo | wc -l"), ["0\n"; 2]);
}

fn bundle_of(net: &Net, script: &str) -> [String; 2] {
    BOTH.map(|runtime| net.bundle(script).run_on(runtime).out())
}

#[test]
fn raw_sockets_want_their_capability() {
    let net = Net::with_eth0();
    let script = "ping -c 1 10.88.0.1 2>&1 | tail -n 1; echo; nc -w 1 10.88.0.1 9; echo tried";
    let bundle = net.joined_by(Bundle::shell(script)).capabilities(&["CAP_KILL"]);
    let seen = BOTH.map(|runtime| bundle.run_on(runtime).out());
    assert!(seen[0].contains("not permitted") || seen[0].contains("denied"), "{seen:?}");
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn tunnel_of_the_namespace_is_refused_by_name() {
    let net = Net::with_eth0();
    net.inside(&["link", "add", "vx7", "type", "vxlan", "id", "7", "dev", "eth0", "dstport", "4789"]);
    net.bundle("true").run().fails_with(1, &["vx7", "packets of another interface", "; "]);
    assert_eq!(net.traces(), "");
}

//! Interfaces that get another name or address, go and come back, and what is told of them too fast to be heard.

use std::fs;
use std::process::Command;

use super::network::{Background, Net, end, exec, ip, run, sleeping, until_exec_says};
use super::network_changes::at_once;
use crate::support::{Bundle, Detached, Run, Scratch, place, wait};

/// Answers to who comes to port 7000: the host's own network, which answers pings to the same address, does not.
const ANSWERS: &str = "while :; do echo from-inside | nc -l -p 7000; done & echo ready; sleep 1000";

/// Asks the guest from the other end.
fn is_reached(net: &Net, address: &str) -> Result<(), String> {
    let ask = format!("{}/bin/busybox nc -w 5 {address} 7000", place().busybox.display());
    // It would end when it has nothing more to say.
    let (silent, _open) = std::io::pipe().unwrap();
    let output = net.far_shell(&ask).stdin(silent).output().unwrap();
    if output.stdout == b"from-inside\n" { Ok(()) } else { Err(format!("{output:?}")) }
}

#[track_caller]
fn until_reached(net: &Net, address: &str) {
    wait::until_or(address, || is_reached(net, address));
}

#[track_caller]
fn in_namespace(net: &Net, words: &[&str]) {
    run(Command::new("ip").args(["netns", "exec", &net.name]).args(words));
}

/// Until what the interface receives is led to its tap.
#[track_caller]
fn until_led(net: &Net, interface: &str) {
    wait::until_or("a redirection", || {
        let show = ["netns", "exec", &net.name, "tc", "filter", "show", "dev", interface, "ingress"];
        let filters = String::from_utf8(run(Command::new("ip").args(show)).stdout).unwrap();
        if filters.contains("mirred") { Ok(()) } else { Err(filters) }
    });
}

#[track_caller]
fn until_carried(net: &Net) {
    wait::until_or("a tap", || {
        let traces = net.traces();
        if traces.contains("vmrun-tap") { Ok(()) } else { Err(traces) }
    });
}

#[test]
fn interface_that_is_renamed_and_gets_an_address_has_both_in_the_guest() {
    let net = Net::with_eth0();
    let bundle = net.bundle(ANSWERS);
    let container = sleeping(&bundle);
    // As libnetwork does it, with a look between.
    let far = net.far();
    net.inside(&["link", "add", "x7", "type", "veth", "peer", "name", "eth1", "netns", &far]);
    net.outside(&["addr", "add", "10.55.0.1/24", "dev", "eth1"]);
    net.outside(&["link", "set", "eth1", "up"]);
    until_exec_says(&container, "ls /sys/class/net", "eth0\nlo\nx7\n");
    at_once(
        &net,
        "link set x7 name eth1
        link set eth1 address 02:00:00:00:00:99
        addr add 10.55.0.2/24 dev eth1
        link set eth1 up
        ",
    );
    until_exec_says(
        &container,
        "ls /sys/class/net; cat /sys/class/net/eth1/address",
        "eth0\neth1\nlo\n02:00:00:00:00:99\n",
    );
    until_reached(&net, "10.55.0.2");
    net.inside(&["link", "set", "eth1", "address", "02:00:00:00:00:98"]);
    until_exec_says(&container, "cat /sys/class/net/eth1/address", "02:00:00:00:00:98\n");
    // Whom it has told of its address before forgets it.
    net.outside(&["neigh", "flush", "dev", "eth1"]);
    until_reached(&net, "10.55.0.2");
    at_once(&net, "link set eth1 down\n link set eth1 name eth2\n link set eth2 up\n");
    until_exec_says(&container, "ls /sys/class/net", "eth0\neth2\nlo\n");
    until_reached(&net, "10.55.0.2");
    end(&container);
    assert_eq!(net.traces(), "");
}

#[test]
fn vlan_that_comes_later_carries_tagged_frames_and_goes() {
    let net = Net::with_eth0();
    let bundle = net.bundle(ANSWERS);
    let container = sleeping(&bundle);
    net.outside(&["link", "add", "link", "eth0", "name", "eth0.5", "type", "vlan", "id", "5"]);
    net.outside(&["addr", "add", "10.5.0.1/24", "dev", "eth0.5"]);
    net.outside(&["link", "set", "eth0.5", "up"]);
    at_once(
        &net,
        "link add link eth0 name eth0.5 type vlan id 5
        addr add 10.5.0.2/24 dev eth0.5
        link set eth0.5 up
        ",
    );
    until_reached(&net, "10.5.0.2");
    net.inside(&["link", "delete", "eth0.5"]);
    until_exec_says(&container, "ls /sys/class/net", "eth0\nlo\n");
    end(&container);
}

/// Does it while the sandbox looks at nothing: it finds what has come of it.
#[track_caller]
fn unseen(container: &Detached, act: impl FnOnce()) {
    container.verb("pause", &[]).prints("");
    act();
    container.verb("resume", &[]).prints("");
}

#[test]
fn interface_that_was_elsewhere_or_lost_its_queue_carries_frames_again() {
    let (net, other) = (Net::with_eth0(), Net::new());
    let bundle = net.bundle(ANSWERS);
    let container = sleeping(&bundle);
    until_reached(&net, "10.88.0.2");
    until_led(&net, "eth0");
    // It comes back under its number, without its queue.
    unseen(&container, || {
        net.inside(&["link", "set", "eth0", "netns", &other.name]);
        other.inside(&["link", "set", "eth0", "netns", &net.name]);
        at_once(
            &net,
            "addr add 10.88.0.2/16 dev eth0\n link set eth0 up\n route add default via 10.88.0.1\n",
        );
    });
    until_reached(&net, "10.88.0.2");
    until_led(&net, "eth0");
    in_namespace(&net, &["tc", "qdisc", "del", "dev", "eth0", "ingress"]);
    until_reached(&net, "10.88.0.2");
    until_led(&net, "eth0");
    let tap = "tc qdisc del dev $(ls /sys/class/net | grep vmrun-tap) ingress";
    in_namespace(&net, &["sh", "-c", tap]);
    until_reached(&net, "10.88.0.2");
    until_led(&net, "eth0");
    in_namespace(&net, &["tc", "filter", "del", "dev", "eth0", "ingress"]);
    until_reached(&net, "10.88.0.2");
    end(&container);
    assert_eq!(net.traces(), "");
}

/// How often somebody who listens to changes of the namespace had no room for one: the next that it reads is `ENOBUFS`
/// (`netlink_overrun`).
fn lost_news(net: &Net) -> u64 {
    let show = ["netns", "exec", &net.name, "cat", "/proc/net/netlink"];
    let sockets = String::from_utf8(run(Command::new("ip").args(show)).stdout).unwrap();
    let lost = sockets.lines().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        // Of NETLINK_ROUTE (0), and in a group.
        [_, "0", _, groups, _, _, _, _, drops, _] if groups != "00000000" => drops.parse::<u64>().ok(),
        _ => None,
    });
    lost.sum()
}

#[test]
fn more_news_than_there_is_room_for_are_no_loss() {
    let net = Net::with_eth0();
    let bundle = net.bundle("echo ready; sleep 1000");
    let container = sleeping(&bundle);
    let changes: String = (0..4000)
        .map(|number| {
            let to = format!("10.{}.{}.0/24", 100 + number / 250, number % 250);
            let gone = if number % 1000 == 0 { String::new() } else { format!("route del {to}\n") };
            format!("route add {to} via 10.88.0.1\n{gone}")
        })
        .collect();
    assert_eq!(lost_news(&net), 0);
    unseen(&container, || at_once(&net, &changes));
    assert!(lost_news(&net) > 0, "there was room for all of them");
    until_exec_says(&container, "ip route | grep -c '/24 via 10.88.0.1'", "4\n");
    net.inside(&["route", "del", "10.100.0.0/24"]);
    until_exec_says(&container, "ip route | grep -c '/24 via 10.88.0.1'", "3\n");
    end(&container);
}

#[test]
fn changes_that_a_pause_interrupts_reach_the_guest_after_it() {
    let (net, scratch) = (Net::with_eth0(), Scratch::new());
    let bundle = net.bundle("echo ready; sleep 1000");
    let container = Run::of(&bundle).option("--log").option(scratch.join("log")).detach();
    container.started.stdout.await_text(0, "ready\n");
    for number in 1..=20 {
        net.inside(&["addr", "add", &format!("10.77.{number}.2/24"), "dev", "eth0"]);
        unseen(&container, || net.inside(&["addr", "add", &format!("10.78.{number}.2/24"), "dev", "eth0"]));
    }
    until_exec_says(&container, "ip -o -4 addr show dev eth0 | grep -c '10.7[78].'", "40\n");
    end(&container);
    // Nobody has waited for a guest that stood still.
    assert_eq!(fs::read_to_string(scratch.join("log")).unwrap_or_default(), "");
}

#[test]
fn interface_that_has_gone_by_the_time_it_is_carried_is_left_out() {
    let net = Net::with_eth0();
    let comes_and_goes =
        "while :; do ip link add short type dummy; ip link set short up; ip link delete short; done";
    let busy =
        Background::start(Command::new("ip").args(["netns", "exec", &net.name, "sh", "-c", comes_and_goes]));
    for _ in 0..5 {
        net.bundle("ping -c 1 -W 60 10.88.0.1 >/dev/null && echo reached").run().prints("reached\n");
    }
    drop(busy);
    assert_eq!(net.traces(), "");
}

#[test]
fn what_cannot_be_carried_is_refused_at_the_start_however_long_it_has_been_there() {
    let net = Net::new();
    let bundle = net.bundle("true");
    let container = Run::of(&bundle).create();
    net.inside(&["link", "add", "br7", "type", "bridge"]);
    net.add("eth0");
    // By now it has been looked at.
    until_carried(&net);
    container.verb("start", &[]).fails_with(1, &["br7", "bridge"]);
    net.inside(&["link", "delete", "br7"]);
    container.verb("start", &[]).prints("");
    container.await_status("stopped");
    container.delete();
}

#[test]
fn what_the_guest_has_refused_is_tried_again() {
    let (net, scratch) = (Net::with_eth0(), Scratch::new());
    let bundle = net.bundle("echo ready; sleep 1000");
    let container = Run::of(&bundle).option("--log").option(scratch.join("log")).detach();
    container.started.stdout.await_text(0, "ready\n");
    // The container has the name.
    exec(&container, "ip link add eth1 type bridge");
    net.add("eth1");
    wait::until_or("the refusal", || {
        // It is there once there is something to say.
        let log = fs::read_to_string(scratch.join("log")).unwrap_or_default();
        if log.contains("does not follow") { Ok(()) } else { Err(log) }
    });
    // What it waits for has to wait, too.
    unseen(&container, || {});
    exec(&container, "ip link delete eth1");
    let mac = String::from_utf8(
        run(Command::new("ip").args(["netns", "exec", &net.name, "cat", "/sys/class/net/eth1/address"]))
            .stdout,
    );
    until_exec_says(&container, "cat /sys/class/net/eth1/address 2>/dev/null; true", &mac.unwrap());
    end(&container);
}

/// Advertises fd00:77::/64, whose addresses are there for so many seconds.
const ADVERTISE: &str = "
import socket, struct, sys
eth0 = socket.if_nametoindex('eth0')
router = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
lifetime = int(sys.argv[1])
# A router for nothing but the prefix (RFC 4861, 4.2 and 4.6.2), which is on the link and for addresses.
message = struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 0, 0, 0)
message += struct.pack('!BBBBIII16s', 3, 4, 64, 0xc0, lifetime, lifetime, 0, socket.inet_pton(socket.AF_INET6, 'fd00:77::'))
router.sendto(message, ('ff02::1', 0, 0, eth0))
";

/// Until there is, or is not, an address by which the namespace sends, as a router has advertised it.
#[track_caller]
fn until_advertised(net: &Net, advertised: bool, act: impl Fn()) {
    wait::until("what a router advertises", || {
        act();
        let show = ["-n", &net.name, "-6", "addr", "show", "dev", "eth0", "-tentative"];
        let output = run(Command::new("ip").args(show));
        (String::from_utf8(output.stdout).unwrap().contains("fd00:77:") == advertised).then_some(())
    });
}

#[test]
fn address_that_a_router_advertised_is_the_guests_to_renew() {
    let net = Net::with_eth0();
    let advertise = |seconds: &str| {
        let mut router = Command::new("ip");
        run(router.args(["netns", "exec", &net.far(), "python3", "-I", "-S", "-c", ADVERTISE, seconds]));
    };
    let bundle = net.bundle("echo ready; sleep 1000");
    until_advertised(&net, true, || advertise("5000"));
    let container = sleeping(&bundle);
    let seen = "ip -o -6 addr show dev eth0 | grep -c fd00:77:";
    assert_eq!(exec(&container, seen), "1\n");
    // The guest alone hears this.
    advertise("9000");
    until_exec_says(
        &container,
        "ip -6 addr show dev eth0 | grep -A 1 fd00:77: | grep -c 'valid_lft [89]...sec'",
        "1\n",
    );
    // There it ends, as it does for who hears no more of it.
    net.inside(&["addr", "flush", "dev", "eth0", "to", "fd00:77::/64"]);
    until_advertised(&net, false, || {});
    // All that has happened by now has been followed when this has.
    net.inside(&["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    until_exec_says(&container, "ip -o -4 addr show dev eth0 | grep -c 10.77.0.2", "1\n");
    assert_eq!(exec(&container, seen), "1\n");
    end(&container);
}

#[test]
fn ways_that_only_the_host_knows_are_refused_by_name_and_its_secrets_are_not_needed() {
    let net = Net::with_eth0();
    let secret = "echo fd00::1234 >/proc/sys/net/ipv6/conf/eth0/stable_secret";
    in_namespace(&net, &["sh", "-c", secret]);
    net.bundle("ip -o -6 addr show dev eth0 | grep -c fd00:88::2").run().prints("1\n");
    net.inside(&["link", "set", "eth0", "mtu", "65535"]);
    net.bundle("true").run().fails_with(1, &["eth0", "65521", "; "]);
    net.inside(&["link", "set", "eth0", "mtu", "65521"]);
    net.bundle("cat /sys/class/net/eth0/mtu").run().prints("65521\n");
    in_namespace(&net, &["sh", "-c", "echo 0 >/proc/sys/net/ipv4/nexthop_compat_mode"]);
    net.inside(&["nexthop", "add", "id", "5", "via", "10.88.0.1", "dev", "eth0"]);
    net.inside(&["route", "add", "10.60.0.0/16", "nhid", "5"]);
    net.bundle("true").run().fails_with(1, &["10.60.0.0/16", "; set net.ipv4.nexthop_compat_mode=1"]);
    in_namespace(&net, &["sh", "-c", "echo 1 >/proc/sys/net/ipv4/nexthop_compat_mode"]);
    net.bundle("ip route | grep -o '10.60.*via 10.88.0.1'").run().prints("10.60.0.0/16 via 10.88.0.1\n");
    assert_eq!(net.traces(), "");
}

/// Joins groups of both versions of IP, and says which datagrams come.
const LISTENER: &str = "
import socket
eth0 = socket.if_nametoindex('eth0')
for family, group in (socket.AF_INET, '224.9.9.9'), (socket.AF_INET6, 'ff05::99'):
    heard = socket.socket(family, socket.SOCK_DGRAM)
    heard.bind((group, 9999))
    joined = socket.inet_pton(family, group)
    if family == socket.AF_INET:
        heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined + socket.inet_aton('10.9.0.2'))
    else:
        heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined + eth0.to_bytes(4, 'little'))
    print(heard.recv(100).decode(), flush=True)
";

/// Sends to the groups until somebody ends it.
const SPEAKER: &str = "
import socket, time
groups = (socket.AF_INET, '224.9.9.9'), (socket.AF_INET6, 'ff05::99')
speaks = [(socket.socket(family, socket.SOCK_DGRAM), group) for family, group in groups]
for speaker, _ in speaks:
    speaker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'peer1')
while True:
    for speaker, group in speaks:
        speaker.sendto(b'to group %s' % group.encode(), (group, 9999))
    time.sleep(0.1)
";

#[test]
fn groups_that_the_guest_joins_are_heard_through_an_interface_that_filters() {
    let net = Net::new();
    // A macvlan takes the frames of the groups alone that somebody on the host's side has joined.
    let made = "set -e
        ip link add lower1 type dummy; ip link set lower1 up
        ip link add link lower1 name peer1 type macvlan mode bridge
        ip link add link lower1 name eth0 netns $near type macvlan mode bridge
        ip addr add 10.9.0.1/24 dev peer1; ip addr add fd00:9::1/64 dev peer1 nodad; ip link set peer1 up
        ip route add 224.0.0.0/4 dev peer1";
    run(net.far_shell(made).env("near", &net.name));
    net.inside(&["addr", "add", "10.9.0.2/24", "dev", "eth0"]);
    net.inside(&["addr", "add", "fd00:9::2/64", "dev", "eth0", "nodad"]);
    net.inside(&["link", "set", "eth0", "up"]);
    let speaker = ["netns", "exec", &net.far(), "python3", "-I", "-S", "-c", SPEAKER];
    let speaker = Background::start(Command::new("ip").args(speaker));
    let outcome = net.joined_by(Bundle::python(LISTENER)).run();
    drop(speaker);
    outcome.prints("to group 224.9.9.9\nto group ff05::99\n");
    assert_eq!(net.traces(), "");
    ip(&["-n", &net.far(), "link", "delete", "lower1"]);
}

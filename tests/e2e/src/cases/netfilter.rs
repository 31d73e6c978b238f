//! Rules of netfilter in the namespace hold in the guest.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::network::{Net, exec, run};
use crate::support::{BOTH, Bundle, Detached, Run, Runtime, new_id, place, wait};

/// Port 80 answers, and what the namespace's rules say decides on the others.
const SERVES: &str = "mkdir /tmp/www && echo served >/tmp/www/index.html
    for port in 80 82 83 84 85; do httpd -p $port -h /tmp/www; done
    echo ready; sleep 1000";

/// As a mesh's plugin makes them: a redirection, sets with and without a name, an interface by its number,
/// a comment, a figure, a chain of its own, a map of verdicts.
const RULES: &str = "table ip mesh {
    counter seen { }
    set closed { type inet_service; elements = { 82 } }
    chain inbound { meta l4proto tcp counter name seen redirect to :80 comment \"to the proxy\"; }
    chain in { type nat hook prerouting priority dstnat; iif eth0 tcp dport { 8080, 8090-8099 } counter jump inbound; }
    chain filter {
        type filter hook input priority filter; policy accept;
        tcp dport vmap { 9 : drop, 83 : jump refused }
        tcp dport @closed reject with tcp reset
    }
    chain refused { reject with tcp reset; }
}
table ip6 mesh {
    chain in { type nat hook prerouting priority dstnat; tcp dport 8080 redirect to :80; }
}
";

/// Programs of the host's, for a container that has none: they come with their libraries.
const HOSTS: &str = "export XTABLES_LIBDIR=/host/lib/x86_64-linux-gnu/xtables
    libraries=/host/lib/x86_64-linux-gnu
    hosts() { program=/host/$1; shift; $libraries/ld-linux-x86-64.so.2 --library-path $libraries $program \"$@\"; }
    iptables() { hosts sbin/xtables-nft-multi iptables \"$@\"; }";

/// A namespace with rules.
struct Ruled {
    net: Net,
}

impl Ruled {
    fn new() -> Self {
        Self { net: Net::with_eth0() }
    }

    fn inside(&self, script: &str) {
        run(Command::new("ip").args(["netns", "exec", &self.net.name, "sh", "-c", script]));
    }

    /// What is served at a port, as the other side sees it.
    fn at(&self, address: &str) -> String {
        let busybox = place().busybox.join("bin/busybox");
        let (host, port) = address.rsplit_once(':').unwrap();
        let host = host.trim_matches(['[', ']']);
        let get = format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | {} nc -w 30 {host} {port} 2>&1 | tail -n 1",
            busybox.display()
        );
        let output = self.net.far_shell(&get).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        if said.contains("refused") || said.contains("reset") { "refused\n".to_owned() } else { said }
    }

    /// A container in it; a hook makes the rules.
    fn start(&self, on: Runtime, rules: &Path, store: &Path) -> (Bundle, Detached) {
        let nft = format!("ip netns exec {} nft -f {}", self.net.name, rules.display());
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", nft] });
        let bundle = self.net.bundle(SERVES).push("/hooks/createRuntime", hook);
        let bundle = bundle.bind(Path::new("/usr"), "/host", &["ro"]);
        let container = Run::of(&bundle).on(on).store(store).detach();
        container.started.stdout.await_text(0, "ready\n");
        (bundle, container)
    }

    fn until_at(&self, address: &str, wanted: &str) {
        wait::until_or(address, || {
            let said = self.at(address);
            if said == wanted { Ok(()) } else { Err(said) }
        });
    }
}

#[test]
fn rules_of_the_namespace_hold_and_follow_and_those_of_the_container_stay() {
    let rules = std::env::temp_dir().join(new_id());
    fs::write(&rules, RULES).unwrap();
    for runtime in BOTH {
        let store = tempfile::tempdir().unwrap();
        let ruled = Ruled::new();
        ruled.inside("iptables -t nat -A PREROUTING -p tcp --dport 86 -j ACCEPT");
        let (_bundle, container) = ruled.start(runtime, &rules, store.path());
        // Made by a hook.
        for (address, wanted) in [
            ("10.88.0.2:80", "served\n"),
            ("10.88.0.2:8080", "served\n"),
            ("10.88.0.2:8095", "served\n"),
            ("[fd00:88::2]:8080", "served\n"),
            ("10.88.0.2:82", "refused\n"),
            ("10.88.0.2:83", "refused\n"),
        ] {
            assert_eq!(ruled.at(address), wanted, "{runtime:?}: {address}");
        }
        // The container has its own in the same chain. Nobody serves at port 7.
        let own = "iptables -t nat -A PREROUTING -p tcp --dport 84 -j REDIRECT --to-ports 7";
        assert_eq!(exec(&container, &format!("{HOSTS}; {own}; echo $?")), "0\n", "{runtime:?}");
        ruled.until_at("10.88.0.2:84", "refused\n");
        // While it runs, by iptables with its extensions, behind the container's and before them.
        ruled.inside(
            "iptables -t nat -A PREROUTING -d 10.88.0.2 -p tcp --dport 8081 -j REDIRECT --to-ports 80",
        );
        let new = "PREROUTING -p tcp --dport 85 -m conntrack --ctstate NEW -m comment --comment new \
            -j REDIRECT --to-ports 7";
        ruled.inside(&format!("iptables -t nat -I {new}"));
        ruled.until_at("10.88.0.2:8081", "served\n");
        ruled.until_at("10.88.0.2:85", "refused\n");
        let order = format!("{HOSTS}; iptables -t nat -S PREROUTING | grep -o 'dport [0-9]*' | xargs");
        assert_eq!(exec(&container, &order), "dport 85 dport 86 dport 84 dport 8081\n", "{runtime:?}");
        // And away again, elements of a set, too.
        ruled.inside("nft delete element ip mesh closed '{ 82 }'");
        ruled.until_at("10.88.0.2:82", "served\n");
        ruled.inside(&format!("iptables -t nat -D {new}"));
        ruled.until_at("10.88.0.2:85", "served\n");
        ruled.inside("nft delete table ip mesh");
        ruled.until_at("10.88.0.2:8080", "refused\n");
        ruled.until_at("10.88.0.2:83", "served\n");
        for (address, wanted) in [("10.88.0.2:84", "refused\n"), ("10.88.0.2:8081", "served\n")] {
            assert_eq!(ruled.at(address), wanted, "{runtime:?}: {address}");
        }
        container.end().exits(0);
    }
    fs::remove_file(rules).unwrap();
}

#[test]
fn rule_that_the_guest_cannot_have_is_refused_by_name() {
    let ruled = Ruled::new();
    ruled.inside("nft 'add table netdev own; add chain netdev own in { type filter hook ingress device eth0 priority 0; policy drop; }'");
    ruled.net.bundle("true").run().fails_with(1, &["netfilter", "own"]);
    ruled.inside("nft delete table netdev own");
    ruled.inside(
        "nft 'add table ip own; add chain ip own in { type filter hook input priority 0; }; add rule ip own in iif { lo, eth0 } accept'",
    );
    ruled
        .net
        .bundle("true")
        .run()
        .fails_with(1, &["netfilter rule", "own in", "numbers of interfaces", "; "]);
    assert_eq!(ruled.net.traces(), "");
}

/// As Docker makes them for its name server, where `iptables` is the legacy one.
const OF_A_NAME_SERVER: &str = "t='iptables-legacy -t nat'; set -e
    $t -N DOCKER_OUTPUT; $t -A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
    $t -N DOCKER_POSTROUTING; $t -A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
    $t -A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:34567
    $t -A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport 34567 -j SNAT --to-source :53";

#[test]
fn rules_of_legacy_iptables_are_refused_by_table_unless_the_guest_does_without_them() {
    let ruled = Ruled::new();
    let is_fine = || {
        ruled.net.bundle("echo fine").run().prints("fine\n");
    };
    let is_refused = |table: &str| {
        ruled.net.bundle("true").run().fails_with(1, &["iptables-legacy", table, "; ", "iptables-nft"]);
    };
    // Tables are made by a look, and let everything go.
    ruled.inside("iptables-legacy -t nat -S && iptables-legacy -S && ip6tables-legacy -t mangle -S");
    is_fine();
    ruled.inside(OF_A_NAME_SERVER);
    is_fine();
    ruled.inside("iptables-legacy -t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 80");
    is_refused("tables nat)");
    ruled.inside("iptables-legacy -t nat -D PREROUTING 1 && iptables-legacy -P INPUT DROP");
    is_refused("tables filter)");
    ruled.inside(
        "iptables-legacy -P INPUT ACCEPT && ip6tables-legacy -t mangle -A INPUT -j MARK --set-mark 1",
    );
    is_refused("tables mangle)");
    assert_eq!(ruled.net.traces(), "");
}

/// A network namespace behind a bridge of the container's own, whose addresses nobody else knows.
const BEHIND_A_BRIDGE: &str = "set -e
    unshare -n sleep 1000 & pid=$!
    until [ \"$(readlink /proc/$pid/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.1; done
    hosts bin/ip link add br0 type bridge; ip addr add 10.200.0.1/24 dev br0; ip link set br0 up
    hosts bin/ip link add v0 type veth peer name v1
    hosts bin/ip link set v0 master br0 up; hosts bin/ip link set v1 netns $pid
    nsenter -t $pid -n sh -c 'ip addr add 10.200.0.2/24 dev v1; ip link set v1 up; ip route add default via 10.200.0.1'
    echo 1 >/proc/sys/net/ipv4/ip_forward
    iptables -t nat -A POSTROUTING -s 10.200.0.0/24 -o eth0 -j MASQUERADE
    nsenter -t $pid -n ping -c 1 -W 30 10.88.0.1 >/dev/null && echo reached
    kill $pid";

#[test]
fn container_routes_and_masquerades_for_a_namespace_behind_a_bridge_of_its_own() {
    for runtime in BOTH {
        // A runtime that shares the kernel leaves the bridge in it.
        let net = Net::with_eth0();
        let bundle = net
            .bundle(&format!("{HOSTS}\n{BEHIND_A_BRIDGE}"))
            .capabilities(&["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_KILL"])
            .set("/linux/readonlyPaths", json!([]))
            .bind(Path::new("/usr"), "/host", &["ro"]);
        let outcome = bundle.run_on(runtime);
        outcome.exits(0);
        assert_eq!(outcome.out(), "reached\n", "{outcome:?}");
        assert_eq!(net.traces(), "", "{runtime:?}");
    }
}

//! The network of a namespace in the guest.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{BOTH, Bundle, Detached, Run, Runtime, end_of, new_id, place, wait};

/// A command and all that it starts: they end when this does, also in a test that fails.
pub(super) struct Background(Child);

impl Background {
    #[track_caller]
    pub(super) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).process_group(0).spawn().unwrap())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // They may have ended by themselves.
        let _ = i32::try_from(self.0.id()).map(|group| killpg(Pid::from_raw(group), Signal::SIGKILL));
        let _ = self.0.wait();
    }
}

/// A network namespace whose `eth0` is one end of a pair; the other end is in another namespace, where
/// an engine has its bridge.
pub(super) struct Net {
    pub(super) name: String,
}

impl Net {
    pub(super) fn new() -> Self {
        let name = new_id();
        let net = Self { name };
        for namespace in [net.name.clone(), net.far()] {
            ip(&["netns", "add", &namespace]);
            ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        }
        net
    }

    /// With `eth0`: 10.88.0.2/16 and fd00:88::2/64, routers at .1.
    pub(super) fn with_eth0() -> Self {
        let net = Self::new();
        net.connect();
        net
    }

    /// Adds that.
    pub(super) fn connect(&self) {
        let net = self;
        net.add("eth0");
        net.inside(&["addr", "add", "10.88.0.2/16", "brd", "10.88.255.255", "dev", "eth0"]);
        net.inside(&["addr", "add", "fd00:88::2/64", "dev", "eth0", "nodad"]);
        net.outside(&["addr", "add", "10.88.0.1/16", "dev", "eth0"]);
        net.outside(&["addr", "add", "fd00:88::1/64", "dev", "eth0", "nodad"]);
        net.inside(&["route", "add", "default", "via", "10.88.0.1"]);
        net.inside(&["route", "add", "default", "via", "fd00:88::1"]);
    }

    pub(super) fn far(&self) -> String {
        format!("{}-far", self.name)
    }

    /// One more pair with this name at both ends.
    pub(super) fn add(&self, interface: &str) {
        let far = self.far();
        ip(&[
            "-n", &self.name, "link", "add", interface, "type", "veth", "peer", "name", interface, "netns",
            &far,
        ]);
        self.inside(&["link", "set", interface, "up"]);
        self.outside(&["link", "set", interface, "up"]);
    }

    pub(super) fn inside(&self, words: &[&str]) {
        ip(&[&["-n", &self.name], words].concat());
    }

    pub(super) fn outside(&self, words: &[&str]) {
        ip(&[&["-n", &self.far()], words].concat());
    }

    /// A shell at the other end of the cable.
    pub(super) fn far_shell(&self, script: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.far(), "sh", "-c", script]);
        command
    }

    /// What of vmrun is there: taps, queues, filters.
    pub(super) fn traces(&self) -> String {
        let seen = |words: &[&str]| String::from_utf8(run(Command::new("ip").args(words)).stdout).unwrap();
        let links = seen(&["-n", &self.name, "-o", "link"]);
        let mut traces: String = links.lines().filter(|line| line.contains("vmrun")).collect();
        traces += &seen(&["netns", "exec", &self.name, "sh", "-c", "tc qdisc show | grep ingress; true"]);
        traces
    }

    pub(super) fn bundle(&self, script: &str) -> Bundle {
        self.joined_by(Bundle::shell(script))
    }

    /// A bundle that names the namespace.
    pub(super) fn joined_by(&self, bundle: Bundle) -> Bundle {
        let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
        let network = json!({ "type": "network", "path": format!("/run/netns/{}", self.name) });
        let namespaces: Vec<_> = namespaces.into_iter().chain([network]).collect();
        bundle.set("/linux/namespaces", json!(namespaces)).capabilities(&[
            "CAP_NET_RAW",
            "CAP_NET_ADMIN",
            "CAP_NET_BIND_SERVICE",
            "CAP_KILL",
        ])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [self.name.clone(), self.far()] {
            let _ = Command::new("ip").args(["netns", "delete", &namespace]).status();
        }
    }
}

pub(super) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

pub(super) fn ip(words: &[&str]) {
    run(Command::new("ip").args(words));
}

/// What a container sees of its network, without what differs from kernel to kernel.
const LOOK: &str = "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu
    ip -o -4 addr show dev eth0 | sed 's/^[0-9]*: //; s/@[^ ]*//; s/ *\\\\.*//'
    ip -o -6 addr show dev eth0 scope global | sed 's/^[0-9]*: //; s/@[^ ]*//; s/ *\\\\.*//; s/ nodad//'
    ip route; ip -6 route | grep -v fe80 | sed 's/ pref medium//; s/  *$//'";

#[track_caller]
pub(super) fn exec(container: &Detached, script: &str) -> String {
    let outcome = end_of(&mut container.exec(&[], &["sh", "-c", script]));
    // Some wait until it succeeds.
    if outcome.err().is_empty() { outcome.out() } else { format!("{}{}", outcome.out(), outcome.err()) }
}

#[track_caller]
pub(super) fn sleeping(bundle: &Bundle) -> Detached {
    let container = Run::of(bundle).detach();
    container.started.stdout.await_text(0, "ready\n");
    container
}

#[track_caller]
pub(super) fn end(container: &Detached) {
    container.verb("delete", &["--force"]).prints("");
    container.started.await_nothing_left();
}

#[track_caller]
pub(super) fn until_exec_says(container: &Detached, script: &str, wanted: &str) {
    wait::until_or(script, || {
        let said = exec(container, script);
        if said == wanted { Ok(()) } else { Err(said) }
    });
}

#[test]
fn interface_addresses_and_routes_are_those_of_the_namespace() {
    let net = Net::with_eth0();
    net.inside(&["link", "set", "eth0", "mtu", "1400"]);
    net.outside(&["link", "set", "eth0", "mtu", "1400"]);
    net.inside(&["route", "add", "10.99.0.0/16", "via", "10.88.0.9", "metric", "7"]);
    net.inside(&["route", "add", "blackhole", "10.98.0.0/16"]);
    let script =
        format!("{LOOK}; ping -c 1 -W 30 10.88.0.1 >&2 && ping -6 -c 1 -W 30 fd00:88::1 >&2 && echo reached");
    let seen = BOTH.map(|runtime| {
        let outcome = net.bundle(&script).run_on(runtime);
        outcome.exits(0);
        assert!(outcome.out().ends_with("reached\n"), "{outcome:?}");
        outcome.out()
    });
    assert_eq!(seen[0], seen[1], "crun's, then vmrun's");
    assert_eq!(net.traces(), "");
}

#[test]
fn services_on_both_sides_are_reached() {
    let net = Net::with_eth0();
    let bundle = net.bundle("echo ready; while :; do echo from-inside | nc -l -p 80; done");
    let container = sleeping(&bundle);
    let nc = format!("{}/bin/busybox nc", place().busybox.display());
    // Which end as soon as the other side has nothing more to say: so none says that before the end.
    let (silence, _open) = std::io::pipe().unwrap();
    let silent = || silence.try_clone().unwrap();
    let ask = format!("{nc} -w 30 10.88.0.2 80");
    wait::until_or("the container's service", || {
        let answer = net.far_shell(&ask).stdin(silent()).output().unwrap();
        if answer.stdout == b"from-inside\n" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let mut server = net.far_shell(&format!("{nc} -l -p 81 | wc -c"));
    let server = server.stdin(silent()).stdout(Stdio::piped()).spawn().unwrap();
    exec(&container, "until head -c 3000000 /dev/zero | nc fd00:88::1 81; do sleep 0.1; done");
    let output = server.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "3000000\n");
    end(&container);
    assert_eq!(net.traces(), "");
}

#[test]
fn what_is_changed_later_follows() {
    let net = Net::with_eth0();
    let bundle = net.bundle("echo ready; sleep 1000");
    let container = sleeping(&bundle);
    net.inside(&["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    net.inside(&["route", "add", "10.66.0.0/16", "via", "10.77.0.1"]);
    until_exec_says(&container, "ip route | grep 10.66", "10.66.0.0/16 via 10.77.0.1 dev eth0 \n");
    net.inside(&["route", "del", "10.66.0.0/16"]);
    net.inside(&["addr", "del", "10.77.0.2/24", "dev", "eth0"]);
    until_exec_says(&container, "ip route | grep -c '10.[67]'", "0\n");
    net.inside(&["link", "set", "eth0", "mtu", "1300"]);
    until_exec_says(&container, "cat /sys/class/net/eth0/mtu", "1300\n");
    net.add("eth1");
    net.inside(&["addr", "add", "10.55.0.2/24", "dev", "eth1"]);
    net.outside(&["addr", "add", "10.55.0.1/24", "dev", "eth1"]);
    until_exec_says(&container, "ip -o -4 addr show dev eth1 2>/dev/null | grep -c 10.55.0.2/24", "1\n");
    assert_eq!(exec(&container, "ping -c 1 -W 30 10.55.0.1 >/dev/null && echo reached"), "reached\n");
    net.outside(&["link", "set", "eth1", "down"]);
    until_exec_says(&container, "cat /sys/class/net/eth1/carrier", "0\n");
    net.outside(&["link", "set", "eth1", "up"]);
    until_exec_says(&container, "cat /sys/class/net/eth1/carrier", "1\n");
    net.inside(&["link", "delete", "eth1"]);
    until_exec_says(&container, "ls /sys/class/net", "eth0\nlo\n");
    // Its slot is taken again.
    net.add("eth2");
    until_exec_says(&container, "ls /sys/class/net", "eth0\neth2\nlo\n");
    end(&container);
    assert_eq!(net.traces(), "");
}

#[test]
fn network_that_comes_between_creation_and_start_is_there_at_the_start() {
    let net = Net::new();
    let bundle = net.bundle("ip -o -4 addr show dev eth0 | grep -o '10.88.0.2/16'");
    let container = Run::of(&bundle).create();
    net.add("eth0");
    net.inside(&["addr", "add", "10.88.0.2/16", "dev", "eth0"]);
    container.verb("start", &[]).prints("");
    container.started.stdout.await_text(0, "10.88.0.2/16\n");
    container.await_status("stopped");
    container.delete();
    assert_eq!(net.traces(), "");
}

#[test]
fn killed_monitor_leaves_nothing_that_outlives_the_container() {
    let net = Net::with_eth0();
    for ended_by in ["delete", "the next start"] {
        let bundle = net.bundle("echo ready; sleep 1000");
        let container = sleeping(&bundle);
        let second = net.bundle("true").run();
        second.fails_with(1, &["eth0", "another sandbox", "; "]);
        let pid = container.started.monitor();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        container.reap(pid);
        if ended_by != "delete" {
            net.bundle("ping -c 1 -W 30 10.88.0.1 >/dev/null && echo reached").run().prints("reached\n");
        }
        container.delete();
        assert_eq!(net.traces(), "", "{ended_by}");
    }
}

#[test]
fn what_cannot_be_carried_is_refused_by_name() {
    let net = Net::new();
    net.inside(&["link", "add", "br7", "type", "bridge"]);
    net.bundle("true").run().fails_with(1, &["br7", "bridge", "; "]);
    net.inside(&["link", "delete", "br7"]);
    net.inside(&["tuntap", "add", "mode", "tun", "name", "tun7"]);
    net.bundle("true").run().fails_with(1, &["tun7", "Ethernet", "; "]);
    assert_eq!(net.traces(), "");
    net.inside(&["link", "delete", "tun7"]);
    net.bundle("echo fine").run_on(Runtime::Vmrun).prints("fine\n");
    let others = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    let host = Bundle::shell("true").set("/linux/namespaces", json!(others));
    ip(&["link", "add", "e2e-probe", "type", "dummy"]);
    let outcome = host.run();
    ip(&["link", "delete", "e2e-probe"]);
    outcome.fails_with(1, &["linux.namespaces", "caller's network"]);
}

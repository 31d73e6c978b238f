//! Name servers at loopback addresses of the namespace, as Docker has one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::network::{Net, exec, run, sleeping, until_exec_says};
use crate::support::{Bundle, Runtime};

const NAME_SERVER: &str = include_str!("../programs/name_server.py");
const ASK_NAMES: &str = include_str!("../programs/ask_names.py");

/// One that serves in a namespace.
struct NameServer(Child);

impl NameServer {
    fn start(namespace: &str, words: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "python3", "-I", "-S", "-c", NAME_SERVER]).args(words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Self(child)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory for `/etc` with this server in `resolv.conf`.
fn etc(server: &str) -> TempDir {
    let etc = tempfile::tempdir().unwrap();
    name(&etc, server);
    etc
}

fn name(etc: &TempDir, server: &str) {
    fs::write(etc.path().join("resolv.conf"), format!("nameserver {server}\n")).unwrap();
}

/// A container asks the name server at `server`, which asks one at `other`, on both runtimes.
fn is_asked_alike(server: &str, other: &str) {
    let net = Net::with_eth0();
    let _near = NameServer::start(&net.name, &[server, other]);
    let _far = NameServer::start(&net.far(), &[other]);
    let etc = etc(server);
    let bundle = net.joined_by(Bundle::python(ASK_NAMES)).bind(etc.path(), "/etc", &["ro"]);
    let bundle = bundle.env(&format!("OTHER={other}"));
    // Flags, number of records and bytes of each answer.
    let expected = "address: ['10.88.0.7', 'fd00:88::7']\nname: web.test\nnobody: True\n\
        UDP: 0/1/42 3/0/29 0/1/8230\nTCP: 0/1/42 3/0/29 0/1/61478 0/1/42\n\
        outside: 0/1/45 0/1/45\nother: 0/1/45 0/1/45\n";
    bundle.run_on(Runtime::Crun).prints(expected);
    // There the port is the name server's, where no rules lead to it as with Docker's.
    bundle.env("OWN=").run().prints(&format!("{expected}port 53 is free: 0/1/42 0/1/42\n"));
    assert_eq!(net.traces(), "");
}

#[test]
fn name_server_at_loopback_answers_and_asks_others() {
    is_asked_alike("127.0.0.11", "10.88.0.1");
}

#[test]
fn name_server_at_loopback_of_ipv6_answers_and_asks_others() {
    is_asked_alike("::1", "fd00:88::1");
}

#[test]
fn name_server_that_is_named_and_not_there_may_be_the_containers_own() {
    let net = Net::new();
    let etc = etc("127.0.0.1");
    let script = "getent hosts web.test || echo nobody serves
        python3 -I -S -c \"$SERVER\" 127.0.0.1 >/tmp/said &
        until grep -q ready /tmp/said; do sleep 0.1; done
        getent hosts web.test; ls /sys/class/net";
    let bundle = net.joined_by(Bundle::debian(script)).bind(etc.path(), "/etc", &["ro"]);
    let bundle = bundle.env(&format!("SERVER={NAME_SERVER}"));
    bundle.on_both(|outcome| {
        outcome.prints("nobody serves\nfd00:88::7      web.test\nlo\n");
    });
}

#[test]
fn name_server_that_is_named_later_answers_and_one_that_is_not_any_more_does_not() {
    let net = Net::with_eth0();
    let _server = NameServer::start(&net.name, &["127.0.0.11"]);
    let etc = etc("10.88.0.1");
    let bundle = net.joined_by(Bundle::debian("echo ready; sleep 1000")).bind(etc.path(), "/etc", &["ro"]);
    let container = sleeping(&bundle);
    let filters = || {
        let shown =
            run(Command::new("tc").args(["-n", &net.name, "filter", "show", "dev", "eth0", "ingress"]));
        String::from_utf8(shown.stdout).unwrap().matches("vmrun-answers").count()
    };
    assert_eq!(filters(), 0);
    name(&etc, "127.0.0.11");
    // As an engine that has started a name server and connects another network.
    net.inside(&["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    until_exec_says(&container, "getent hosts web.test", "fd00:88::7      web.test\n");
    assert_eq!(filters(), 1);
    name(&etc, "10.88.0.1");
    net.inside(&["addr", "del", "10.77.0.2/24", "dev", "eth0"]);
    until_exec_says(&container, "grep -l 10.77.0.2 /proc/net/fib_trie || echo gone", "gone\n");
    assert_eq!(filters(), 0);
    assert_eq!(exec(&container, "getent hosts web.test || echo unknown"), "unknown\n");
    name(&etc, "127.0.0.11");
    net.inside(&["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    until_exec_says(&container, "getent hosts web.test", "fd00:88::7      web.test\n");
    // The filter outlives the monitor, as the redirection does.
    let pid = container.started.monitor();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    container.reap(pid);
    assert_eq!(filters(), 1);
    container.delete();
    assert_eq!(net.traces(), "");
}

//! The network of sandboxes that stand alone.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Bundle, Run, Scratch, Started, end_of, place, vmrun, wait};

/// Serves and asks as it is told.
const PROGRAM: &str = include_str!("../programs/network.py");

/// A name server that knows one answer.
const ONE_ANSWER: &str = include_str!("../programs/one_answer.py");

/// The host's loopback, and the address behind which a guest finds it.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const GATEWAY: &str = "10.0.2.2";

/// An answer may take as long as this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sandbox in which [`PROGRAM`] runs.
struct Sandbox {
    started: Started,
    read: usize,
}

impl Sandbox {
    fn new(bundle: &Bundle, options: &[&str]) -> Self {
        let started = Run::of(bundle).options(options).stdin(Stdio::piped()).start();
        let read = started.stdout.await_text(0, "up\n");
        Self { started, read }
    }

    #[track_caller]
    fn told(&mut self, words: &str) -> String {
        writeln!(self.started.child.stdin.as_mut().unwrap(), "{words}").unwrap();
        let end = self.started.stdout.await_text(self.read, "\n");
        let answer = String::from_utf8(self.started.stdout.so_far()[self.read..end - 1].to_vec()).unwrap();
        self.read = end;
        answer
    }

    /// The program ends with its input.
    #[track_caller]
    fn end(mut self) {
        drop(self.started.child.stdin.take());
        self.started.finish().exits(0);
    }
}

/// Whether no passt with this among its arguments is there.
fn no_passt(argument: &str) -> Result<(), String> {
    let left = passts(argument);
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
}

fn passts(argument: &str) -> Vec<Pid> {
    let is_one = |pid: &Pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split('\0');
        words.next().is_some_and(|program| program.ends_with("passt")) && words.any(|word| word == argument)
    };
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(is_one).collect()
}

/// A port of the host's that nobody has.
fn free_port() -> u16 {
    TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
}

fn ask_tcp(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"me").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Says who it is to the first who connects.
fn answer_once(listener: TcpListener) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"from the host").unwrap();
    })
}

/// A network of this thread's own and its children's, which leads out by both versions of IP.
fn enter_network_with_ipv6() {
    const OUTSIDE: [&str; 6] = [
        "link set lo up",
        "link add outside up type dummy",
        "address add 192.0.2.77/24 dev outside",
        "address add 2001:db8:77::1/64 dev outside nodad",
        "route add default via 192.0.2.1",
        "route add default via 2001:db8:77::2",
    ];
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for words in OUTSIDE {
        let set = Command::new("ip").args(words.split(' ')).status().unwrap();
        assert!(set.success(), "ip {words}");
    }
}

#[test]
fn published_ports_lead_into_the_guest_and_nothing_is_left() {
    let rates = json!({ "dev.vmrun.network.rx-rate": "10pps", "dev.vmrun.network.tx-rate": "10pps" });
    let bundle = Bundle::python(PROGRAM).set("/annotations", rates);
    let tcp = free_port();
    let mut sandbox = Sandbox::new(&bundle, &["--network", "user", "-p", &format!("{HERE}:{tcp}:80")]);
    assert_eq!(sandbox.told("serve tcp 80"), "serving");
    assert_eq!(ask_tcp((HERE, tcp).into()), "hello me");
    // Name servers of its own; those of the host that lead anywhere come after.
    assert!(sandbox.told("cat /etc/resolv.conf").starts_with("nameserver 10.0.2.3"));
    let event = vmrun(&[], &["events", "--stats", &sandbox.started.id]).ok();
    let event: Value = serde_json::from_str(&event).unwrap();
    let card = &event["data"]["dev.vmrun.network_devices"][0];
    let held_back = ["rx_limited", "tx_limited"].map(|name| card["counters"][name].as_u64().unwrap());
    assert!(card["name"] == "eth0" && held_back.iter().all(|times| *times > 0), "{card}");
    let argument = format!("{HERE}/{tcp}:80");
    assert_eq!(passts(&argument).len(), 1);
    sandbox.end();
    wait::until_or("passt to be gone", || no_passt(&argument));
    assert!(TcpStream::connect((HERE, tcp)).is_err());
}

#[test]
fn published_port_of_udp_answers_the_hosts_loopback() {
    let bundle = Bundle::python(PROGRAM);
    let udp = free_port();
    // passt of 2023 sends answers to the loopback's packets back where the loopback is behind the gateway.
    let mut sandbox = Sandbox::new(
        &bundle,
        &["--network", "user:host-loopback", "--publish", &format!("{HERE}:{udp}:53/udp")],
    );
    assert_eq!(sandbox.told("serve udp 53"), "serving");
    let socket = UdpSocket::bind((HERE, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((HERE, udp)).unwrap();
    socket.send(b"me").unwrap();
    let mut answer = [0; 100];
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"hello me");
    sandbox.end();
}

#[test]
fn loopback_of_the_host_is_behind_the_gateway_only_where_that_is_asked_for() {
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = answer_once(listener);
    let bundle = Bundle::python(PROGRAM);
    let mut apart = Sandbox::new(&bundle, &["--network=user"]);
    let answer = apart.told(&format!("try tcp {GATEWAY} {port}"));
    assert!(answer.starts_with("failed: "), "{answer}");
    apart.end();
    let mut allowed = Sandbox::new(&bundle, &["--network=user:host-loopback"]);
    assert_eq!(allowed.told(&format!("ask tcp {GATEWAY} {port}")), "from the host");
    answering.join().unwrap();
    allowed.end();
}

#[test]
fn guest_reaches_the_host_by_ipv6_and_is_reached_at_its_loopback() {
    let lives = || {
        enter_network_with_ipv6();
        let bundle = Bundle::python(PROGRAM);
        let published = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut sandbox = Sandbox::new(&bundle, &["--network=user", "-p", &format!("[::1]:{published}:80")]);
        for setting in ["accept_dad", "accept_ra", "autoconf"] {
            assert_eq!(
                sandbox.told(&format!("cat /proc/sys/net/ipv6/conf/eth0/{setting}")),
                "0",
                "{setting}"
            );
        }
        assert_eq!(sandbox.told("serve tcp 80"), "serving");
        assert_eq!(ask_tcp((Ipv6Addr::LOCALHOST, published).into()), "hello me");
        let outside: Ipv6Addr = "2001:db8:77::1".parse().unwrap();
        let listener = TcpListener::bind((outside, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = answer_once(listener);
        assert_eq!(sandbox.told(&format!("ask tcp {outside} {port}")), "from the host");
        answering.join().unwrap();
        sandbox.end();
    };
    // The network goes with the thread.
    thread::scope(|scope| scope.spawn(lives).join().unwrap());
}

/// What a container asks of [`name_server`].
const ASK: &str = "nslookup -type=a asked.test | grep -A 9 asked.test | grep -o 10.9.8.7";

/// A network as [above](enter_network_with_ipv6), of which `/etc/resolv.conf` names a server at `address`, for this
/// thread and its children.
fn name_server(scratch: &Scratch, address: &str) -> Server {
    scratch.file("resolv.conf", format!("nameserver {address}\n"));
    enter_network_with_ipv6();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some(&scratch.join("resolv.conf")), "/etc/resolv.conf", none, MsFlags::MS_BIND, none).unwrap();
    let mut server = Command::new("python3");
    server.args(["-c", ONE_ANSWER, address, "10.9.8.7"]).stdout(Stdio::piped());
    let mut server = Server(server.spawn().unwrap());
    server.0.stdout.take().unwrap().read_exact(&mut [0; 8]).unwrap();
    server
}

#[test]
fn names_are_asked_of_the_hosts_first_name_server_also_at_its_loopback() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell(ASK);
    for address in ["192.0.2.77", "127.0.0.53"] {
        let lives = || {
            let _server = name_server(&scratch, address);
            Run::of(&bundle).options(&["--network", "user"]).start().finish().prints("10.9.8.7\n");
        };
        thread::scope(|scope| scope.spawn(lives).join().unwrap());
    }
}

#[test]
fn plain_users_sandbox_resolves_names_connects_and_is_connected_to() {
    let scratch = Scratch::new();
    let root = users_root(&scratch);
    let lives = || {
        let _server = name_server(&scratch, "192.0.2.77");
        let listener = TcpListener::bind(("192.0.2.77", 0)).unwrap();
        let script = format!(
            // passt of 2023 does not always tell the guest of the end where the guest has ended its half.
            "{ASK}; nc 192.0.2.77 {} </dev/null & nc -ll -p 80 -e head -n 1 & cat",
            listener.local_addr().unwrap().port()
        );
        let answering = answer_once(listener);
        let bundle = Bundle::with_root(&root).args(&["sh", "-c", &script]);
        let published = free_port();
        let options = ["--network", "user", "-p", &format!("{HERE}:{published}:80")];
        let run = Run::of(&bundle).options(&options).store(Path::new("/tmp/user-network-ports"));
        let said = scratch.join("said");
        let file = fs::File::create(&said).unwrap();
        let mut child = as_plain_user(&run.command()).stdin(Stdio::piped()).stdout(file).spawn().unwrap();
        let said = || fs::read_to_string(&said).unwrap();
        wait::until_or("the published port", || {
            // passt of 2023 loses the words of who speaks first and ends at once.
            let ask = |mut stream: TcpStream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"served\n")?;
                std::io::read_to_string(stream)
            };
            let answer = TcpStream::connect((HERE, published)).and_then(ask);
            let (said, expected) = (said(), "10.9.8.7\nfrom the host");
            if matches!(&answer, Ok(answer) if answer == "served\n") && said == expected {
                Ok(())
            } else {
                Err(format!("{answer:?}; {said}"))
            }
        });
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        answering.join().unwrap();
    };
    thread::scope(|scope| scope.spawn(lives).join().unwrap());
}

#[test]
fn sandbox_without_a_network_has_loopback_even_if_the_bundle_shares_the_callers() {
    let shows = "ls /sys/class/net; cat /proc/net/route | wc -l";
    let bundle = Bundle::shell(shows)
        .set("/linux/namespaces", json!([{ "type": "pid" }, { "type": "mount" }, { "type": "uts" }]));
    Run::of(&bundle).options(&["--network", "none"]).start().finish().prints("lo\n1\n");
}

#[test]
fn port_that_is_taken_is_named_and_nothing_is_left() {
    let taken = TcpListener::bind((HERE, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let words = format!("{HERE}:{port}:80");
    let bundle = Bundle::shell("true");
    let outcome = Run::of(&bundle).options(&["--network", "user", "-p", &words]).start().finish();
    outcome.fails_with(1, &["cannot publish a port", &port, "in use (TCP)", "choose another", "--publish"]);
    // passt would be content with the other version of IP.
    let lives = || {
        enter_network_with_ipv6();
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let options = ["--network", "user", "-p", &format!("{port}:80")];
        let outcome = Run::of(&bundle).options(&options).start().finish();
        outcome.fails_with(1, &[&format!("0.0.0.0:{port} is in use")]);
    };
    thread::scope(|scope| scope.spawn(lives).join().unwrap());
}

#[test]
fn options_that_contradict_the_bundle_or_themselves_are_refused() {
    let bundle = Bundle::shell("true");
    let named = Bundle::shell("true").set(
        "/linux/namespaces",
        json!([{ "type": "mount" }, { "type": "network", "path": "/proc/self/ns/net" }]),
    );
    let refused: &[(&Bundle, &[&str], i32, &[&str])] = &[
        (&named, &["--network", "user"], 1, &["--network", "linux.namespaces", "/proc/self/ns/net", "leave"]),
        (&named, &["--network", "none"], 1, &["--network", "linux.namespaces"]),
        (&bundle, &["-p", "80:80"], 1, &["--publish", "--network user"]),
        (
            &bundle,
            &["--network", "user", "-p", "80:80", "-p", "[::1]:80:81"],
            1,
            &["--publish", "80", "twice"],
        ),
    ];
    for (bundle, options, code, parts) in refused {
        Run::of(bundle).options(options).start().finish().fails_with(*code, parts);
    }
    for (options, right) in [(["--network", "bridge"], "none, user"), (["-p", "80"], "8080:80")] {
        let outcome = Run::of(&bundle).options(&options).start().finish();
        assert!(outcome.exits(2).err().contains(right), "{outcome:?}");
    }
}

#[test]
fn host_without_passt_is_told_which_package_has_it() {
    let bundle = Bundle::shell("true");
    let mut command = Run::of(&bundle).options(&["--network", "user"]).command();
    command.env("PATH", "/nonexistent");
    end_of(&mut command).fails_with(1, &["passt", "PATH", "install the package passt"]);
}

#[test]
fn end_of_passt_is_the_sandboxs_and_the_reverse() {
    let bundle = Bundle::python(PROGRAM);
    let port = free_port();
    let words = format!("{HERE}:{port}:80");
    let argument = format!("{HERE}/{port}:80");
    let options = ["--network", "user", "-p", &words];

    let sandbox = Sandbox::new(&bundle, &options);
    kill(passts(&argument)[0], Signal::SIGKILL).unwrap();
    let outcome = sandbox.started.finish();
    assert!(
        outcome.exits(1).err().contains("passt, which connected the guest's network, has ended"),
        "{outcome:?}"
    );

    let sandbox = Sandbox::new(&bundle, &options);
    kill(Pid::from_raw(sandbox.started.monitor()), Signal::SIGKILL).unwrap();
    let _ = sandbox.started.finish();
    wait::until_or("passt to be gone", || no_passt(&argument));
}

/// A root file system of a plain user's, since a mount point for `/etc/resolv.conf` is made in it.
fn users_root(scratch: &Scratch) -> PathBuf {
    let root = scratch.join("root");
    let copied = Command::new("cp").arg("-a").arg(&place().busybox).arg(&root).status().unwrap();
    let given = Command::new("chown").args(["-R", "1000:1000"]).arg(&root).status().unwrap();
    assert!(copied.success() && given.success());
    root
}

fn as_plain_user(command: &Command) -> Command {
    let mut plain = Command::new("setpriv");
    plain.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    plain.arg(command.get_program()).args(command.get_args());
    plain
}

#[test]
fn several_sandboxes_and_plain_users_have_networks_at_once() {
    let bundle = Bundle::python(PROGRAM);
    let ports = [free_port(), free_port()];
    let mut sandboxes: Vec<_> = ports
        .iter()
        .map(|port| Sandbox::new(&bundle, &["--network", "user", "-p", &format!("{HERE}:{port}:80")]))
        .collect();
    for (sandbox, port) in sandboxes.iter_mut().zip(ports) {
        assert_eq!(sandbox.told("serve tcp 80"), "serving");
        assert_eq!(ask_tcp((HERE, port).into()), "hello me");
    }
    sandboxes.into_iter().for_each(Sandbox::end);

    let scratch = Scratch::new();
    let root = users_root(&scratch);
    let show = "ip -o -4 addr show dev eth0 | awk '{ print $4 }'; head -n 1 /etc/resolv.conf";
    let bundle = Bundle::with_root(&root).args(&["sh", "-c", show]);
    let command =
        Run::of(&bundle).options(&["--network", "user"]).store(Path::new("/tmp/user-network")).command();
    // What it says of subordinate ids depends on whether the host gives this user some.
    let outcome = end_of(&mut as_plain_user(&command));
    assert_eq!(outcome.ok(), "10.0.2.100/24\nnameserver 10.0.2.3\n", "{outcome:?}");
}

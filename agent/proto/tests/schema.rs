//! The wire contract, held still: one message of each kind as it is on the wire.
//!
//! A new message gets a new file, written by `UPDATE_SCHEMA=1 cargo test -p
//! vmrun-proto --test schema`; an existing file is never changed
//! (`VERSIONING.md`).

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vmrun_proto::*;

/// The value on the wire is what the file holds, and the file reads back as the value.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema").join(format!("{name}.json"));
    let frame = encode(value).unwrap();
    let body: Value = serde_json::from_slice(&frame[4..]).unwrap();
    if std::env::var_os("UPDATE_SCHEMA").is_some() && !path.exists() {
        fs::write(&path, serde_json::to_string_pretty(&body).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body, written, "{name} is written differently now");
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *value, "{name} is read differently now");
}

fn init() -> ProcessRef {
    ProcessRef { container: "web".into(), exec: None }
}

fn exec() -> ProcessRef {
    ProcessRef { container: "web".into(), exec: Some("probe".into()) }
}

fn process() -> Process {
    let process = json!({"user": {"uid": 1, "gid": 2}, "args": ["true"], "cwd": "/"});
    serde_json::from_value(process).unwrap()
}

fn process_info() -> ProcessInfo {
    ProcessInfo {
        pid: 42,
        parent: 1,
        uid: 1000,
        cpu_ms: 10,
        elapsed_ms: 2000,
        terminal: "pts/0".into(),
        command: "sleep 1".into(),
        ..ProcessInfo::default()
    }
}

fn detailed_process_info() -> ProcessInfo {
    ProcessInfo {
        inner_pid: 7,
        name: "sleep".into(),
        stat: "S 1 42 42 34816 42".into(),
        status: [("Uid".to_owned(), "1000\t1000\t1000\t1000".to_owned())].into(),
        memory_permille: 3,
        ..process_info()
    }
}

fn figures() -> ContainerFigures {
    let one = |name: &str| [(name.to_owned(), 7)].into();
    ContainerFigures {
        cpu: one("usage_usec"),
        memory: one("anon"),
        memory_events: one("oom_kill"),
        memory_bytes: 1,
        memory_peak_bytes: 2,
        memory_limit_bytes: Some(3),
        swap_bytes: 4,
        swap_limit_bytes: None,
        pids: 5,
        pids_limit: Some(6),
        huge_pages: Default::default(),
        io: vec![DeviceFigures { major: 254, minor: 0, counts: one("rbytes") }],
        pressure: Default::default(),
        interfaces: Vec::new(),
    }
}

fn plan() -> ContainerPlan {
    let spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "root": {"path": "/run/vmrun/share/rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"}
    }))
    .unwrap();
    ContainerPlan {
        spec,
        shares: vec![Share { tag: SHARE_TAG.into(), mountpoint: SHARE_MOUNT.into(), readonly: false }],
        mounts: Vec::new(),
        io: ProcessIo { stdin: true, stdout: true, stderr: true, ..ProcessIo::default() },
        bundle: String::new(),
        notify: false,
        settings: std::collections::BTreeMap::new(),
        network: None,
        disks: Vec::new(),
        root_image: None,
        sockets: Vec::new(),
    }
}

fn network() -> Network {
    let prefix = |text: &str, bits| Prefix { address: text.parse().unwrap(), bits };
    let address = Address {
        address: "10.88.0.2".parse().unwrap(),
        prefix: 16,
        peer: Some("10.88.0.1".parse().unwrap()),
        broadcast: Some("10.88.255.255".parse().unwrap()),
        label: Some("eth0:1".into()),
        scope: 253,
        flags: 0x202,
        priority: Some(7),
        preferred_s: Some(60),
        valid_s: Some(120),
        protocol: 3,
    };
    let card =
        NetworkDevice::Card { device: "virtio-mmio.16".into(), announcement: "4K@0xd0000000:16:16".into() };
    let interface = |name: &str, device: NetworkDevice| Interface {
        name: name.into(),
        device,
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        up: true,
        carrier: true,
        noarp: true,
        addresses: vec![address.clone()],
        address_mode: Some(0),
        settings: [("ipv6/disable_ipv6".into(), 1)].into(),
    };
    let vlan = NetworkDevice::Vlan { parent: "eth0".into(), id: 5, protocol: 0x8100 };
    let hop = |weight| Hop {
        interface: Some("eth0".into()),
        gateway: Some("fe80::1".parse().unwrap()),
        onlink: true,
        weight,
    };
    Network {
        interfaces: vec![
            interface("lo", NetworkDevice::Loopback),
            interface("eth0", card),
            interface("eth0.5", vlan),
        ],
        routes: vec![Route {
            destination: prefix("10.9.0.0", 16),
            source: Some(prefix("10.88.0.0", 16)),
            tos: 16,
            table: 1000,
            protocol: 4,
            scope: 253,
            kind: 1,
            priority: Some(100),
            preferred_source: Some("10.88.0.2".parse().unwrap()),
            preference: Some(1),
            metrics: [(2, 1400)].into(),
            expires_s: Some(30),
            hops: vec![hop(0), hop(9)],
        }],
        rules: vec![Rule {
            family: 2,
            priority: 100,
            action: 1,
            table: 1000,
            invert: true,
            source: Some(prefix("10.88.0.0", 16)),
            destination: Some(prefix("10.9.0.0", 16)),
            tos: 16,
            input: Some("eth0".into()),
            output: Some("eth0".into()),
            mark: Some((1, 255)),
            ip_protocol: Some(6),
            source_ports: Some((1, 2)),
            destination_ports: Some((3, 4)),
            users: Some((5, 6)),
            suppress_prefix: Some(0),
            goto: Some(200),
            protocol: 4,
        }],
        neighbours: vec![Neighbour {
            address: "10.88.0.1".parse().unwrap(),
            interface: "eth0".into(),
            mac: vec![2, 0, 0, 0, 0, 2],
            router: true,
        }],
        name_servers: Vec::new(),
        tables: Vec::new(),
        ..Network::default()
    }
}

fn request(name: &str, request: Request) {
    golden(&format!("request-{name}"), &Envelope { seq: 7, request });
}

fn reply(name: &str, reply: Reply) {
    golden(&format!("reply-{name}"), &Message::Reply { seq: 7, reply });
}

#[test]
fn hellos() {
    golden("hello-names", &Hello::Names { container: "web".into() });
    golden("hello-sockets", &Hello::Sockets { container: "web".into() });
    golden("hello-socket", &Hello::Socket { container: "web".into(), id: 3 });
    golden("hello-control", &Hello::Control { version: 1 });
    let kinds = [
        ("stdin", StreamKind::Stdin),
        ("stdout", StreamKind::Stdout),
        ("stderr", StreamKind::Stderr),
        ("terminal", StreamKind::Terminal),
    ];
    for (name, kind) in kinds {
        golden(&format!("hello-stream-{name}"), &Hello::Stream(Stream { process: exec(), kind }));
    }
}

#[test]
fn requests() {
    request("create", Request::Create { container: "web".into(), plan: Box::new(plan()) });
    let with_bundle = ContainerPlan { bundle: "/var/lib/bundles/web".into(), ..plan() };
    request("create-bundle", Request::Create { container: "web".into(), plan: Box::new(with_bundle) });
    let mount =
        SharedMount { path: format!("{SHARE_MOUNT}/volumes/0/below"), attributes: mount_attr::NOEXEC };
    let with_mounts = ContainerPlan { mounts: vec![mount], ..plan() };
    request("create-mounts", Request::Create { container: "web".into(), plan: Box::new(with_mounts) });
    let settings = [("vm/max_map_count".to_owned(), "262144".to_owned())].into();
    let with_settings = ContainerPlan { settings, ..plan() };
    request("create-settings", Request::Create { container: "web".into(), plan: Box::new(with_settings) });
    let with_notify = ContainerPlan { notify: true, ..plan() };
    request("create-notify", Request::Create { container: "web".into(), plan: Box::new(with_notify) });
    let disk = |number| Disk {
        device: "virtio-mmio.25".into(),
        announcement: "4K@0xd0019000:1:25".into(),
        name: "/run/vmrun/disks/0".into(),
        number,
    };
    let with_disks = ContainerPlan { disks: vec![disk(None), disk(Some((7, 3)))], ..plan() };
    request("create-disks", Request::Create { container: "web".into(), plan: Box::new(with_disks) });
    let of_image = |changes| {
        let root = RootImage { name: "/run/vmrun/disks/0".into(), typ: "erofs".into(), changes };
        let plan = Box::new(ContainerPlan { root_image: Some(root), ..plan() });
        Request::Create { container: "web".into(), plan }
    };
    request("create-root-image-nowhere", of_image(Changes::Nowhere));
    request("create-root-image-memory", of_image(Changes::Memory));
    request("create-root-image-disk", of_image(Changes::Disk { name: "/run/vmrun/disks/1".into() }));
    let with_network = ContainerPlan { network: Some(Box::new(network())), ..plan() };
    request("create-network", Request::Create { container: "web".into(), plan: Box::new(with_network) });
    request("network", Request::Network { container: "web".into(), network: Box::new(network()) });
    let first = Rule { family: 2, action: 1, table: 255, protocol: 2, ..Rule::default() };
    let settings = [("core/somaxconn".to_owned(), "128".to_owned())].into();
    let unusual = Network { missing_rules: vec![first], settings, ..Network::default() };
    request("network-settings", Request::Network { container: "web".into(), network: Box::new(unusual) });
    request("start", Request::Start { container: "web".into() });
    let size = ConsoleSize { rows: 24, columns: 80 };
    let io = ProcessIo { terminal: true, console_size: Some(size), ..ProcessIo::default() };
    let spec = Box::new(process());
    request("exec", Request::Exec { process: exec(), spec: spec.clone(), io, cgroup: None });
    let cgroup = Some("a/b".into());
    request("exec-cgroup", Request::Exec { process: exec(), spec, io, cgroup });
    request("signal", Request::Signal { process: init(), signal: 15, all: true });
    request("resize", Request::Resize { process: exec(), size });
    request("delete", Request::Delete { container: "web".into() });
    request("sync", Request::Sync);
    request("freeze", Request::Freeze { container: "web".into() });
    request("thaw", Request::Thaw { container: "web".into() });
    request("processes", Request::Processes { container: "web".into() });
    request("figures", Request::Figures { container: "web".into() });
    let resources =
        serde_json::from_value(json!({"memory": {"limit": 1048576}, "pids": {"limit": 7}})).unwrap();
    request("clock", Request::Clock { adjust_ns: -5_000_000 });
    let entropy = (0..32).collect();
    request("new-generation", Request::NewGeneration { entropy, realtime_ns: 1_790_000_000_000_000_000 });
    let announcement = "4K@0xd0018000:1:24".into();
    request("balloon", Request::Balloon { device: "virtio-mmio.24".into(), announcement });
    request("update", Request::Update { container: "web".into(), resources });
}

#[test]
fn replies() {
    reply("ok", Reply::Ok);
    reply("clock", Reply::Clock { realtime_ns: 1_790_000_000_000_000_000 });
    reply("started", Reply::Started { pid: 42 });
    reply("processes", Reply::Processes(vec![process_info()]));
    reply("processes-detailed", Reply::Processes(vec![detailed_process_info()]));
    reply("figures", Reply::Figures(Box::new(figures())));
    let received = PacketFigures { bytes: 1, packets: 2, errors: 3, dropped: 4 };
    let sent = PacketFigures { bytes: 5, packets: 6, errors: 7, dropped: 8 };
    let interfaces = vec![InterfaceFigures { name: "eth0".into(), received, sent }];
    let some = PressureLine { avg10: 105, avg60: 50, avg300: 1, total: 7000 };
    let pressure = [("memory".into(), PressureFigures { some, full: PressureLine::default() })].into();
    reply("figures-pressure", Reply::Figures(Box::new(ContainerFigures { pressure, ..figures() })));
    reply("figures-network", Reply::Figures(Box::new(ContainerFigures { interfaces, ..figures() })));
    let kinds = [
        ("program-not-found", ErrorKind::ProgramNotFound, Stage::Exec),
        ("program-not-executable", ErrorKind::ProgramNotExecutable, Stage::Io),
        ("invalid-config", ErrorKind::InvalidConfig, Stage::Request),
        ("not-found", ErrorKind::NotFound, Stage::Running),
        ("wrong-state", ErrorKind::WrongState, Stage::Create),
        ("failed", ErrorKind::Failed, Stage::Shares),
    ];
    for (name, kind, stage) in kinds {
        let message = "cannot do it: because".to_owned();
        reply(&format!("error-{name}"), Reply::Error(ErrorReply { kind, stage, message }));
    }
}

#[test]
fn events() {
    golden("event-ready", &Message::Event(Event::Ready { version: 1, boot_ns: 123 }));
    let code = Event::Exited { process: init(), status: ExitStatus::Code(7) };
    golden("event-exited-code", &Message::Event(code));
    let signal = Event::Exited { process: exec(), status: ExitStatus::Signal(9) };
    golden("event-exited-signal", &Message::Event(signal));
    let message = "READY=1\nSTATUS=up".to_owned();
    golden("event-notified", &Message::Event(Event::Notified { process: init(), message }));
    let memory = Event::OutOfMemory { container: "web".into(), kills: 2 };
    golden("event-out-of-memory", &Message::Event(memory));
}

#[test]
fn constants_of_the_contract() {
    assert_eq!((HOST_CID, AGENT_PORT, READY_PORT), (2, 1024, 1024));
    assert_eq!((ROOTFS_DIR, VOLUMES_DIR), ("rootfs", "volumes"));
    assert_eq!((SHARE_TAG, SHARE_MOUNT), ("vmrun", "/run/vmrun/share"));
    assert_eq!(MAX_FRAME_BYTES, 4 << 20);
}

#[test]
fn fields_with_defaults_may_be_absent_and_unknown_ones_are_ignored() {
    let text = r#"{"container":"web","new_field":1}"#;
    assert_eq!(serde_json::from_str::<ProcessRef>(text).unwrap(), init());
    assert_eq!(serde_json::from_str::<ProcessIo>("{}").unwrap(), ProcessIo::default());
}

#[test]
fn questions_for_names_and_their_answers() {
    let servers = vec!["127.0.0.11".parse().unwrap(), "::1".parse().unwrap()];
    golden("network-name-servers", &Network { name_servers: servers, ..Network::default() });
    for (name, transport) in [("udp", Transport::Udp), ("tcp", Transport::Tcp)] {
        let server = "127.0.0.11".parse().unwrap();
        golden(&format!("question-{name}"), &Question { id: 7, server, transport, message: vec![0, 255] });
    }
    golden("answer", &Answer { id: 7, message: Some(vec![0, 255]) });
    golden("answer-none", &Answer { id: 7, message: None });
}

#[test]
fn sockets_of_the_host() {
    let socket = HostSocket { path: format!("{SHARE_MOUNT}/volumes/0") };
    let with_sockets = ContainerPlan { sockets: vec![socket], ..plan() };
    request("create-sockets", Request::Create { container: "web".into(), plan: Box::new(with_sockets) });
    golden("socket-call", &SocketCall { id: 3, socket: 0 });
    golden("socket-refusal", &SocketRefusal { id: 3 });
}

#[test]
fn tables_of_netfilter() {
    use vmrun_proto::netfilter::{Attributes, Chain, Element, Object, PacketRule, Set, Table};
    let bytes = |bytes: &[u8]| Attributes(bytes.to_vec());
    let element = |expires_ms| Element { attributes: bytes(&[8, 9]), expires_ms };
    let set = |name: &str| Set {
        name: name.into(),
        id: 7,
        attributes: bytes(&[6]),
        elements: vec![element(None), element(Some(1500))],
    };
    let rule = PacketRule { handle: 4, attributes: bytes(&[0xab, 0xcd]), sets: vec![set("__set%d")] };
    let chain = Chain {
        name: "PREROUTING".into(),
        attributes: bytes(&[1, 2]),
        policy: Some(1),
        rules: vec![rule, PacketRule::default()],
    };
    let object = |kind| Object { name: "total".into(), kind, attributes: bytes(&[3]) };
    let table = Table {
        family: 2,
        name: "nat".into(),
        attributes: bytes(&[0]),
        chains: vec![chain, Chain::default()],
        objects: vec![object(Some(1)), object(None)],
        sets: vec![set("ports")],
    };
    golden("network-tables", &Network { tables: vec![table], ..Network::default() });
}

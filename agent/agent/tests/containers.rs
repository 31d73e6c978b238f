//! Containers made by the agent, without a guest: the agent serves over Unix
//! sockets, as a child subreaper instead of PID 1.
//!
//! Needs root, cgroup v2 and a root file system with busybox in
//! `VMRUN_TEST_ROOTFS`; says that it was skipped where that is missing. `tests/agent` runs them
//! in the testbed.

#![allow(clippy::unwrap_used, clippy::panic)]

mod host;

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use vmrun_proto::{ConsoleSize, ErrorKind, ExitStatus, ProcessIo, Reply, Request, StreamKind};

use host::{ALL_STREAMS, Host, init_of, shell, spec};

type Case = (&'static str, fn(&mut Host));

const CASES: &[Case] = &[
    ("exit code", exit_code),
    ("death by signal", death_by_signal),
    ("streams apart", streams_apart),
    ("stdin to stdout", stdin_to_stdout),
    ("stdin closed early", stdin_closed_early),
    ("reopened stdout", reopened_stdout),
    ("no streams", no_streams),
    ("program not found", program_not_found),
    ("program not executable", program_not_executable),
    ("environment and cwd", environment_and_cwd),
    ("cwd in a mount", cwd_in_a_mount),
    ("user and groups", user_and_groups),
    ("capabilities", capabilities),
    ("rlimits and no new privileges", rlimits_and_no_new_privileges),
    ("seccomp", seccomp),
    ("capabilities behind a filter", capabilities_behind_a_filter),
    ("start hook", start_hook),
    ("read-only root and paths", read_only_paths),
    ("read-only programs", read_only_programs),
    ("hostname and sysctl", hostname_and_sysctl),
    ("devices", devices),
    ("read-only /dev", read_only_dev),
    ("device rules", device_rules),
    ("cgroup limits", cgroup_limits),
    ("loopback", loopback),
    ("network", network),
    ("terminal", terminal),
    ("terminal opened again", terminal_opened_again),
    ("exec", exec),
    ("exec under seccomp", exec_under_seccomp),
    ("many at once", many_at_once),
    ("orphans", orphans),
    ("no pid namespace", no_pid_namespace),
    ("signals", signals),
    ("states", states),
    ("delete running", delete_running),
    ("bad configuration", bad_configuration),
    ("user namespace", user_namespace),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == host::AGENT_ARGUMENT) {
        host::be_the_agent();
    }
    let Some(rootfs) = std::env::var_os("VMRUN_TEST_ROOTFS") else {
        println!("skipped: VMRUN_TEST_ROOTFS does not name a root file system");
        return ExitCode::SUCCESS;
    };
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let chosen = CASES.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())));
    let mut failures = 0;
    for (name, case) in chosen {
        let begun = std::time::Instant::now();
        let outcome = std::panic::catch_unwind(|| {
            let mut host = Host::start(Path::new(&rootfs));
            case(&mut host);
            host.finish();
        });
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{name}: {verdict} ({:.0?})", begun.elapsed());
        failures += u32::from(outcome.is_err());
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn process(spec: &mut Value) -> &mut Value {
    &mut spec["process"]
}

fn exit_code(host: &mut Host) {
    assert_eq!(host.run(shell("exit 7")).status, ExitStatus::Code(7));
    assert_eq!(host.run(shell("true")).status, ExitStatus::Code(0));
}

fn death_by_signal(host: &mut Host) {
    // Init of its namespace is immune to its own signals: a child dies, the shell says so.
    let outcome = host.run(shell("sh -c 'kill -TERM $$'; echo $?"));
    assert_eq!(outcome.out(), "143\n");
    let mut without = shell("kill -TERM $$");
    without["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    assert_eq!(host.run(without).status, ExitStatus::Signal(libc::SIGTERM));
}

fn streams_apart(host: &mut Host) {
    let outcome = host.run(shell("echo out; echo err >&2; echo more"));
    assert_eq!((outcome.out(), outcome.err()), ("out\nmore\n".to_owned(), "err\n".to_owned()));
}

fn stdin_to_stdout(host: &mut Host) {
    let payload: Vec<u8> =
        (0u32..5 << 20).map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let outcome = host.run_with(shell("cat"), ALL_STREAMS, &payload);
    assert_eq!(outcome.stdout.len(), payload.len());
    assert!(outcome.stdout == payload, "the bytes differ");
}

fn stdin_closed_early(host: &mut Host) {
    let outcome = host.run_with(shell("exec <&-; echo done"), ALL_STREAMS, &vec![1; 1 << 20]);
    assert_eq!((outcome.out(), outcome.status), ("done\n".to_owned(), ExitStatus::Code(0)));
}

fn reopened_stdout(host: &mut Host) {
    let mut spec = shell("echo hello > /dev/stdout; echo oops > /dev/stderr");
    process(&mut spec)["user"] = json!({"uid": 1000, "gid": 1000});
    let outcome = host.run(spec);
    assert_eq!((outcome.out(), outcome.err()), ("hello\n".to_owned(), "oops\n".to_owned()));
}

fn no_streams(host: &mut Host) {
    // They are /dev/null, the container's own, which takes what is written.
    host.start_container("quiet", shell("[ /dev/null -ef /dev/fd/1 ] && echo lost && exit 7"));
    assert_eq!(host.exit_of(&init_of("quiet")), ExitStatus::Code(7));
    host.delete("quiet");
}

fn failure(host: &mut Host, spec: Value) -> (ErrorKind, String) {
    match host.try_run(spec, ALL_STREAMS, b"") {
        Ok(outcome) => panic!("it ran: {outcome:?}"),
        Err(error) => (error.kind, error.message),
    }
}

fn program_not_found(host: &mut Host) {
    for args in [json!(["no-such-program"]), json!(["/no/such/program"])] {
        let (kind, message) = failure(host, spec(&args));
        assert_eq!(kind, ErrorKind::ProgramNotFound, "{message}");
        assert!(message.contains("such"), "{message}");
    }
}

fn program_not_executable(host: &mut Host) {
    for args in [json!(["/etc/passwd"]), json!(["/etc"])] {
        let (kind, message) = failure(host, spec(&args));
        assert_eq!(kind, ErrorKind::ProgramNotExecutable, "{message}");
    }
}

fn environment_and_cwd(host: &mut Host) {
    let mut spec = shell("pwd; echo $A $HOME; env | grep -c .");
    process(&mut spec)["cwd"] = json!("/made/for/it");
    process(&mut spec)["env"] = json!(["PATH=/bin:/usr/bin:/sbin", "A=a b"]);
    let out = host.run(spec).out();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..2], ["/made/for/it", "a b /root"], "{out}");
}

fn user_and_groups(host: &mut Host) {
    let mut spec = shell(
        "id -u; id -g; grep ^Groups /proc/self/status | tr -s '\\t ' ' '; umask; touch /tmp/x; stat -c %a /tmp/x",
    );
    process(&mut spec)["user"] = json!({"uid": 12, "gid": 34, "additionalGids": [5, 6], "umask": 0o27});
    let out = host.run(spec).out();
    assert_eq!(out, "12\n34\nGroups: 5 6 \n0027\n640\n");
}

fn capabilities(host: &mut Host) {
    let mut spec = shell("grep ^Cap /proc/self/status | tr -s '\\t ' ' '");
    let set = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    process(&mut spec)["capabilities"] = json!({"bounding": set, "effective": set, "permitted": set});
    let out = host.run(spec).out();
    assert_eq!(
        out,
        "CapInh: 0000000000000000\nCapPrm: 0000000000000420\nCapEff: 0000000000000420\nCapBnd: 0000000000000420\nCapAmb: 0000000000000000\n"
    );
    let mut none = shell("grep ^CapBnd /proc/self/status | tr -s '\\t ' ' '");
    process(&mut none).as_object_mut().unwrap().remove("capabilities");
    assert_eq!(host.run(none).out(), "CapBnd: 0000000000000000\n");
}

fn rlimits_and_no_new_privileges(host: &mut Host) {
    let mut spec = shell(
        "ulimit -n; grep NoNewPrivs /proc/self/status | tr -s '\\t ' ' '; cat /proc/self/oom_score_adj",
    );
    process(&mut spec)["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]);
    process(&mut spec)["noNewPrivileges"] = json!(true);
    process(&mut spec)["oomScoreAdj"] = json!(321);
    assert_eq!(host.run(spec).out(), "77\nNoNewPrivs: 1\n321\n");
}

/// A filter that lets everything pass but `mkdir`.
fn no_mkdir() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
        ]
    })
}

fn seccomp(host: &mut Host) {
    for no_new_privileges in [true, false] {
        let mut spec = shell("mkdir /tmp/x; grep ^Seccomp: /proc/self/status | tr -s '\\t ' ' '");
        process(&mut spec)["noNewPrivileges"] = json!(no_new_privileges);
        spec["linux"]["seccomp"] = no_mkdir();
        let outcome = host.run(spec);
        assert_eq!(outcome.out(), "Seccomp: 2\n", "{}", outcome.err());
        assert!(outcome.err().contains("not supported"), "{}", outcome.err());
    }
}

fn capabilities_behind_a_filter(host: &mut Host) {
    let mut spec = shell("grep ^Cap /proc/self/status | tr -d '\\t'; mkdir /tmp/x");
    process(&mut spec)["noNewPrivileges"] = json!(false);
    process(&mut spec)["user"] = json!({"uid": 1000, "gid": 1000});
    let kill = json!(["CAP_KILL"]);
    process(&mut spec)["capabilities"] = json!({
        "bounding": kill, "effective": kill, "permitted": kill, "inheritable": kill, "ambient": kill
    });
    spec["linux"]["seccomp"] = no_mkdir();
    let outcome = host.run(spec);
    let expected: String =
        ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}:0000000000000020\n")).concat();
    assert_eq!(outcome.out(), expected, "{}", outcome.err());
    assert!(outcome.err().contains("not supported"), "{}", outcome.err());
}

fn start_hook(host: &mut Host) {
    let hook = |script: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    let mut spec = shell("cat /run/state; echo; cat /run/env");
    spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/run", "type": "tmpfs"}));
    process(&mut spec)["env"] = json!(["PATH=/bin", "A=1"]);
    spec["hooks"] = json!({"startContainer": [hook("cat >/run/state; echo $HOME $A >/run/env")]});
    let out = host.run(spec.clone()).out();
    let (state, env) = out.split_once('\n').unwrap();
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!(
        (&state["status"], &state["pid"], &state["id"]),
        (&json!("created"), &json!(1), &json!("run"))
    );
    assert_eq!(env, "/root 1\n");
    spec["hooks"] = json!({"startContainer": [hook("exit 3")]});
    assert!(failure(host, spec).1.contains("startContainer"));
}

fn read_only_paths(host: &mut Host) {
    let script = "touch /x 2>&1; touch /tmp/x && echo tmp; wc -c < /proc/kcore; ls /sys/firmware | wc -l; \
                  ls /sys/kernel | wc -l; echo 1 2>&1 > /proc/sys/vm/swappiness";
    let mut spec = shell(script);
    spec["root"]["readonly"] = json!(true);
    spec["linux"]["maskedPaths"] =
        json!(["/proc/kcore", "/sys/firmware", "/not/there", "/proc/kcore/below", "/sys/kernel"]);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/not/there"]);
    let outcome = host.run(spec);
    let out = outcome.out() + &outcome.err();
    assert!(out.contains("/x: Read-only file system") && out.contains("tmp\n0\n0\n0\n"), "{out}");
    assert!(out.contains("swappiness: Read-only file system"), "{out}");
}

fn cwd_in_a_mount(host: &mut Host) {
    for cwd in ["/tmp/made/deep", "/tmp/../tmp/made"] {
        let mut spec = shell("pwd; stat -c %a .");
        process(&mut spec)["cwd"] = json!(cwd);
        process(&mut spec)["user"] = json!({"uid": 1000, "gid": 1000});
        spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/tmp", "type": "tmpfs"}));
        let outcome = host.run(spec);
        assert!(outcome.out().starts_with("/tmp/made"), "{outcome:?}");
    }
}

fn read_only_programs(host: &mut Host) {
    let mut spec = shell("touch /bin/x; ls /bin/busybox; touch /tmp/y && echo tmp");
    spec["linux"]["readonlyPaths"] = json!(["/bin", "/none", "/proc/sys"]);
    let outcome = host.run(spec);
    assert!(outcome.out().ends_with("tmp\n"), "{outcome:?}");
    assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
}

fn hostname_and_sysctl(host: &mut Host) {
    let mut spec = shell(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward",
    );
    spec["hostname"] = json!("box");
    spec["domainname"] = json!("example");
    spec["linux"]["sysctl"] = json!({"kernel.msgmax": "4321", "net.ipv4.ip_forward": "1"});
    assert_eq!(host.run(spec).out(), "box\nexample\n4321\n1\n");
}

fn devices(host: &mut Host) {
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
                  for l in fd stdin ptmx; do readlink /dev/$l; done; stat -c '%t:%T %a' /dev/fuse";
    let mut spec = shell(script);
    spec["linux"]["devices"] = json!([
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 0, "gid": 0}
    ]);
    assert_eq!(host.run(spec).out(), "/proc/self/fd\n/proc/self/fd/0\npts/ptmx\na:e5 640\n");
}

fn read_only_dev(host: &mut Host) {
    let mut spec = shell("touch /dev/x; echo lost >/dev/null && test -c /dev/zero && echo devices");
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/dev");
    let options = json!(["nosuid", "strictatime", "mode=755", "size=65536k", "ro"]);
    let dev = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": options});
    mounts.insert(1, dev);
    let outcome = host.run(spec);
    assert_eq!(outcome.out(), "devices\n", "{outcome:?}");
    assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
}

fn device_rules(host: &mut Host) {
    let script = "mknod /dev/mem c 1 1; dd if=/dev/mem of=/dev/null bs=1 count=1 2>&1 | tail -1; head -c 3 /dev/zero | wc -c";
    let mut spec = shell(script);
    let all = json!(["CAP_MKNOD", "CAP_SYS_RAWIO", "CAP_DAC_OVERRIDE"]);
    process(&mut spec)["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    spec["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
    let outcome = host.run(spec);
    let out = outcome.out() + &outcome.err();
    assert!(out.contains("Operation not permitted") && out.ends_with("3\n"), "{out}");
}

fn cgroup_limits(host: &mut Host) {
    let script = "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max cpuset.cpus; cat /proc/self/cgroup";
    let mut spec = shell(script);
    spec["linux"]["resources"] = json!({
        "memory": {"limit": 67_108_864}, "pids": {"limit": 99}, "cpu": {"quota": 50000, "period": 100_000, "cpus": "0"}
    });
    let outcome = host.run(spec);
    assert_eq!(outcome.out(), "67108864\n99\n50000 100000\n0\n0::/\n", "{}", outcome.err());
}

fn loopback(host: &mut Host) {
    let out = host.run(shell("cat /sys/class/net/lo/flags; ls /sys/class/net")).out();
    assert_eq!(out, "0x9\nlo\n");
}

/// Without a machine there is no card: loopback carries it all.
fn network(host: &mut Host) {
    let described = |address: &str, to: &str, priority: u32| {
        let network = json!({
            "interfaces": [{ "name": "lo", "device": "loopback", "up": true, "carrier": true,
                             "addresses": [{ "address": address, "prefix": 32 }] }],
            "routes": [
                { "destination": { "address": to, "bits": 16 }, "table": 254, "protocol": 4, "scope": 0, "kind": 1,
                  "hops": [{ "interface": "lo", "gateway": "10.254.0.1" }] },
                { "destination": { "address": "10.254.0.0", "bits": 24 }, "table": 254, "protocol": 4, "scope": 253,
                  "kind": 1, "preferred_source": address, "hops": [{ "interface": "lo" }] },
                { "destination": { "address": "10.9.0.0", "bits": 16 }, "table": 254, "protocol": 4, "scope": 0,
                  "kind": 6 },
            ],
            "rules": [{ "family": 2, "priority": priority, "action": 1, "table": 1000,
                        "source": { "address": address, "bits": 32 }, "protocol": 4 }],
        });
        Box::new(serde_json::from_value(network).unwrap())
    };
    let look = "ip -o addr show dev lo | grep -o 'inet 10[^ ]*'; ip route | grep -o '10.[78][^ ]* via [^ ]*'
        ip rule | grep -o '^10[0-9]:.*1000'; cat /sys/class/net/lo/flags";
    let mut spec = shell("sleep 1000");
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "7" });
    for user_namespace in [false, true] {
        let mut spec = spec.clone();
        if user_namespace {
            spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
            let mapping = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
            spec["linux"]["uidMappings"] = mapping.clone();
            spec["linux"]["gidMappings"] = mapping;
        }
        host.network = Some(described("10.255.0.1", "10.7.0.0", 100));
        host.start_container("c", spec);
        let seen = host.exec("c", "look", exec_process(look), b"").unwrap();
        let expected =
            "inet 10.255.0.1/32\n10.7.0.0/16 via 10.254.0.1\n100:\tfrom 10.255.0.1 lookup 1000\n0x9\n";
        assert_eq!(seen.out(), expected, "{}", seen.err());
        let port =
            host.exec("c", "port", exec_process("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), b"");
        assert_eq!(port.unwrap().out(), "7\n");
        let network = described("10.255.0.2", "10.8.0.0", 101);
        host.expect(Request::Network { container: "c".into(), network });
        let seen = host.exec("c", "again", exec_process(look), b"").unwrap();
        let expected =
            "inet 10.255.0.2/32\n10.8.0.0/16 via 10.254.0.1\n101:\tfrom 10.255.0.2 lookup 1000\n0x9\n";
        assert_eq!(seen.out(), expected, "{}", seen.err());
        host.kill("c", libc::SIGKILL);
        host.delete("c");
    }
}

fn terminal(host: &mut Host) {
    let io = ProcessIo {
        terminal: true,
        console_size: Some(ConsoleSize { rows: 33, columns: 77 }),
        ..ProcessIo::default()
    };
    let script =
        "tty; stty size; echo > /dev/console; test -w /dev/tty && id -u; read x; stty size; echo got $x";
    let mut spec = shell(script);
    process(&mut spec)["terminal"] = json!(true);
    process(&mut spec)["user"] = json!({"uid": 1000, "gid": 1000});
    let mut stream = host.open("t", None, StreamKind::Terminal);
    host.create("t", spec, io).unwrap();
    host.expect(Request::Start { container: "t".into() });
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "1000\r\n");
    assert!(seen.starts_with("/dev/pts/0\r\n33 77\r\n"), "{seen:?}");
    let size = ConsoleSize { rows: 11, columns: 22 };
    host.expect(Request::Resize { process: host::init_of("t"), size });
    stream.write_all(b"line\n").unwrap();
    stream.read_to_string(&mut seen).unwrap();
    assert!(seen.ends_with("11 22\r\ngot line\r\n"), "{seen:?}");
    assert_eq!(host.exit_of(&host::init_of("t")), ExitStatus::Code(0));
    host.delete("t");
}

fn terminal_opened_again(host: &mut Host) {
    let script =
        "tty=$(tty); exec <&- >&- 2>&-; sleep 0.3; exec <>$tty >&0 2>&0; echo back; read x; echo got $x";
    let mut spec = shell(script);
    process(&mut spec)["terminal"] = json!(true);
    let mut stream = host.open("t", None, StreamKind::Terminal);
    host.create("t", spec, ProcessIo { terminal: true, ..ProcessIo::default() }).unwrap();
    host.expect(Request::Start { container: "t".into() });
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "back\r\n");
    stream.write_all(b"line\n").unwrap();
    stream.read_to_string(&mut seen).unwrap();
    assert!(seen.ends_with("got line\r\n"), "{seen:?}");
    assert_eq!(host.exit_of(&host::init_of("t")), ExitStatus::Code(0));
    host.delete("t");
}

fn read_until(stream: &mut impl Read, seen: &mut String, end: &str) {
    let mut byte = [0];
    while !seen.ends_with(end) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the stream ended after {seen:?}");
        seen.push(char::from(byte[0]));
    }
}

fn exec_process(script: &str) -> Value {
    let mut process = shell(script)["process"].take();
    process["env"] = json!(["PATH=/bin:/usr/bin:/sbin", "FROM=exec"]);
    process
}

fn exec(host: &mut Host) {
    host.start_container("c", shell("sleep 1000"));
    let outcome = host.exec("c", "one", exec_process("echo $FROM $$; cat; exit 3"), b"in").unwrap();
    let (first, rest) = outcome.out().split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!((first.as_str(), outcome.status), ("exec", ExitStatus::Code(3)));
    assert!(rest.ends_with("\nin"), "{rest:?}");
    let seen = host
        .exec("c", "two", exec_process("ps | grep -c '[s]leep 1000'; cat /proc/self/cgroup"), b"")
        .unwrap();
    assert_eq!(seen.out(), "1\n0::/\n");
    let missing =
        json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["nothing"], "env": ["PATH=/bin"]});
    let error = host.exec("c", "three", missing, b"").unwrap_err();
    assert_eq!(error.kind, ErrorKind::ProgramNotFound, "{}", error.message);
    let user = json!({"user": {"uid": 5, "gid": 6}, "cwd": "/tmp", "args": ["sh", "-c", "id -u; pwd"], "env": ["PATH=/bin"]});
    assert_eq!(host.exec("c", "four", user, b"").unwrap().out(), "5\n/tmp\n");
    host.kill("c", libc::SIGKILL);
    host.delete("c");
}

fn exec_under_seccomp(host: &mut Host) {
    let mut spec = shell("sleep 1000");
    spec["linux"]["seccomp"] = no_mkdir();
    host.start_container("c", spec);
    let mut process = exec_process("mkdir /tmp/x");
    for no_new_privileges in [true, false] {
        process["noNewPrivileges"] = json!(no_new_privileges);
        let outcome = host.exec("c", &format!("nnp-{no_new_privileges}"), process.clone(), b"").unwrap();
        assert!(outcome.err().contains("not supported"), "{}", outcome.err());
    }
    host.kill("c", libc::SIGKILL);
    host.delete("c");
}

/// Each takes seven descriptors of the agent.
fn many_at_once(host: &mut Host) {
    let mut spec = shell("ulimit -Sn; ulimit -Hn; sleep 1000");
    process(&mut spec).as_object_mut().unwrap().remove("rlimits");
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let mut out = host.open("many", None, StreamKind::Stdout);
    host.create("many", spec, ProcessIo { stdout: true, ..ProcessIo::default() }).unwrap();
    host.expect(Request::Start { container: "many".into() });
    let mut seen = String::new();
    read_until(&mut out, &mut seen, &format!("{soft}\n{hard}\n"));
    let names: Vec<String> = (0..200).map(|number| format!("exec-{number}")).collect();
    let streams: Vec<_> = names
        .iter()
        .flat_map(|name| {
            [StreamKind::Stdin, StreamKind::Stdout, StreamKind::Stderr]
                .map(|kind| host.open("many", Some(name), kind))
        })
        .collect();
    for name in &names {
        host.start_exec("many", name, exec_process("sleep 1000"), ALL_STREAMS);
    }
    host.kill("many", libc::SIGKILL);
    drop(streams);
    host.delete("many");
}

/// Processes that outlive the container's init keep no pipe open.
fn orphans(host: &mut Host) {
    let outcome = host.run(shell("(sleep 1000 &) ; (sh -c 'sleep 1000' &); echo here"));
    assert_eq!(outcome.out(), "here\n");
}

fn no_pid_namespace(host: &mut Host) {
    let mut spec = shell("(sleep 1000 &) ; (setsid sleep 1000 &); echo here");
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    assert_eq!(host.run(spec).out(), "here\n");
}

fn signals(host: &mut Host) {
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let mut out = host.open("s", None, StreamKind::Stdout);
    host.create("s", shell(script), ProcessIo { stdout: true, ..ProcessIo::default() }).unwrap();
    host.expect(Request::Start { container: "s".into() });
    let mut seen = String::new();
    read_until(&mut out, &mut seen, "up\n");
    host.kill("s", libc::SIGUSR1);
    read_until(&mut out, &mut seen, "usr1\n");
    host.expect(Request::Signal { process: host::init_of("s"), signal: libc::SIGTERM, all: true });
    assert_eq!(host.exit_of(&host::init_of("s")), ExitStatus::Code(9));
    host.delete("s");
}

fn states(host: &mut Host) {
    let error = |reply| match reply {
        Reply::Error(error) => error.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(error(host.ask(Request::Start { container: "x".into() })), ErrorKind::NotFound);
    host.start_container("x", shell("sleep 1000"));
    assert_eq!(error(host.ask(Request::Start { container: "x".into() })), ErrorKind::WrongState);
    let again = host.create("x", shell("true"), ProcessIo::default()).unwrap_err();
    assert_eq!(again.kind, ErrorKind::WrongState);
    host.kill("x", libc::SIGKILL);
    assert_eq!(host.exit_of(&host::init_of("x")), ExitStatus::Signal(libc::SIGKILL));
    let late = host.ask(Request::Signal { process: host::init_of("x"), signal: 15, all: false });
    assert_eq!(error(late), ErrorKind::WrongState);
    host.delete("x");
    assert_eq!(error(host.ask(Request::Delete { container: "x".into() })), ErrorKind::NotFound);
}

fn delete_running(host: &mut Host) {
    host.start_container("r", shell("mkdir /sys/fs/cgroup/below; sleep 1000"));
    host.delete("r");
    assert_eq!(host.exit_of(&host::init_of("r")), ExitStatus::Signal(libc::SIGKILL));
    host.create("c", shell("true"), ProcessIo::default()).unwrap();
    host.delete("c");
}

fn bad_configuration(host: &mut Host) {
    let mut relative = shell("true");
    process(&mut relative)["cwd"] = json!("relative");
    assert_eq!(failure(host, relative).0, ErrorKind::InvalidConfig);
    let mut unmountable = shell("true");
    unmountable["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/m", "type": "nofs", "source": "x"}));
    let (kind, message) = failure(host, unmountable);
    assert_eq!(kind, ErrorKind::Failed);
    assert!(message.contains("nofs") || message.contains("ENODEV"), "{message}");
    let mut rootless = shell("true");
    rootless["root"]["path"] = json!("/no/such/rootfs");
    assert!(failure(host, rootless).1.contains("/no/such/rootfs"));
}

fn user_namespace(host: &mut Host) {
    let mut spec =
        shell("id -u; tr -s ' ' < /proc/self/uid_map; echo x > /dev/stdout; head -c 2 /dev/zero | wc -c");
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let mappings = json!([
        {"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 10, "hostID": 100_000, "size": 10}
    ]);
    spec["linux"]["uidMappings"] = mappings.clone();
    spec["linux"]["gidMappings"] = mappings;
    process(&mut spec)["user"] = json!({"uid": 3, "gid": 3});
    let outcome = host.run(spec);
    assert_eq!(outcome.out(), "3\n 0 0 10\n 10 100000 10\nx\n2\n", "{}", outcome.err());
}

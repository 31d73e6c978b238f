//! What the processes of a sandbox may still do on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::unistd::{Pid, getsid};
use serde_json::json;

use super::network::Net;
use crate::support::{Bundle, Run, Scratch, end_of};

/// The capabilities by which files are made as any of their owners.
const OWNERSHIP: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7;

/// `MKNOD`, `SETFCAP` and `SYS_ADMIN`, of a container that has them.
const PRIVILEGED: u64 = 1 << 27 | 1 << 31 | 1 << 21;

/// The lines of `status` by the threads' names.
fn threads(pid: i32) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(entry.unwrap().path().join("status")).unwrap();
        let lines = status.lines().filter_map(|line| line.split_once(":\t"));
        let lines: BTreeMap<_, _> =
            lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        assert!(found.insert(lines["Name"].clone(), lines).is_none(), "two threads of one name");
    }
    found
}

#[track_caller]
fn assert_confined(lines: &BTreeMap<String, String>, capabilities: u64) {
    let kept = format!("{capabilities:016x}");
    let none = format!("{:016x}", 0);
    let expected = [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", &kept),
        ("CapPrm", &kept),
        ("CapInh", &none),
        ("CapAmb", &none),
    ];
    for (field, value) in expected {
        assert_eq!(lines[field], value, "{field} of {}", lines["Name"]);
    }
}

#[test]
fn threads_that_the_guest_reaches_have_what_their_class_needs() {
    let net = Net::with_eth0();
    let bundle = net.joined_by(Bundle::shell("echo up; sleep 1000"));
    let container = Run::of(&bundle).options(&["--vcpus", "2"]).detach();
    container.started.stdout.await_text(0, "up\n");
    let threads = threads(container.started.machine());
    for name in ["vcpu0", "vcpu1", "vmm-events", "vmm-fs", "vmm-net", "vmrun-machine"] {
        assert!(threads.contains_key(name), "{name} is not among {:?}", threads.keys());
    }
    // Each that there is, the first one included.
    for (name, lines) in &threads {
        assert_confined(lines, if name == "vmm-fs" { OWNERSHIP } else { 0 });
    }
    container.end().ok();
}

/// What a descriptor of the process is, but for what differs from one sandbox to the next.
fn descriptors(pid: i32, directory: &Path) -> BTreeSet<String> {
    let directory = directory.to_str().unwrap();
    let kind = |path: &Path| {
        let path = path.to_str().unwrap();
        let numbered = path.starts_with("socket:[") || path.starts_with("pipe:[");
        let kind = path.split_once(":[").filter(|_| numbered).map_or(path, |(kind, _)| kind);
        kind.replace(directory, "DIRECTORY").replace(&pid.to_string(), "PID")
    };
    open_files(pid).iter().map(|path| kind(path)).collect()
}

/// The sockets that a process has open.
fn sockets(pid: i32) -> BTreeSet<PathBuf> {
    open_files(pid).into_iter().filter(|path| path.to_string_lossy().starts_with("socket:")).collect()
}

#[test]
fn machines_process_has_its_root_and_its_descriptors_and_no_more() {
    let bundle = Bundle::shell("echo up; sleep 1000");
    let container = Run::of(&bundle).options(&["--cold"]).detach();
    container.started.stdout.await_text(0, "up\n");
    let (monitor, machine) = (container.started.monitor(), container.started.machine());
    let directory = container.started.store.join(&container.started.id);
    for what in ["root", "cwd"] {
        assert_eq!(fs::read_link(format!("/proc/{machine}/{what}")).unwrap(), directory.join("share"));
    }
    let allowed = [
        "/",
        "/dev/kvm",
        "DIRECTORY/console.log",
        "DIRECTORY/share",
        "anon_inode:[eventfd]",
        "anon_inode:[eventpoll]",
        // Holds the virtual machine, and nobody can enable it.
        "anon_inode:[io_uring]",
        "anon_inode:[timerfd]",
        "anon_inode:kvm-vcpu:0",
        "anon_inode:kvm-vm",
        // Its standard streams.
        "pipe",
        "socket",
    ];
    let found = descriptors(machine, &directory);
    let others: Vec<_> = found
        .iter()
        .filter(|found| !allowed.contains(&found.as_str()) && !found.starts_with("DIRECTORY/share/"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    // Without it a run waits for the virtual machine's end. Linux before 6.6 lets everybody have one.
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let may_have_ring = matches!(disabled.trim(), "" | "0");
    assert_eq!(found.iter().any(|found| found == "anon_inode:[io_uring]"), may_have_ring, "{found:?}");
    // A root of the host's would be one like it.
    for entry in fs::read_dir(format!("/proc/{machine}/fd")).unwrap().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|link| link == Path::new("/")) {
            assert_eq!(statfs(&entry.path()).unwrap().filesystem_type(), PROC_SUPER_MAGIC);
        }
    }
    let shared = sockets(machine).intersection(&sockets(monitor)).cloned().collect::<Vec<_>>();
    assert!(shared.is_empty(), "{shared:?}");
    let limits = fs::read_to_string(format!("/proc/{machine}/limits")).unwrap();
    for (limit, most) in [("Max core file size", "1"), ("Max locked memory", "0")] {
        let line = limits.lines().find_map(|line| line.strip_prefix(limit)).unwrap();
        assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), [most, most], "{limit}");
    }
    // Its parent's streams, terminal and session are not its own, nor is what the monitor may do the machine's.
    assert_eq!(getsid(Some(Pid::from_raw(machine))).unwrap(), Pid::from_raw(machine));
    let own = descriptors(monitor, &directory);
    assert!(!own.contains("/dev/kvm") && !own.contains("anon_inode:kvm-vm"), "{own:?}");
    container.end().ok();
}

/// What files get that only some containers may give them. It says how each attempt ended.
const ATTEMPTS: &str = "import os
def attempt(act, *arguments):
    try:
        act(*arguments)
        print('done')
    except OSError as error:
        print(error.strerror)
os.chdir('/mnt')
attempt(os.mknod, 'node', 0o20666, os.makedev(1, 3))
attempt(os.setxattr, 'program', 'security.capability', bytes([1, 0, 0, 2, 0, 32]) + bytes(14))
attempt(os.setxattr, 'program', 'trusted.x', b'')
attempt(os.mkfifo, 'pipe')";

/// `exec` gives all of them in the guest, as would whoever has the guest's kernel.
#[test]
fn files_get_no_more_than_the_bundle_allows_whatever_the_guest_has() {
    let all = ["CAP_MKNOD", "CAP_SETFCAP", "CAP_SYS_ADMIN"];
    let options: Vec<_> = all.iter().flat_map(|name| ["--cap", name]).collect();
    let refused = "Operation not permitted\n".repeat(3) + "done\n";
    for (given, kept, says) in
        [(&[][..], OWNERSHIP, refused), (&all[..], OWNERSHIP | PRIVILEGED, "done\n".repeat(4))]
    {
        let scratch = Scratch::new();
        scratch.file("program", "");
        let bundle = Bundle::debian("echo up; sleep 1000").capabilities(given);
        let bundle = bundle.bind(scratch.path(), "/mnt", &[]);
        let container = Run::of(&bundle).detach();
        container.started.stdout.await_text(0, "up\n");
        assert_confined(&threads(container.started.machine())["vmm-fs"], kept);
        end_of(&mut container.exec(&options, &["python3", "-c", ATTEMPTS])).prints(&says);
        assert_eq!(scratch.join("node").exists(), !given.is_empty());
        container.end().ok();
    }
}

/// A heap of glibc's besides the first lies at the start of 64 MiB that are kept free for it.
#[test]
fn all_threads_allocate_from_one_heap() {
    let bundle = Bundle::shell("echo up; sleep 1000");
    let container = Run::of(&bundle).detach();
    container.started.stdout.await_text(0, "up\n");
    let kept_free = |line: &&str| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        rest.starts_with("---p") && address(end) - address(start) > 32 << 20
    };
    for pid in [container.started.monitor(), container.started.machine()] {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        assert_eq!(maps.lines().find(kept_free), None, "{maps}");
    }
    container.end().ok();
}

/// The agent reports to the host by such a connection: it was the first and is the last.
#[test]
fn program_cannot_connect_to_the_host() {
    let program = "import socket
for port in (1024, 1025):
    end = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    end.settimeout(20)
    try:
        end.connect((2, port))
        print('connected')
    except ConnectionError:
        print('refused')";
    Bundle::python(program).run().prints("refused\nrefused\n");
}

#[test]
fn files_are_made_as_any_owner_by_a_confined_server() {
    let script = "set -e; cd /tmp; mkdir d; chmod 777 d; echo a >d/file; chown 7:8 d/file; chmod 4755 d/file; \
        setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'echo b >d/own; ln -s own d/link; ln d/own d/hard'; \
        stat -c %u:%g:%a d/file d/own; \
        setpriv --reuid=7 --regid=8 --clear-groups sh -c 'echo c >>d/file'; until [ $(stat -c %a d/file) = 755 ]; do sleep 0.1; done; echo 755; \
        mkfifo d/pipe; mknod d/null c 1 3; mv d/own d/new; truncate -s 9 d/new; fallocate -l 20 d/new; \
        touch -d @7 d/new; sync d/new; sync -f d/new; stat -c %s:%Y d/new; cp --sparse=always d/new d/copy; \
        cp --reflink=auto d/new d/copy; df d >/dev/null; flock d/new true; rm -r d";
    let scratch = Scratch::new();
    let names = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_MKNOD",
        "CAP_SETGID",
        "CAP_SETUID",
    ];
    let bundle = Bundle::debian(script).capabilities(&names).bind(scratch.path(), "/tmp", &[]);
    bundle.run().prints("7:8:4755\n1000:1000:644\n755\n20:7\n");
}

/// A file that every program which is started from now on has open by mistake.
fn leaked(path: &std::path::Path) -> fs::File {
    let file = fs::File::open(path).unwrap();
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    file
}

fn open_files(pid: i32) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

#[test]
fn files_that_the_caller_left_open_are_closed_and_no_hook_has_them() {
    let scratch = Scratch::new();
    let secret = scratch.file("secret", "");
    let seen = scratch.file("seen", "");
    let script = format!("ls -l /proc/self/fd >>{}", seen.display());
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }]);
    let bundle = Bundle::shell("echo up; sleep 1000")
        .set("/hooks/createRuntime", hook.clone())
        .set("/hooks/poststop", hook);
    let file = leaked(&secret);
    let container = Run::of(&bundle).detach();
    container.started.stdout.await_text(0, "up\n");
    for pid in [container.started.monitor(), container.started.machine()] {
        let open = open_files(pid);
        assert!(!open.contains(&secret), "{open:?}");
    }
    container.end().ok();
    drop(file);
    let seen = fs::read_to_string(&seen).unwrap();
    assert!(seen.matches("->").count() > 2 && !seen.contains("secret"), "{seen}");
}

#[test]
fn memory_of_the_guest_is_in_no_core_file() {
    let bundle = Bundle::shell("echo up; sleep 1000");
    let container = Run::of(&bundle).options(&["--memory", "192"]).detach();
    container.started.stdout.await_text(0, "up\n");
    let maps = fs::read_to_string(format!("/proc/{}/smaps", container.started.machine())).unwrap();
    let field = |name: &'static str| maps.lines().filter_map(move |line| line.strip_prefix(name));
    let sizes = field("Size:").map(|size| size.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
    let flags = field("VmFlags:");
    let mut large = sizes.zip(flags).filter(|(kilobytes, _)| *kilobytes > 64 << 10);
    assert!(large.clone().count() > 0, "{maps}");
    assert!(large.all(|(_, flags)| flags.split(' ').any(|flag| flag == "dd")), "{maps}");
    container.end().ok();
}

//! What confined threads do, in processes of their own: a filter stays for good, and a call
//! that is not on it ends the process.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use rustix::thread::{CapabilitySet, capabilities};

use super::calls::{EVENT_LOOP, EVERYWHERE, LOCKS};
use super::{Call, ThreadClass, file_server};
use crate::thread::{ThreadFailure, Worker};
use crate::virtio::net::NET;

const ACT: &str = "VMRUN_CONFINED_ACT";

/// A class of nothing but what every thread needs.
const BARE: ThreadClass = ThreadClass::without_capabilities(&[]);

/// The same, and it may look at its capabilities.
const LOOKING: ThreadClass = ThreadClass::without_capabilities(&[Call::Any(libc::SYS_capget)]);

/// Runs `act` as a thread of `class` in a process that is this very test again, and says how
/// that process ended. `name` is the test's.
fn in_a_process(name: &str, act: &str, class: ThreadClass, body: fn()) -> Option<Output> {
    match std::env::var(ACT) {
        Ok(asked) if asked == act => {
            drop(Worker::start("confined", class, body, |why| tell(&why)));
            std::process::exit(0);
        }
        Ok(_) => None,
        Err(_) => {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", &format!("confine::tests::{name}"), "--nocapture"]);
            command.env(ACT, act).env("RUST_BACKTRACE", "full").stdin(Stdio::null());
            Some(command.output().unwrap())
        }
    }
}

fn tell(why: &ThreadFailure) {
    println!("failed: {why}");
}

fn survives(name: &str, act: &str, class: ThreadClass, body: fn()) {
    if let Some(output) = in_a_process(name, act, class, body) {
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !words.contains("failed: "), "{act}: {output:?}");
    }
}

fn kills(name: &str, act: &str, class: ThreadClass, body: fn()) {
    if let Some(output) = in_a_process(name, act, class, body) {
        assert_eq!(output.status.signal(), Some(Signal::SIGSYS as i32), "{act}: {output:?}");
    }
}

#[test]
fn every_thread_computes_waits_and_ends() {
    survives("every_thread_computes_waits_and_ends", "compute", BARE, || {
        let big = vec![1u8; 8 << 20];
        let (sender, receiver) = channel();
        sender.send(big.len()).unwrap();
        assert_eq!(receiver.recv().unwrap(), 8 << 20);
        thread::park_timeout(std::time::Duration::from_millis(1));
        thread::sleep(std::time::Duration::from_millis(1));
        assert!(std::time::Instant::now().elapsed().as_secs() < 10);
    });
}

#[test]
fn panic_is_told_and_reported_and_ends_nothing_else() {
    let name = "panic_is_told_and_reported_and_ends_nothing_else";
    let panics = || assert_eq!(std::hint::black_box(1), 2, "no such thing");
    if let Some(output) = in_a_process(name, "panic", BARE, panics) {
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("failed: it panicked"), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("no such thing") && told.lines().count() == 1, "{output:?}");
    }
}

#[test]
fn no_class_starts_programs_or_threads() {
    let name = "no_class_starts_programs_or_threads";
    for (class, which) in
        [(BARE, "bare"), (ThreadClass::EVENT_LOOP, "loop"), (ThreadClass::FILE_SERVER, "files"), (NET, "net")]
    {
        kills(name, &format!("{which} program"), class, || drop(Command::new("true").status()));
        kills(name, &format!("{which} thread"), class, || drop(thread::Builder::new().spawn(|| {})));
    }
}

#[test]
fn event_loop_has_unix_sockets_and_no_others_and_no_files() {
    let name = "event_loop_has_unix_sockets_and_no_others_and_no_files";
    kills(name, "tcp", ThreadClass::EVENT_LOOP, || drop(TcpListener::bind("127.0.0.1:0")));
    kills(name, "file", ThreadClass::EVENT_LOOP, || drop(File::open("/dev/null")));
    kills(name, "listen", ThreadClass::EVENT_LOOP, || drop(UnixListener::bind("/nonexistent/socket")));
    survives(name, "connect", ThreadClass::EVENT_LOOP, || {
        assert!(UnixStream::connect("/nonexistent/socket").is_err());
    });
}

#[test]
fn network_interface_has_its_descriptors_and_opens_none() {
    let name = "network_interface_has_its_descriptors_and_opens_none";
    kills(name, "tap", NET, || drop(File::open("/dev/net/tun")));
    kills(name, "socket", NET, || drop(UnixStream::pair()));
    kills(name, "request", NET, || {
        let _ = rustix::io::ioctl_fionbio(std::io::stdin(), true);
    });
}

#[test]
fn file_server_has_files_and_no_namespaces_and_no_sockets() {
    let name = "file_server_has_files_and_no_namespaces_and_no_sockets";
    survives(name, "files", ThreadClass::FILE_SERVER, || {
        assert!(File::open("/dev/null").unwrap().metadata().is_ok());
        unshare(CloneFlags::CLONE_FS).unwrap();
    });
    kills(name, "namespace", ThreadClass::FILE_SERVER, || {
        let _ = unshare(CloneFlags::CLONE_NEWUSER);
    });
    kills(name, "socket", ThreadClass::FILE_SERVER, || drop(UnixStream::pair()));
}

#[test]
fn waiters_for_locks_start_threads_and_no_processes_and_open_nothing() {
    let name = "waiters_for_locks_start_threads_and_no_processes_and_open_nothing";
    survives(name, "thread", ThreadClass::LOCKS, || {
        let started = thread::Builder::new().name("started".to_owned()).stack_size(64 << 10);
        assert_eq!(started.spawn(|| 7).unwrap().join().unwrap(), 7);
    });
    kills(name, "program", ThreadClass::LOCKS, || drop(Command::new("true").status()));
    kills(name, "file", ThreadClass::LOCKS, || drop(File::open("/dev/null")));
    kills(name, "what it starts opens", ThreadClass::LOCKS, || {
        drop(thread::spawn(|| drop(File::open("/dev/null"))).join());
    });
}

#[test]
fn capabilities_are_none_or_those_of_owners() {
    let name = "capabilities_are_none_or_those_of_owners";
    survives(name, "none", LOOKING, || {
        let sets = capabilities(None).unwrap();
        let none = CapabilitySet::empty();
        assert_eq!((sets.permitted, sets.effective, sets.inheritable), (none, none, none));
    });
    survives(name, "owners", ThreadClass::FILE_SERVER, || {
        let sets = capabilities(None).unwrap();
        let most = super::capabilities::OWNERSHIP;
        assert!(most.contains(sets.permitted) && most.contains(sets.effective));
        assert_eq!(sets.inheritable, CapabilitySet::empty());
    });
}

/// Nothing that makes processes, code or mounts, that becomes another, or reaches into others.
const DANGEROUS: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_memfd_create,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_prlimit64,
    libc::SYS_reboot,
    libc::SYS_shmat,
];

/// Calls that are let through only with some of their arguments.
const LIMITED: &[libc::c_long] = &[
    libc::SYS_clone,
    libc::SYS_ioctl,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_prctl,
    libc::SYS_socket,
    libc::SYS_tgkill,
    libc::SYS_unshare,
];

#[test]
fn no_list_has_a_dangerous_call() {
    for list in [EVERYWHERE, EVENT_LOOP, file_server::CALLS, LOCKS] {
        for call in list {
            // Threads, and no processes; see the filter for `clone3`.
            let starts = [libc::SYS_clone, libc::SYS_clone3].contains(&call.number());
            let may_start = starts && std::ptr::eq(list, LOCKS);
            assert!(may_start || !DANGEROUS.contains(&call.number()), "{call:?}");
            let limited = !matches!(call, Call::Any(_));
            assert_eq!(limited, LIMITED.contains(&call.number()), "{call:?}");
        }
    }
}

//! What confined threads do, in processes of their own: a filter stays for good, and a call
//! that is not on it ends the process.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread;

use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat, renameat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use rustix::thread::{CapabilitySet, capabilities};

use super::calls::{EVENT_LOOP, EVERYWHERE, LOCKS, OWNER};
use super::{Call, Confinement, ThreadClass, file_server};
use crate::thread::{ThreadFailure, Worker};
use crate::virtio::net::{self, NET};

const ACT: &str = "VMRUN_CONFINED_ACT";

/// A class of nothing but what every thread needs.
const BARE: ThreadClass = ThreadClass::without_capabilities(&[]);

/// The same, and it may look at its capabilities.
const LOOKING: ThreadClass = ThreadClass::without_capabilities(&[Call::Any(libc::SYS_capget)]);

/// Runs `act` as a thread of `class` in a process that is this very test again, and says how
/// that process ended. `name` is the test's.
fn in_a_process(name: &str, act: &str, class: impl Into<Confinement>, body: fn()) -> Option<Output> {
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

fn survives(name: &str, act: &str, class: impl Into<Confinement>, body: fn()) {
    if let Some(output) = in_a_process(name, act, class, body) {
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !words.contains("failed: "), "{act}: {output:?}");
    }
}

fn kills(name: &str, act: &str, class: impl Into<Confinement>, body: fn()) {
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
fn event_loop_makes_no_sockets_and_connects_and_opens_none() {
    let name = "event_loop_makes_no_sockets_and_connects_and_opens_none";
    kills(name, "tcp", ThreadClass::EVENT_LOOP, || drop(TcpListener::bind("127.0.0.1:0")));
    kills(name, "file", ThreadClass::EVENT_LOOP, || drop(File::open("/dev/null")));
    kills(name, "listen", ThreadClass::EVENT_LOOP, || drop(UnixListener::bind("/nonexistent/socket")));
    kills(name, "connect", ThreadClass::EVENT_LOOP, || drop(UnixStream::connect("/nonexistent/socket")));
    kills(name, "pair", ThreadClass::EVENT_LOOP, || drop(UnixStream::pair()));
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

/// Where the process of a test has something outside of the tree.
const OUTSIDE: &str = "/etc/hostname";

/// The file server's, for a new directory with one file. A directory outside is open as `elsewhere`.
fn in_a_tree() -> (Confinement, OwnedFd) {
    let directory = tempfile::tempdir().unwrap().keep();
    std::fs::write(directory.join("inside"), "").unwrap();
    let elsewhere = OwnedFd::from(File::open("/etc").unwrap());
    (ThreadClass::FILE_SERVER.within(File::open(directory).unwrap().into()), elsewhere)
}

#[test]
fn file_server_names_nothing_outside_of_its_tree() {
    let name = "file_server_names_nothing_outside_of_its_tree";
    assert!(Path::new(OUTSIDE).exists());
    let (tree, _) = in_a_tree();
    survives(name, "paths", tree, || {
        // As virtiofsd does it: the filter knows none of the calls without a directory.
        let mode = Mode::from_bits_truncate(0o700);
        let open = |path: &str, flags| openat(AT_FDCWD, path, flags, mode);
        open("made", OFlag::O_CREAT | OFlag::O_WRONLY).unwrap();
        mkdirat(AT_FDCWD, "directory", mode).unwrap();
        renameat(AT_FDCWD, "made", AT_FDCWD, "directory/renamed").unwrap();
        symlinkat(OUTSIDE, AT_FDCWD, "link").unwrap();
        assert!(open("inside", OFlag::O_RDWR).is_ok());
        for path in [OUTSIDE, "../../../../../../etc/hostname", "link"] {
            assert!(open(path, OFlag::O_RDONLY).is_err(), "{path}");
            assert!(fchmodat(AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink).is_err(), "{path}");
        }
        assert!(unlinkat(AT_FDCWD, OUTSIDE, UnlinkatFlags::NoRemoveDir).is_err());
    });
}

/// Needs Landlock, without which the tree is the thread's root all the same.
#[test]
fn file_server_opens_nothing_outside_by_a_directory_that_is_open() {
    static ELSEWHERE: OnceLock<OwnedFd> = OnceLock::new();
    let name = "file_server_opens_nothing_outside_by_a_directory_that_is_open";
    let (tree, elsewhere) = in_a_tree();
    ELSEWHERE.set(elsewhere).unwrap();
    let landlock = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if landlock.handle_access(AccessFs::Refer).is_err() {
        return;
    }
    survives(name, "descriptors", tree, || {
        for path in ["hostname", "../etc/hostname"] {
            let opened = openat(ELSEWHERE.get().unwrap(), path, OFlag::O_RDONLY, Mode::empty());
            assert_eq!(opened.err(), Some(Errno::EACCES), "{path}");
        }
    });
}

#[test]
fn no_class_has_others_signalled() {
    let name = "no_class_has_others_signalled";
    for (class, which) in [(BARE, "bare"), (ThreadClass::FILE_SERVER, "files"), (ThreadClass::LOCKS, "locks")]
    {
        kills(name, &format!("{which} owner"), class, || {
            let _ = fcntl(std::io::stdin(), FcntlArg::F_SETFL(OFlag::O_ASYNC));
        });
    }
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

/// The owner's, as the machine's process has it.
const OWNER_OF_NETS: ThreadClass = ThreadClass::owner(&[net::CALLS, net::TAP]);

#[test]
fn owner_of_a_machine_opens_starts_signals_connects_and_passes_on_nothing() {
    let name = "owner_of_a_machine_opens_starts_signals_connects_and_passes_on_nothing";
    kills(name, "file", OWNER_OF_NETS, || drop(File::open("/dev/null")));
    kills(name, "program", OWNER_OF_NETS, || drop(Command::new("true").status()));
    kills(name, "signal", OWNER_OF_NETS, || {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None);
    });
    kills(name, "connect", OWNER_OF_NETS, || drop(UnixStream::connect("/nonexistent/socket")));
    kills(name, "pass on", OWNER_OF_NETS, || {
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&[0])];
        let (data, flags) = ([std::io::IoSlice::new(b"x")], nix::sys::socket::MsgFlags::empty());
        let _ = nix::sys::socket::sendmsg::<()>(0, &data, &rights, flags, None);
    });
}

#[test]
fn owner_of_a_machine_starts_threads_that_are_confined_further() {
    let name = "owner_of_a_machine_starts_threads_that_are_confined_further";
    survives(name, "interface", OWNER_OF_NETS, || {
        drop(Worker::start("net", NET, || {}, |why| tell(&why)).unwrap());
    });
    kills(name, "interface's pair", OWNER_OF_NETS, || {
        drop(Worker::start("net", NET, || drop(UnixStream::pair()), |_| {}));
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
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
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
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_tgkill,
    libc::SYS_unshare,
];

#[test]
fn no_list_has_a_dangerous_call() {
    for list in [EVERYWHERE, EVENT_LOOP, file_server::CALLS, LOCKS, OWNER] {
        for call in list {
            // Threads, and no processes.
            let starts = matches!(call, Call::OneOf(libc::SYS_clone, ..) | Call::Missing(libc::SYS_clone3));
            let may_start = starts && [LOCKS, OWNER].iter().any(|other| std::ptr::eq(list, *other));
            // Descriptors come in for it, and none goes out.
            let may_receive = call.number() == libc::SYS_recvmsg && std::ptr::eq(list, OWNER);
            assert!(may_start || may_receive || !DANGEROUS.contains(&call.number()), "{call:?}");
            let limited = !matches!(call, Call::Any(_) | Call::Missing(_));
            assert_eq!(limited, LIMITED.contains(&call.number()), "{call:?}");
        }
    }
}

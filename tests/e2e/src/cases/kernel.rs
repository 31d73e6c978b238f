//! The kernel's contract with containers, asked for from inside one with
//! every right. One sandbox answers all questions; each has its own verdict.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;

use crate::support::{Bundle, Run, Scratch, place};

const PROGRAM: &str = include_str!("../programs/contract.py");

const EVERY_CAPABILITY: &[&str] = &[
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
];

/// What engines call a privileged container.
fn privileged(bundle: Bundle) -> Bundle {
    bundle
        .capabilities(EVERY_CAPABILITY)
        .set("/process/noNewPrivileges", json!(false))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set("/linux/resources/devices", json!([{ "allow": true, "access": "rwm" }]))
        .set("/mounts/6/options", json!(["nosuid", "noexec", "nodev", "rw"]))
        .set("/mounts/5/options", json!(["nosuid", "noexec", "nodev", "rw"]))
}

/// The answers, and what went wrong besides.
fn answers() -> &'static (BTreeMap<String, String>, String) {
    static ANSWERS: OnceLock<(BTreeMap<String, String>, String)> = OnceLock::new();
    ANSWERS.get_or_init(|| {
        let bundle = privileged(Bundle::python(PROGRAM));
        let outcome = Run::of(&bundle).options(&["--memory", "512"]).finish();
        let lines = outcome.out();
        let answers = lines.lines().filter_map(|line| line.split_once(": "));
        (answers.map(|(name, answer)| (name.to_owned(), answer.to_owned())).collect(), outcome.err())
    })
}

fn assert_answer(name: &str) {
    let (answers, errors) = answers();
    let answer = answers.get(name).map(String::as_str);
    assert_eq!(answer, Some("ok"), "standard error of all probes: {errors}");
}

macro_rules! probes {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                assert_answer(stringify!($name));
            }
        )*
    };
}

probes! {
    mount_namespace uts_namespace ipc_namespace user_namespace pid_namespace network_namespace cgroup_namespace
    time_namespace unprivileged_user_namespace_can_mount
    cgroup_controllers cgroup_hierarchy_can_be_extended
    seccomp_filter seccomp_user_notification landlock keyrings file_capabilities
    overlayfs tmpfs_with_attributes fuse virtiofs ext4 erofs squashfs idmapped_mounts binfmt_misc binfmt_script
    posix_message_queue sysv_shared_memory sysv_semaphores sysv_message_queue futexes_and_pidfds
    tracing_of_children memory_of_other_processes
    io_uring asynchronous_io event_signal_and_timer_descriptors epoll inotify fanotify userfaultfd memory_files
    bpf_maps_and_programs bpf_cgroup_devices
    ipv4_and_ipv6 raw_sockets packet_sockets unix_sockets vsock veth bridge tun nftables_filter_and_nat
    links_on_links socket_diagnostics xtables_extensions
    clock_is_good timers_have_high_resolution
    random_numbers ping_sockets
}

#[test]
fn every_probe_has_its_test() {
    let asked: Vec<_> = answers().0.keys().map(String::as_str).collect();
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    assert_eq!(asked, names);
}

/// The host's crun with its libraries, for a container without either.
fn portable_crun(to: &Scratch) {
    let crun = "/usr/bin/crun";
    fs::copy(crun, to.join("crun")).unwrap();
    let libraries = Command::new("ldd").arg(crun).output().unwrap();
    for line in String::from_utf8(libraries.stdout).unwrap().lines() {
        // Those of the C library and its loader belong together and are Debian's in the container too.
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        let name = path.rsplit('/').next().unwrap();
        if !["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"].contains(&name) {
            fs::copy(path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn container_runs_in_the_container() {
    let tools = Scratch::new();
    portable_crun(&tools);
    let inner =
        Bundle::shell("echo $$ $(cat /proc/sys/kernel/hostname) $(cat /sys/fs/cgroup/pids.max); exit 9")
            .set("/linux/resources/pids", json!({ "limit": 33 }))
            .set("/root/path", json!("/tmp/rootfs"));
    let script = "mkdir /sys/fs/cgroup/init && echo 0 >/sys/fs/cgroup/init/cgroup.procs && \
        echo '+pids +memory +cpu' >/sys/fs/cgroup/cgroup.subtree_control && \
        cp -a /busybox /tmp/rootfs && LD_LIBRARY_PATH=/tools exec /tools/crun run -b /inner inner";
    let bundle = privileged(Bundle::debian(script))
        .mount(json!({ "destination": "/run", "type": "tmpfs", "source": "tmpfs" }));
    let bundle = ["/tools", "/inner", "/busybox"]
        .iter()
        .zip([tools.path(), inner.path(), &place().busybox])
        .fold(bundle, |bundle, (at, from)| bundle.bind(from, &format!("/tmp{at}"), &["ro"]));
    let bundle = bundle.args(&[
        "sh",
        "-c",
        &script
            .replace("/busybox", "/tmp/busybox")
            .replace("/tools", "/tmp/tools")
            .replace("/inner", "/tmp/inner"),
    ]);
    let outcome = bundle.run();
    assert_eq!(outcome.out(), "1 sandbox 33\n", "{outcome:?}");
    outcome.exits(9);
}

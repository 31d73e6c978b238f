//! Where `unsafe` may stand, and how long a file may be.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};

use crate::checkout::files;

/// Files with `unsafe`, and what for. A new one belongs behind a safe function
/// of one of these; only where that cannot be does the list grow.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("agent/agent/src/container/shared_mounts.rs", "mount_setattr, open_tree and move_mount"),
    ("agent/agent/src/sys.rs", "system calls without a safe wrapper in nix; fork in a process of one thread"),
    ("agent/bpf/src/system.rs", "bpf(2)"),
    ("benches/src/poweroff_init.rs", "ends the machine, as the first and last act of an /init"),
    ("tests/e2e/src/support/terminal.rs", "owns a descriptor that came over a socket"),
    ("tests/hostile/guest/src/machine.rs", "the processor and the memory of a kernel that attacks"),
    ("vmm/devices/src/heap.rs", "sets a number of the allocator's"),
    ("vmm/devices/src/planted.rs", "a guest's system call, in builds for tests of the walls behind alone"),
    ("vmm/devices/src/virtio/balloon/pages.rs", "gives pages of guest memory back to the host"),
    (
        "vmm/devices/src/virtio/block/backend.rs",
        "reads and writes between a file and guest memory; ioctls of a block device",
    ),
    ("vmm/devices/src/virtio/net/tap.rs", "frames between a tap and guest memory; ioctls of a tap"),
    ("vmm/machine/examples/boot.rs", "poll, in a program for development"),
    ("vmm/machine/src/end.rs", "lends an event's descriptor out for polling"),
    ("vmm/machine/src/kvm.rs", "hands guest memory to KVM"),
    ("vmm/machine/src/kvm_run.rs", "reads a union that kvm-ioctls does not decode"),
    ("vmm/machine/src/mapped.rs", "maps pages of files into guest memory"),
    ("vmm/machine/src/memory.rs", "maps guest memory with huge pages"),
    ("vmm/machine/src/snapshot/checkpoint.rs", "a second handle of a vCPU; lends an event's descriptor out"),
    ("vmm/machine/src/snapshot/memory.rs", "asks which pages of guest memory are there, and reads them"),
    ("vmm/machine/src/snapshot/pre_fault.rs", "an ioctl of KVM's"),
    ("vmm/machine/src/snapshot/vcpu.rs", "sets a vCPU's extended state"),
    ("vmm/machine/src/vcpu/kick.rs", "a signal handler writes into the vCPU's kvm_run"),
    ("vmm/measure/src/counters/filter.rs", "an ioctl of perf events"),
    ("vmm/runtime/src/fds.rs", "makes owners out of inherited and received descriptor numbers"),
    ("vmm/runtime/src/host_cgroup/oom.rs", "a process that shares the memory of another"),
    ("vmm/runtime/src/launch/child.rs", "clone3, which starts a process in a cgroup; exec"),
    ("vmm/runtime/src/machine/process.rs", "fork, for the machine's process"),
    ("vmm/runtime/src/mount_attributes.rs", "mount_setattr"),
    ("vmm/runtime/src/monitor/id_map.rs", "fork, for a user namespace"),
    ("vmm/runtime/src/monitor/network/netfilter/legacy/system.rs", "reads tables of iptables-legacy"),
    ("vmm/runtime/src/monitor/network/tap.rs", "ioctls of the tun driver; a packet socket's membership"),
    ("vmm/runtime/src/pages.rs", "gives the pages of the embedded images back"),
    (
        "vmm/runtime/src/signals.rs",
        "takes the first real-time signal out of a mask; empties the mask of a hook",
    ),
];

/// A file that a reader takes in; tests beyond this go to a file of their own.
const MAX_LINES: usize = 600;

/// `unsafe` as a token: comments and strings do not count.
fn mentions_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|tree| match tree {
        TokenTree::Ident(ident) => ident == "unsafe",
        TokenTree::Group(group) => mentions_unsafe(group.stream()),
        _ => false,
    })
}

#[test]
fn unsafe_stands_in_the_listed_files_only() {
    let listed: BTreeMap<_, _> = UNSAFE_FILES.iter().copied().collect();
    let mut found = BTreeSet::new();
    for file in files().iter().filter(|file| file.has_extension("rs")) {
        let tokens: TokenStream =
            file.text.parse().unwrap_or_else(|error| panic!("{}: not Rust: {error}", file.path));
        if mentions_unsafe(tokens) {
            assert!(
                listed.contains_key(file.path.as_str()),
                "{}: unsafe in a file that is not on the list of {}",
                file.path,
                file!()
            );
            found.insert(file.path.clone());
        }
    }
    for path in listed.keys() {
        assert!(found.contains(*path), "{path}: has no unsafe any more; take it off the list");
    }
}

#[test]
fn unsafe_is_found_in_code_and_nowhere_else() {
    let mentions = |code: &str| mentions_unsafe(code.parse().unwrap());
    assert!(mentions("fn f() { g(|| { unsafe { h() } }) }"));
    assert!(!mentions("/// unsafe\nfn f() { g(\"unsafe\") } // unsafe"));
}

#[test]
fn files_are_short_enough_to_read() {
    for file in files().iter().filter(|file| file.has_extension("rs") || file.is_shell()) {
        let lines = file.text.lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines; split it by concept", file.path);
    }
}

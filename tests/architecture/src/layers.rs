//! Which crate may depend on which.
//!
//! ```text
//!   cli ──▶ runtime ──▶ plan ──▶ proto ◀── agent
//!    │         │  │       └────▶ spec        │
//!    │         │  └────▶ netlink, bpf, flow ◀┘
//!    ├─────────┴──▶ machine ──▶ devices ──▶ spec          initramfs
//!    └──▶ measure ──▶ spec
//! ```
//!
//! The runtime owns the monitor process, and the monitor owns a machine: that is
//! its edge to `machine`. An edge from the command line alone would need an
//! abstraction over machines, of which there is one. The command line's own edge
//! to `machine` is `vmrun check`; `measure` is `vmrun bench`, which sees nothing of a sandbox but what any
//! caller of the command does.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkout::packages;

/// Crate, and what it may depend on. An edge that is not here is an error, and
/// so is one that is here and not in use.
const LAYERS: &[(&str, &[&str])] = &[
    ("vmrun-spec", &[]),
    ("vmrun-proto", &[]),
    ("vmrun-initramfs", &[]),
    ("vmrun-netlink", &[]),
    ("vmrun-bpf", &[]),
    ("vmrun-flow", &[]),
    ("vmrun-plan", &["vmrun-proto", "vmrun-spec"]),
    ("vmrun-devices", &["vmrun-spec"]),
    ("vmrun-machine", &["vmrun-devices", "vmrun-spec"]),
    (
        "vmrun-runtime",
        &[
            "vmrun-bpf",
            "vmrun-flow",
            "vmrun-machine",
            "vmrun-netlink",
            "vmrun-plan",
            "vmrun-proto",
            "vmrun-spec",
        ],
    ),
    ("vmrun-measure", &["vmrun-spec"]),
    ("vmrun", &["vmrun-machine", "vmrun-measure", "vmrun-runtime"]),
    ("vmrun-agent", &["vmrun-bpf", "vmrun-flow", "vmrun-netlink", "vmrun-proto"]),
];

/// A crate from outside, who may depend on it, and what that keeps.
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("kvm-ioctls", &["vmrun-machine"], "only the machine opens KVM"),
    ("kvm-bindings", &["vmrun-machine"], "only the machine opens KVM"),
    ("linux-loader", &["vmrun-machine"], "only the machine boots"),
    ("seccompiler", &["vmrun-devices"], "what a thread may do is decided where it is started"),
    ("virtio-queue", &["vmrun-devices"], "only devices see queues"),
    ("virtiofsd", &["vmrun-devices"], "only devices serve files"),
    ("vm-memory", &["vmrun-devices", "vmrun-machine"], "nothing above the machine sees guest memory"),
    (
        "oci-spec",
        &["vmrun-agent", "vmrun-plan", "vmrun-proto", "vmrun-runtime"],
        "machine and devices have never heard of containers",
    ),
    ("libcgroups", &["vmrun-agent"], "containers are made in the guest"),
    ("libseccomp", &["vmrun-agent"], "containers are made in the guest"),
    ("clap", &["vmrun"], "only the command line parses argv"),
];

fn allowed(table: &[(&'static str, &'static [&'static str])]) -> BTreeMap<String, BTreeSet<String>> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    table.iter().map(|(name, edges)| ((*name).to_owned(), owned(edges))).collect()
}

#[test]
fn edges_are_those_of_the_table() {
    let found: BTreeMap<String, BTreeSet<String>> = packages()
        .into_iter()
        .filter(|package| !package.is_a_test())
        .map(|package| {
            let ours = package.dependencies.iter().filter(|dependency| dependency.is_ours());
            let names = ours.map(|dependency| dependency.name.clone()).collect();
            (package.name, names)
        })
        .collect();
    assert_eq!(found, allowed(LAYERS), "left: what the manifests say; right: the table of layers");
}

#[test]
fn tests_and_benches_are_nobodys_dependency() {
    let packages = packages();
    let above: BTreeSet<_> =
        packages.iter().filter(|package| package.is_a_test()).map(|package| package.name.as_str()).collect();
    for package in packages.iter().filter(|package| !package.is_a_test()) {
        for dependency in &package.dependencies {
            assert!(!above.contains(dependency.name.as_str()), "{} -> {}", package.name, dependency.name);
        }
    }
}

#[test]
fn crates_from_outside_stay_in_their_layer() {
    for package in packages().iter().filter(|package| !package.is_a_test()) {
        for (name, holders, why) in RESERVED {
            let depends = package
                .dependencies
                .iter()
                .any(|dependency| dependency.name == *name && dependency.kind.as_deref() != Some("dev"));
            assert!(
                !depends || holders.contains(&package.name.as_str()),
                "{} -> {name}: {why}",
                package.name
            );
        }
    }
}

//! What every manifest has in common, and one generation of rust-vmm.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkout::{packages, read};

/// Crates whose types meet each other's: two versions of one are two worlds of
/// guest memory. The virtio-fs server sets the generation.
const RUST_VMM: &[&str] = &[
    "event-manager",
    "kvm-bindings",
    "kvm-ioctls",
    "linux-loader",
    "vhost",
    "vhost-user-backend",
    "virtio-bindings",
    "virtio-queue",
    "virtio-vsock",
    "virtiofsd",
    "vm-memory",
    "vm-superio",
    "vmm-sys-util",
];

/// The versions of each crate in `Cargo.lock`.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let lock = read("Cargo.lock");
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_matches([' ', '=', '"']).to_owned()
        };
        versions.entry(field("name")).or_default().insert(field("version"));
    }
    versions
}

#[test]
fn rust_vmm_crates_have_one_version() {
    let locked = locked();
    for name in RUST_VMM {
        let versions = locked.get(*name).unwrap_or_else(|| panic!("{name} is not in Cargo.lock any more"));
        assert_eq!(versions.len(), 1, "{name} is in Cargo.lock with the versions {versions:?}");
    }
}

#[test]
fn every_crate_has_the_workspaces_lints() {
    for package in packages() {
        let manifest = read(&format!("{}/Cargo.toml", package.folder()));
        assert!(manifest.contains("\n[lints]\nworkspace = true\n"), "{}: no workspace lints", package.name);
    }
}

#[test]
fn every_crate_has_the_workspaces_licence_and_stays_unpublished() {
    for package in packages() {
        assert_eq!(package.license.as_deref(), Some("Apache-2.0"), "{}", package.name);
        assert_eq!(package.publish.as_deref(), Some([].as_slice()), "{}", package.name);
    }
    assert!(read("LICENSE").contains("Apache License"));
}

/// A worker's panic is reported by its thread (`vmm/devices/src/thread.rs`): that
/// needs unwinding.
#[test]
fn profiles_keep_unwinding() {
    let manifest = read("Cargo.toml");
    let aborts = manifest.lines().any(|line| line.trim() == "panic = \"abort\"");
    assert!(!aborts, "Cargo.toml: panic = \"abort\" ends the monitor without a word");
}

//! The configuration as the guest applies it: every host path replaced.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Linux, Spec};
use vmrun_proto::{ROOTFS_DIR, SHARE_MOUNT};

use crate::volumes::Volumes;
use crate::{Bundle, Options, id_map};

pub(crate) fn rewrite(bundle: &Bundle, options: &Options, volumes: &Volumes, hooks: Option<Hooks>) -> Spec {
    let mut spec = bundle.spec.clone();
    if let Some(mut root) = spec.root().clone() {
        root.set_path(Path::new(SHARE_MOUNT).join(ROOTFS_DIR));
        spec.set_root(Some(root));
    }
    if let Some(mut mounts) = spec.mounts().clone() {
        for (index, source) in &volumes.guest_sources {
            if let Some(mount) = mounts.get_mut(*index) {
                mount.set_source(Some(source.clone()));
            }
        }
        mounts.iter_mut().for_each(id_map::forget);
        spec.set_mounts(Some(mounts));
    }
    if let Some(mut process) = spec.process().clone() {
        // "unconfined", or it was refused.
        process.set_apparmor_profile(None);
        spec.set_process(Some(process));
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    // The host's cgroup tree means nothing in the guest. The prefix keeps an id
    // like `cgroup.procs` from meaning a file.
    linux.set_cgroups_path(Some(PathBuf::from(format!("/vmrun-{}", options.id))));
    forget_namespace_paths(&mut linux);
    spec.set_linux(Some(linux));
    spec.set_hooks(hooks);
    spec
}

/// Only a network namespace can still have a path: the guest makes a new one.
fn forget_namespace_paths(linux: &mut Linux) {
    let Some(mut namespaces) = linux.namespaces().clone() else { return };
    for namespace in &mut namespaces {
        namespace.set_path(None);
    }
    linux.set_namespaces(Some(namespaces));
}

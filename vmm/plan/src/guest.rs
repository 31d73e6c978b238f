//! The configuration as the guest applies it: every host path replaced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Linux, LinuxNamespace, LinuxNamespaceType, Spec};
use vmrun_proto::{ROOTFS_DIR, SHARE_MOUNT};

use crate::disks::Disks;
use crate::host_limits::without_the_hosts;
use crate::volumes::Volumes;
use crate::{Bundle, Facts, Options, cpuset, id_map, rlimits};

/// What the configuration is rewritten with.
pub(crate) struct Rewrite<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) facts: &'a Facts,
    pub(crate) options: &'a Options,
    pub(crate) volumes: &'a Volumes,
    pub(crate) disks: &'a Disks,
    /// The host's processors that the container may run on; none for all.
    pub(crate) cpus: &'a BTreeSet<u32>,
    /// CPUs of the machine.
    pub(crate) vcpus: u8,
}

impl Rewrite<'_> {
    /// The configuration for the guest, with those hooks that run there.
    pub(crate) fn done(&self, hooks: Option<Hooks>) -> Spec {
        let mut spec = self.bundle.spec.clone();
        self.file_systems(&mut spec);
        if let Some(mut process) = spec.process().clone() {
            // "unconfined", or it was refused.
            process.set_apparmor_profile(None);
            rlimits::inherit(&mut process, &self.facts.rlimits);
            if process.oom_score_adj().is_none() && self.facts.oom_score_adj != 0 {
                process.set_oom_score_adj(Some(self.facts.oom_score_adj));
            }
            spec.set_process(Some(process));
        }
        self.kernel_objects(&mut spec);
        if spec.hostname().as_deref() == Some("") {
            spec.set_hostname(None);
        }
        spec.set_hooks(hooks);
        spec
    }

    fn file_systems(&self, spec: &mut Spec) {
        if let Some(mut root) = spec.root().clone() {
            root.set_path(Path::new(SHARE_MOUNT).join(ROOTFS_DIR));
            spec.set_root(Some(root));
        }
        if let Some(mut mounts) = spec.mounts().clone() {
            for (index, source) in self.volumes.guest_sources.iter().chain(&self.disks.guest_sources) {
                if let Some(mount) = mounts.get_mut(*index) {
                    mount.set_source(Some(source.clone()));
                }
            }
            mounts.iter_mut().for_each(id_map::forget);
            spec.set_mounts(Some(mounts));
        }
    }

    fn kernel_objects(&self, spec: &mut Spec) {
        let mut linux = spec.linux().clone().unwrap_or_else(no_linux);
        // The host's cgroup tree means nothing in the guest. The prefix keeps an id
        // like `cgroup.procs` from meaning a file.
        linux.set_cgroups_path(Some(PathBuf::from(format!("/vmrun-{}", self.options.id))));
        if let Some(resources) = linux.resources() {
            let resources = without_the_hosts(resources);
            let mut resources = cpuset::in_the_guest(&resources, self.cpus, self.vcpus);
            // No process could be: it is no limit, as for runc.
            if resources.pids().as_ref().is_some_and(|pids| pids.limit() == 0) {
                resources.set_pids(None);
            }
            linux.set_resources(Some(resources));
        }
        forget_namespace_paths(&mut linux);
        isolate_mounts(&mut linux);
        // The default, or it was refused; the guest's kernel knows none.
        linux.set_memory_policy(None);
        spec.set_linux(Some(linux));
    }
}

/// The library's default is full of what nobody asked for.
fn no_linux() -> Linux {
    let mut linux = Linux::default();
    linux.set_namespaces(None).set_resources(None).set_masked_paths(None).set_readonly_paths(None);
    linux
}

/// A container's mounts are its own, whatever is asked for: the agent's must not be changed, and one more
/// process finds the container's root file system by its mount namespace.
fn isolate_mounts(linux: &mut Linux) {
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    if namespaces.iter().all(|namespace| namespace.typ() != LinuxNamespaceType::Mount) {
        let mut own = LinuxNamespace::default();
        own.set_typ(LinuxNamespaceType::Mount);
        namespaces.push(own);
        linux.set_namespaces(Some(namespaces));
    }
}

/// Only a network namespace can still have a path: the guest makes a new one.
fn forget_namespace_paths(linux: &mut Linux) {
    let Some(mut namespaces) = linux.namespaces().clone() else { return };
    for namespace in &mut namespaces {
        namespace.set_path(None);
    }
    linux.set_namespaces(Some(namespaces));
}

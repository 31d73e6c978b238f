//! Configurations of all kinds, for `tests/fuzz`.

use std::path::{Path, PathBuf};

use vmrun_spec::Image;

use crate::{Bundle, Facts, Options, SandboxPlan, bundle, destination, plan};

/// From a configuration to a plan, as far as that goes. A plan is what is sent to other processes, so
/// it must come back from its text.
pub fn config(text: &[u8]) {
    let Ok(bundle::Parsed { mut spec, vm, ignored_capabilities }) = bundle::parse(text) else { return };
    destination::clean(&mut spec);
    let dir = PathBuf::from("/bundle");
    let rootfs = spec.root().as_ref().map_or_else(|| dir.join("rootfs"), |root| dir.join(root.path()));
    let bundle = Bundle { dir, rootfs, spec, vm, ignored_capabilities };
    let facts = Facts { cpus: 4, online: (0..4).collect(), may_map_ids: true, ..Facts::default() };
    let Ok(plan) = plan(&bundle, &facts, &options()) else { return };
    for volume in &plan.host.volumes {
        assert!(Path::new(&volume.source).is_absolute(), "{} is relative", volume.source.display());
    }
    let text = serde_json::to_vec(&plan).expect("a plan has a text");
    let back: SandboxPlan = serde_json::from_slice(&text).expect("and comes back from it");
    assert_eq!(back, plan);
}

fn options() -> Options {
    Options {
        id: "fuzz".to_owned(),
        directory: "/run/vmrun/fuzz".into(),
        vcpus: None,
        memory_mib: None,
        kernel: Image::Embedded,
        initramfs: Image::Embedded,
        kernel_params: Vec::new(),
        console_size: None,
        systemd_cgroup: false,
        notify: false,
        user_network: None,
        timeline: false,
    }
}

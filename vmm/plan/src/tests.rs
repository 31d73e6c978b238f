use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;

fn bundle_of(text: &str) -> Bundle {
    let bundle::Parsed { spec, vm, ignored_capabilities } = bundle::parse(text.as_bytes()).unwrap();
    let dir = PathBuf::from("/bundle");
    let rootfs = spec.root().as_ref().map_or_else(|| dir.join("rootfs"), |root| dir.join(root.path()));
    Bundle { dir, rootfs, spec, vm, ignored_capabilities }
}

fn facts() -> Facts {
    let sources = [
        ("/srv/data", VolumeKind::Directory),
        ("/bundle/hosts", VolumeKind::File),
        ("/run/database", VolumeKind::Socket),
        ("/run/agent", VolumeKind::Socket),
    ];
    let sources = sources.into_iter().map(|(path, kind)| (path.into(), kind)).collect();
    let rlimits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 7, "hard": 8},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX},
    ]);
    Facts {
        cpus: 4,
        online: (0..4).collect(),
        may_map_ids: true,
        rlimits: serde_json::from_value(rlimits).unwrap(),
        sources,
        ..Facts::default()
    }
}

fn options() -> Options {
    Options {
        id: "web".to_owned(),
        directory: "/run/vmrun/web".into(),
        vcpus: None,
        memory_mib: None,
        kernel: Image::Embedded,
        initramfs: Image::Embedded,
        kernel_params: Vec::new(),
        timeline: false,
        console_size: None,
        systemd_cgroup: false,
        notify: false,
        user_network: None,
    }
}

/// `UPDATE_GOLDEN=1 cargo test -p vmrun-plan` writes the files anew.
fn compare_with_golden(name: &str, text: &str) {
    let plan = plan(&bundle_of(text), &facts(), &options()).unwrap();
    let shown = format!("{:#}\n", serde_json::to_value(&plan).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/plan").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &shown).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    assert_eq!(shown, golden, "{} differs", path.display());
    let back: SandboxPlan = serde_json::from_str(&golden).unwrap();
    assert_eq!(back, plan);
}

#[test]
fn full_bundle_gives_its_golden_plan() {
    compare_with_golden("full.json", include_str!("../tests/bundles/full.json"));
}

#[test]
fn small_bundle_gives_its_golden_plan() {
    compare_with_golden("small.json", include_str!("../tests/bundles/small.json"));
}

/// A good configuration with `change` merged into it.
fn changed(change: &Value) -> String {
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    });
    merge(&mut config, change);
    config.to_string()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[test]
fn each_refusal_names_its_field() {
    let table = [
        (json!({"ociVersion": "2.0.0"}), "ociVersion"),
        (json!({"ociVersion": "1.0"}), "ociVersion"),
        (json!({"ociVersion": ""}), "ociVersion"),
        (json!({"process": null}), "process"),
        (json!({"process": {"args": null}}), "process.args"),
        (json!({"process": {"args": []}}), "process.args"),
        (json!({"process": {"args": [""]}}), "process.args[0]"),
        (json!({"process": {"cwd": "tmp"}}), "process.cwd"),
        (json!({"process": {"env": ["A=b", "=x"]}}), "process.env[1]"),
        (json!({"hostname": "x"}), "hostname"),
        (json!({"domainname": "x"}), "domainname"),
        (json!({"mounts": [{"destination": "", "type": "tmpfs"}]}), "mounts[0].destination"),
        (json!({"mounts": [{"destination": "/a", "type": "bind"}]}), "mounts[0].source"),
        (json!({"mounts": [{"destination": "/a", "type": "bind", "source": "/none"}]}), "mounts[0].source"),
        (json!({"linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}}), "linux.namespaces[1].type"),
        (
            json!({"linux": {"namespaces": [{"type": "ipc", "path": "/proc/1/ns/ipc"}]}}),
            "linux.namespaces[0].path",
        ),
        (
            json!({"linux": {"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}}),
            "linux.uidMappings",
        ),
        (json!({"linux": {"timeOffsets": {"monotonic": {"secs": 1}}}}), "linux.timeOffsets"),
        (json!({"linux": {"intelRdt": {}}}), "linux.intelRdt"),
        (json!({"linux": {"mountLabel": "x"}}), "linux.mountLabel"),
        (json!({"process": {"apparmorProfile": "x"}}), "process.apparmorProfile"),
        (json!({"process": {"selinuxLabel": "x"}}), "process.selinuxLabel"),
        (json!({"process": {"commandLine": "x"}}), "process.commandLine"),
        (json!({"process": {"user": {"username": "x"}}}), "process.user.username"),
        (json!({"process": {"execCPUAffinity": {"initial": "1"}}}), "process.execCPUAffinity.initial"),
        (json!({"linux": {"personality": {"domain": "LINUX", "flags": ["x"]}}}), "linux.personality.flags"),
        (json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}}), "linux.memoryPolicy"),
        (json!({"linux": {"memoryPolicy": {"mode": "MPOL_DEFAULT", "nodes": "0"}}}), "linux.memoryPolicy"),
        (json!({"linux": {"netDevices": {"eth0": {}}}}), "linux.netDevices"),
        (
            json!({"linux": {"resources": {"unified": {"../cgroup.procs": "1"}}}}),
            "linux.resources.unified[\"../cgroup.procs\"]",
        ),
        (
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}
            ]}}}),
            "linux.seccomp.syscalls[0].args[0].index",
        ),
        (json!({"vm": {"hypervisor": {"path": "/h"}}}), "vm.hypervisor"),
        (json!({"vm": {"image": {"path": "/i", "format": "raw"}}}), "vm.image"),
        (json!({"vm": {"hwConfig": {"deviceTree": "/t"}}}), "vm.hwConfig.deviceTree"),
        (json!({"vm": {"hwConfig": {"dtdevs": ["x"]}}}), "vm.hwConfig.dtdevs"),
        (json!({"vm": {"hwConfig": {"iomems": [{"firstMFN": 1}]}}}), "vm.hwConfig.iomems"),
        (json!({"vm": {"hwConfig": {"irqs": [4]}}}), "vm.hwConfig.irqs"),
        (json!({"vm": {"hwConfig": {"vcpus": 0}}}), "vm.hwConfig.vcpus"),
        (json!({"vm": {"hwConfig": {"memory": 1024}}}), "vm.hwConfig.memory"),
        (json!({"annotations": {"dev.vmrun.vcpu": "1"}}), "annotations[\"dev.vmrun.vcpu\"]"),
        (json!({"annotations": {"dev.vmrun.memory": "1G"}}), "annotations[\"dev.vmrun.memory\"]"),
        (
            json!({"annotations": {"dev.vmrun.volume.cache": "off"}}),
            "annotations[\"dev.vmrun.volume.cache\"]",
        ),
        (json!({"annotations": {"dev.vmrun.memory.free": "off"}}), "annotations[\"dev.vmrun.memory.free\"]"),
        (json!({"annotations": {"dev.vmrun.network.rate": "1"}}), "annotations[\"dev.vmrun.network.rate\"]"),
        (
            json!({"annotations": {"dev.vmrun.network.rx-rate": "fast"}}),
            "annotations[\"dev.vmrun.network.rx-rate\"]",
        ),
        (json!({"hooks": {"poststop": [{"path": "x"}]}}), "hooks.poststop[0].path"),
        (json!({"hooks": {"prestart": [{"path": "/x", "timeout": 0}]}}), "hooks.prestart[0].timeout"),
    ];
    for (change, field) in table {
        let error = plan(&bundle_of(&changed(&change)), &facts(), &options()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("config.json: {field}: ")), "{change} gives {error:?}");
    }
}

/// A change of the configuration: a filter with this change.
fn seccomp(change: &Value) -> Value {
    let mut filter = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    merge(&mut filter, change);
    json!({"linux": {"seccomp": filter}})
}

#[test]
fn notifications_of_seccomp_are_refused_by_field() {
    let rule = |action: &str| json!({"names": ["mkdir"], "action": action});
    let table = [
        (json!({"listenerPath": "/run/x.sock"}), "listenerPath"),
        (json!({"listenerMetadata": "x"}), "listenerMetadata"),
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "defaultAction"),
        (json!({"syscalls": [rule("SCMP_ACT_LOG"), rule("SCMP_ACT_NOTIFY")]}), "syscalls[1].action"),
    ];
    for (change, field) in table {
        let error = plan(&bundle_of(&changed(&seccomp(&change))), &facts(), &options()).unwrap_err();
        let start = format!("config.json: linux.seccomp.{field}: not supported: ");
        assert!(error.to_string().starts_with(&start), "{change} gives {error}");
    }
    let plain = seccomp(&json!({"syscalls": [rule("SCMP_ACT_ERRNO")]}));
    plan(&bundle_of(&changed(&plain)), &facts(), &options()).unwrap();
}

#[test]
fn mapping_for_what_is_not_a_volume_or_without_root_is_refused_by_field() {
    let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let mapped = |kind: &str, source: &str| {
        let mount = json!({
            "destination": "/a", "type": kind, "source": source, "options": ["idmap"],
            "uidMappings": mapping, "gidMappings": mapping,
        });
        bundle_of(&changed(&json!({"mounts": [mount]})))
    };
    let user = Facts { may_map_ids: false, ..facts() };
    let table = [
        (mapped("tmpfs", "tmpfs"), facts(), "only a bind mount"),
        (mapped("bind", "/proc/self"), facts(), "only a bind mount"),
        (mapped("bind", "/srv/data"), user, "only root"),
    ];
    for (bundle, facts, why) in table {
        let error = plan(&bundle, &facts, &options()).unwrap_err().to_string();
        let start = format!("config.json: mounts[0].uidMappings: not supported: {why}");
        assert!(error.starts_with(&start), "{error}");
    }
    plan(&mapped("bind", "/srv/data"), &facts(), &options()).unwrap();
}

#[test]
fn what_means_nothing_is_left_out_of_the_guests_configuration() {
    let nothing = json!({
        "hostname": "",
        "linux": {"memoryPolicy": {"mode": "MPOL_DEFAULT"}, "resources": {"pids": {"limit": 0}}},
    });
    let spec = plan(&bundle_of(&changed(&nothing)), &facts(), &options()).unwrap().guest.spec;
    let linux = spec.linux().clone().unwrap_or_default();
    assert_eq!((spec.hostname(), linux.memory_policy()), (&None, &None));
    assert_eq!(linux.resources().as_ref().and_then(|resources| resources.pids().as_ref()), None);
}

#[test]
fn proc_and_sysfs_are_not_mounted_through_a_link() {
    let mounts = json!([
        {"destination": "/proc", "type": "proc"},
        {"destination": "/sys", "type": "sysfs"},
        {"destination": "/v", "type": "bind", "source": "/srv/data"},
        {"destination": "/v/proc", "type": "proc"},
    ]);
    let bundle = bundle_of(&changed(&json!({"mounts": mounts})));
    let places = ["/bundle/rootfs/proc", "/bundle/rootfs/sys"].map(PathBuf::from);
    assert_eq!(kernel_mount_points(&bundle), places);
    let [_, sys] = places;
    let facts = Facts { not_directories: [(sys, "a symbolic link")].into(), ..facts() };
    let error = plan(&bundle, &facts, &options()).unwrap_err().to_string();
    let start = "config.json: mounts[1].destination: filesystem \"sysfs\" must be mounted on ordinary \
                 directory, and /sys in the root file system is a symbolic link: ";
    assert!(error.starts_with(start) && error.ends_with(": /bundle/rootfs/sys"), "{error}");
}

#[test]
fn options_that_would_be_dropped_are_refused_by_field() {
    let with = |kind: &str, given: &[&str]| {
        let mount = json!({"destination": "/a", "type": kind, "source": "/srv/data", "options": given});
        plan(&bundle_of(&changed(&json!({"mounts": [mount]}))), &facts(), &options())
    };
    for (kind, option) in [
        ("bind", "size=1m"),
        ("bind", "rshared"),
        ("tmpfs", "shared"),
        ("none", "idmap=uids=0-1-10"),
        ("bind", "tmpcopyup"),
        ("proc", "tmpcopyup"),
    ] {
        let options = if kind == "none" { vec!["rbind", option] } else { vec!["ro", option] };
        let error = with(kind, &options).unwrap_err().to_string();
        assert!(error.starts_with(&format!("config.json: mounts[0].options: {option}: ")), "{error}");
    }
    let own = |option: &&str| !["tmpcopyup", "idmap", "ridmap"].contains(option);
    with("bind", &MOUNT_OPTIONS.iter().copied().filter(own).collect::<Vec<_>>()).unwrap();
    with("tmpfs", &["size=1m", "tmpcopyup"]).unwrap();
}

#[test]
fn limits_that_the_guest_has_not_are_refused_and_no_limit_is_none() {
    let table = [
        (json!({"memory": {"kernel": 1}}), "memory.kernel"),
        (json!({"memory": {"kernelTCP": 1}}), "memory.kernelTCP"),
        (json!({"memory": {"disableOOMKiller": true}}), "memory.disableOOMKiller"),
        (json!({"memory": {"checkBeforeUpdate": true}}), "memory.checkBeforeUpdate"),
        (json!({"memory": {"swappiness": 0}}), "memory.swappiness"),
        (json!({"memory": {"useHierarchy": false}}), "memory.useHierarchy"),
        (json!({"cpu": {"realtimeRuntime": 1}}), "cpu.realtimeRuntime"),
        (json!({"cpu": {"realtimePeriod": 1}}), "cpu.realtimePeriod"),
        (json!({"cpu": {"mems": "0-1"}}), "cpu.mems"),
        (json!({"blockIO": {"leafWeight": 10}}), "blockIO.leafWeight"),
        (json!({"network": {"classID": 1}}), "network.classID"),
        (json!({"network": {"priorities": [{"name": "eth0", "priority": 1}]}}), "network.priorities"),
        (json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), "rdma"),
    ];
    for (resources, field) in table {
        let bundle = bundle_of(&changed(&json!({"linux": {"resources": resources}})));
        let error = plan(&bundle, &facts(), &options()).unwrap_err().to_string();
        let start = format!("config.json: linux.resources.{field}: not supported: ");
        assert!(error.starts_with(&start), "{resources} gives {error:?}");
    }
    // What engines write when nobody asked for anything.
    let nothing = json!({
        "memory": {"kernel": -1, "kernelTCP": 0, "disableOOMKiller": false, "swappiness": 60, "useHierarchy": true},
        "cpu": {"realtimeRuntime": 0, "realtimePeriod": 0},
        "blockIO": {"weight": 100, "leafWeight": 0, "throttleReadBpsDevice": []},
        "network": {"classID": 0, "priorities": []},
        "rdma": {},
    });
    plan(&bundle_of(&changed(&json!({"linux": {"resources": nothing}}))), &facts(), &options()).unwrap();
}

#[test]
fn sizes_are_taken_in_order() {
    let limits =
        json!({"linux": {"resources": {"memory": {"limit": 134_217_728}, "cpu": {"quota": 250_000}}}});
    let mut all = limits.clone();
    merge(&mut all, &json!({"vm": {"hwConfig": {"vcpus": 2, "memory": 536_870_912}}}));
    let from_vm = all.clone();
    merge(&mut all, &json!({"annotations": {"dev.vmrun.vcpus": "5", "dev.vmrun.memory": "700"}}));
    let typed = Options { vcpus: Some(9), memory_mib: Some(900), ..options() };
    let table = [
        (json!({}), options(), (1, 256)),
        (limits, options(), (3, 194)),
        (
            json!({"linux": {"resources": {"memory": {"limit": -1}, "cpu": {"quota": -1}}}}),
            options(),
            (1, 256),
        ),
        (json!({"linux": {"resources": {"cpu": {"quota": 9_000_000}}}}), options(), (4, 256)),
        (
            json!({"linux": {"resources": {"unified": {"memory.max": "4G", "cpu.max": "300000 100000"}}}}),
            options(),
            (3, 4224),
        ),
        (
            json!({"linux": {"resources": {"memory": {"limit": 134_217_728}, "unified": {"memory.max": "max"}}}}),
            options(),
            (1, 256),
        ),
        (json!({"linux": {"resources": {"unified": {"cpuset.cpus": "2-3"}}}}), options(), (2, 256)),
        (from_vm, options(), (2, 512)),
        (all.clone(), options(), (5, 700)),
        (all, typed, (9, 900)),
    ];
    for (change, options, expected) in table {
        let machine = plan(&bundle_of(&changed(&change)), &facts(), &options).unwrap().machine;
        assert_eq!((machine.vcpus, machine.memory_mib), expected, "{change}");
    }
}

#[test]
fn sizes_on_the_command_line_have_bounds() {
    for typed in [
        Options { vcpus: Some(0), ..options() },
        Options { vcpus: Some(65), ..options() },
        Options { memory_mib: Some(MachineSpec::MIN_MEMORY_MIB - 1), ..options() },
    ] {
        let result = plan(&bundle_of(&changed(&json!({}))), &facts(), &typed);
        assert!(matches!(result, Err(PlanError::Option { .. })), "{result:?}");
    }
}

fn asked(change: &Value) -> Result<BootRequest, PlanError> {
    boot_request(&bundle_of(&changed(change)))
}

#[test]
fn bundle_asks_to_boot_by_annotations_before_the_vm_section() {
    assert_eq!(asked(&json!({})).unwrap(), BootRequest::default());
    let kernel = json!({"path": "/k", "initrd": "/i", "parameters": ["quiet", "a=b"]});
    let request = asked(&json!({"vm": {"kernel": kernel}})).unwrap();
    let path = |field: &str, value: &str| Some(Asked { field: field.to_owned(), value: value.into() });
    assert_eq!(request.kernel, path("vm.kernel.path", "/k"));
    assert_eq!(request.initrd, path("vm.kernel.initrd", "/i"));
    assert_eq!(request.parameters[1], Asked { field: "vm.kernel.parameters[1]".into(), value: "a=b".into() });
    let annotations = json!({"dev.vmrun.kernel": "/ak", "dev.vmrun.initrd": "/ai"});
    let request = asked(&json!({"vm": {"kernel": kernel}, "annotations": annotations})).unwrap();
    assert_eq!(request.kernel, path("annotations[\"dev.vmrun.kernel\"]", "/ak"));
    assert_eq!(request.initrd, path("annotations[\"dev.vmrun.initrd\"]", "/ai"));
}

#[test]
fn what_is_no_path_or_no_parameter_cannot_be_asked_for() {
    for (change, field) in [
        (json!({"vm": {"kernel": {"path": "k"}}}), "vm.kernel.path"),
        (json!({"vm": {"kernel": {"path": "/k", "initrd": ""}}}), "vm.kernel.initrd"),
        (json!({"annotations": {"dev.vmrun.kernel": "k"}}), "annotations[\"dev.vmrun.kernel\"]"),
        (json!({"vm": {"kernel": {"path": "/k", "parameters": ["a", "b c"]}}}), "vm.kernel.parameters[1]"),
        (json!({"vm": {"kernel": {"path": "/k", "parameters": [""]}}}), "vm.kernel.parameters[0]"),
        (json!({"vm": {"kernel": {"path": "/k", "parameters": ["a=\"b\""]}}}), "vm.kernel.parameters[0]"),
    ] {
        let error = asked(&change).unwrap_err().to_string();
        assert!(error.starts_with(&format!("config.json: {field}: ")), "{error}");
    }
}

#[test]
fn processors_of_the_host_become_as_many_cpus_of_the_machine() {
    let cpus = json!({"linux": {"resources": {"cpu": {"cpus": "1,3", "quota": 150_000}}}});
    let planned = plan(&bundle_of(&changed(&cpus)), &facts(), &options()).unwrap();
    assert_eq!((planned.machine.vcpus, planned.host.cpus), (2, BTreeSet::from([1, 3])));
    let linux = planned.guest.spec.linux().clone().unwrap_or_default();
    let in_guest = linux.resources().as_ref().and_then(|resources| resources.cpu().as_ref());
    assert_eq!(in_guest.and_then(|cpu| cpu.cpus().as_deref()), Some("0-1"));
    let fewer = Options { vcpus: Some(1), ..options() };
    let planned = plan(&bundle_of(&changed(&cpus)), &facts(), &fewer).unwrap();
    assert_eq!((planned.machine.vcpus, planned.host.cpus), (1, BTreeSet::from([1, 3])));
    let little = json!({"linux": {"resources": {"cpu": {"cpus": "0-3", "quota": 50_000}}}});
    assert_eq!(plan(&bundle_of(&changed(&little)), &facts(), &options()).unwrap().machine.vcpus, 1);
}

#[test]
fn sockets_are_told_to_the_guest_by_the_numbers_of_their_volumes() {
    let bind = |source| json!({"destination": source, "type": "bind", "source": source, "options": ["bind"]});
    let mounts = ["/run/database", "/srv/data", "/run/agent"].map(bind);
    let plan = plan(&bundle_of(&changed(&json!({ "mounts": mounts }))), &facts(), &options()).unwrap();
    let paths: Vec<_> = plan.guest.sockets.iter().map(|socket| socket.path.as_str()).collect();
    assert_eq!(paths, ["/run/vmrun/share/volumes/0", "/run/vmrun/share/volumes/2"]);
    let sources: Vec<_> =
        plan.guest.spec.mounts().iter().flatten().filter_map(|mount| mount.source().clone()).collect();
    assert_eq!(sources[2], Path::new(paths[1]));
}

//! Fields that a microVM cannot honour. Each is refused by name: never
//! silently dropped.

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::validate::PlanError;
use crate::vm::VmSection;

const NO_LSM: &str = "the guest kernel has no such security module; leave the field out";
const HOST_KERNEL: &str = "it configures the host's hardware, which the container does not run on";
const HOST_CHOOSES: &str = "the host chooses the machine; use the options of `vmrun` instead";
const ID_MAPPED: &str =
    "the guest's file system of the host's files has no id-mapped mounts; leave the option out";
const OWN_KERNEL: &str =
    "a namespace of the host's kernel cannot be entered from the guest's; leave the path out";

/// Refuses what cannot be honoured.
pub(crate) fn refuse(spec: &Spec, vm: &VmSection) -> Result<(), PlanError> {
    for (field, why, present) in fields(spec, vm) {
        if present {
            return Err(PlanError::Unsupported { field: field.to_owned(), why });
        }
    }
    if let Some(process) = spec.process() {
        refuse_labels(process)?;
    }
    namespace_paths(spec)?;
    mount_options(spec)?;
    annotations(spec)
}

/// Refuses what a security module would do to a process.
pub(crate) fn refuse_labels(process: &Process) -> Result<(), PlanError> {
    let profile = process.apparmor_profile().as_deref().filter(|profile| *profile != "unconfined");
    let labels =
        [("process.apparmorProfile", profile), ("process.selinuxLabel", process.selinux_label().as_deref())];
    match labels.into_iter().find(|(_, label)| label.is_some_and(is_given)) {
        Some((field, _)) => Err(PlanError::Unsupported { field: field.to_owned(), why: NO_LSM }),
        None => Ok(()),
    }
}

fn is_given(text: &str) -> bool {
    !text.is_empty()
}

fn fields(spec: &Spec, vm: &VmSection) -> Vec<(&'static str, &'static str, bool)> {
    let linux = spec.linux().as_ref();
    let mount_label = linux.and_then(|linux| linux.mount_label().as_deref());
    vec![
        ("linux.mountLabel", NO_LSM, mount_label.is_some_and(is_given)),
        ("linux.intelRdt", HOST_KERNEL, linux.is_some_and(|linux| linux.intel_rdt().is_some())),
        ("linux.memoryPolicy", HOST_KERNEL, linux.is_some_and(|linux| linux.memory_policy().is_some())),
        (
            "linux.netDevices",
            "host interfaces cannot be moved into the guest yet",
            linux.and_then(|linux| linux.net_devices().as_ref()).is_some_and(|devices| !devices.is_empty()),
        ),
        ("vm.kernel", HOST_CHOOSES, vm.kernel.is_some()),
        ("vm.hypervisor", HOST_CHOOSES, vm.hypervisor.is_some()),
        ("vm.image", HOST_CHOOSES, vm.image.is_some()),
        ("windows", "this is a Linux container runtime", spec.windows().is_some()),
        ("solaris", "this is a Linux container runtime", spec.solaris().is_some()),
        ("zos", "this is a Linux container runtime", spec.zos().is_some()),
    ]
}

fn namespace_paths(spec: &Spec) -> Result<(), PlanError> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    for (index, namespace) in namespaces.into_iter().flatten().enumerate() {
        let named = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        if named && namespace.typ() != LinuxNamespaceType::Network {
            let field = format!("linux.namespaces[{index}].path");
            return Err(PlanError::Unsupported { field, why: OWN_KERNEL });
        }
    }
    Ok(())
}

fn mount_options(spec: &Spec) -> Result<(), PlanError> {
    const REFUSED: [(&str, &str); 2] = [("idmap", ID_MAPPED), ("ridmap", ID_MAPPED)];
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let has = |wanted: &str| mount.options().iter().flatten().any(|option| option == wanted);
        if let Some((option, why)) = REFUSED.iter().find(|(option, _)| has(option)) {
            let field = format!("mounts[{index}].options: {option}");
            return Err(PlanError::Unsupported { field, why });
        }
        if has("tmpcopyup") && mount.typ().as_deref() != Some("tmpfs") {
            let field = format!("mounts[{index}].options: tmpcopyup");
            return Err(PlanError::invalid(field, "is for a mount of type tmpfs"));
        }
    }
    Ok(())
}

/// Annotations under our own prefix are instructions, so an unknown one is an error.
fn annotations(spec: &Spec) -> Result<(), PlanError> {
    let known = [crate::size::VCPUS_ANNOTATION, crate::size::MEMORY_ANNOTATION];
    let mut ours: Vec<_> = spec
        .annotations()
        .iter()
        .flat_map(|annotations| annotations.keys())
        .filter(|key| key.starts_with("dev.vmrun.") && !known.contains(&key.as_str()))
        .collect();
    ours.sort();
    match ours.first() {
        None => Ok(()),
        Some(key) => Err(PlanError::invalid(
            format!("annotations[{key:?}]"),
            format!("is not known; there are {}", known.join(" and ")),
        )),
    }
}

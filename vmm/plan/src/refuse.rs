//! Fields that a microVM cannot honour. Each is refused by name: never
//! silently dropped.

use oci_spec::runtime::{
    LinuxNamespaceType, LinuxSeccomp, LinuxSeccompAction, MemoryPolicyModeType, Process, Spec,
};

use crate::boot_request::{INITRD_ANNOTATION, KERNEL_ANNOTATION};
use crate::free_memory::FREE_MEMORY_ANNOTATION;
use crate::rates::{DISK_RATE_ANNOTATION, RX_RATE_ANNOTATION, TX_RATE_ANNOTATION};
use crate::resources::check_resources;
use crate::root_image::{IMAGE_ANNOTATION, TYPE_ANNOTATION, WRITABLE_ANNOTATION};
use crate::size::{MEMORY_ANNOTATION, VCPUS_ANNOTATION};
use crate::validate::PlanError;
use crate::vm::VmSection;
use crate::volume_cache::VOLUME_CACHE_ANNOTATION;
use crate::{devices, file_systems, mount_options};

const NO_LSM: &str = "the guest kernel has no such security module; leave the field out";
const HOST_KERNEL: &str = "it configures the host's hardware, which the container does not run on";
const HOST_DEVICE: &str = "the host's devices are not in the guest; leave the field out";
const NO_NOTIFY: &str = "the notifications of the guest's kernel cannot leave the guest; use another action";
const HOST_CHOOSES: &str = "the host chooses the machine; use the options of `vmrun` instead";
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
        refuse_process(process)?;
    }
    if let Some(linux) = spec.linux() {
        linux.resources().iter().try_for_each(check_resources)?;
        linux.seccomp().iter().try_for_each(seccomp)?;
    }
    namespace_paths(spec)?;
    devices::check(spec)?;
    file_systems::check(spec)?;
    mount_options::check(spec)?;
    annotations(spec)
}

/// Refuses what cannot be done to a process: by a security module, or on another system.
pub(crate) fn refuse_process(process: &Process) -> Result<(), PlanError> {
    let profile = process.apparmor_profile().as_deref().filter(|profile| *profile != "unconfined");
    let table = [
        ("process.apparmorProfile", NO_LSM, profile),
        ("process.selinuxLabel", NO_LSM, process.selinux_label().as_deref()),
        ("process.commandLine", "it is for Windows; use process.args", process.command_line().as_deref()),
        (
            "process.user.username",
            "it is for Windows; use process.user.uid",
            process.user().username().as_deref(),
        ),
    ];
    match table.into_iter().find(|(.., text)| text.is_some_and(is_given)) {
        Some((field, why, _)) => Err(PlanError::Unsupported { field: field.to_owned(), why }),
        None => Ok(()),
    }
}

/// Refuses what would need a listener on the host.
fn seccomp(filter: &LinuxSeccomp) -> Result<(), PlanError> {
    let notifies = |action: LinuxSeccompAction| action == LinuxSeccompAction::ScmpActNotify;
    let listener = filter.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    let mut fields = vec![
        ("listenerPath".to_owned(), listener),
        ("listenerMetadata".to_owned(), filter.listener_metadata().as_deref().is_some_and(is_given)),
        ("defaultAction".to_owned(), notifies(filter.default_action())),
    ];
    for (index, rule) in filter.syscalls().iter().flatten().enumerate() {
        fields.push((format!("syscalls[{index}].action"), notifies(rule.action())));
    }
    match fields.into_iter().find(|(_, given)| *given) {
        Some((field, _)) => {
            Err(PlanError::Unsupported { field: format!("linux.seccomp.{field}"), why: NO_NOTIFY })
        }
        None => seccomp_arguments(filter),
    }
}

/// A call has six arguments; the library would only say that its input is wrong.
fn seccomp_arguments(filter: &LinuxSeccomp) -> Result<(), PlanError> {
    for (rule, syscall) in filter.syscalls().iter().flatten().enumerate() {
        for (index, argument) in syscall.args().iter().flatten().enumerate() {
            if argument.index() > 5 {
                let field = format!("linux.seccomp.syscalls[{rule}].args[{index}].index");
                return Err(PlanError::invalid(field, format!("{} is not from 0 to 5", argument.index())));
            }
        }
    }
    Ok(())
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
        ("linux.memoryPolicy", HOST_KERNEL, memory_policy(spec)),
        (
            "linux.netDevices",
            "host interfaces cannot be moved into the guest yet",
            linux.and_then(|linux| linux.net_devices().as_ref()).is_some_and(|devices| !devices.is_empty()),
        ),
        ("linux.personality.flags", "there are none yet; leave the field out", personality_flags(spec)),
        ("vm.hwConfig.deviceTree", HOST_CHOOSES, vm.hw_config.device_tree.is_some()),
        ("vm.hwConfig.dtdevs", HOST_DEVICE, is_filled(&vm.hw_config.dtdevs)),
        ("vm.hwConfig.iomems", HOST_DEVICE, is_filled(&vm.hw_config.iomems)),
        ("vm.hwConfig.irqs", HOST_DEVICE, is_filled(&vm.hw_config.irqs)),
        ("vm.hypervisor", HOST_CHOOSES, vm.hypervisor.is_some()),
        ("vm.image", HOST_CHOOSES, vm.image.is_some()),
        ("windows", "this is a Linux container runtime", spec.windows().is_some()),
        ("solaris", "this is a Linux container runtime", spec.solaris().is_some()),
        ("zos", "this is a Linux container runtime", spec.zos().is_some()),
    ]
}

/// Where a page is taken from without one is what its default says, on a machine of one node.
fn memory_policy(spec: &Spec) -> bool {
    let policy = spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref());
    policy.is_some_and(|policy| {
        policy.mode() != MemoryPolicyModeType::MpolDefault
            || policy.nodes().as_deref().is_some_and(is_given)
            || policy.flags().as_ref().is_some_and(|flags| !flags.is_empty())
    })
}

fn personality_flags(spec: &Spec) -> bool {
    let personality = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref());
    personality.and_then(|personality| personality.flags().as_ref()).is_some_and(|flags| !flags.is_empty())
}

/// Whether a list was written down with something in it.
fn is_filled(list: &Option<Vec<serde_json::Value>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
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

/// Annotations under our own prefix are instructions, so an unknown one is an error.
fn annotations(spec: &Spec) -> Result<(), PlanError> {
    let known = [
        VCPUS_ANNOTATION,
        MEMORY_ANNOTATION,
        KERNEL_ANNOTATION,
        INITRD_ANNOTATION,
        RX_RATE_ANNOTATION,
        TX_RATE_ANNOTATION,
        VOLUME_CACHE_ANNOTATION,
        FREE_MEMORY_ANNOTATION,
        DISK_RATE_ANNOTATION,
        IMAGE_ANNOTATION,
        TYPE_ANNOTATION,
        WRITABLE_ANNOTATION,
    ];
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
            format!("is not known; there are {}", known.join(", ")),
        )),
    }
}

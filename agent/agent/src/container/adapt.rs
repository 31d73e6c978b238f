//! From the plan to the configuration that is applied.
//!
//! What is done by [`Program`] and the maker is taken out, and what engines leave out is put in:
//!
//! * absent capabilities are empty sets,
//! * the seccomp filter and the environment are [`Program`]'s; without `noNewPrivileges`, capabilities are, too,
//! * a mount without a source gets a name for one,
//! * a root file system without a mount at `/dev` would get its device nodes
//!   written into the host's directory: it gets a tmpfs there.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder,
    Process, Spec,
};

use super::program::{Filter, Program};

/// The configuration and the program.
#[derive(Debug)]
pub(crate) struct Adapted {
    pub(crate) spec: Spec,
    pub(crate) program: Program,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdaptError {
    #[error("the configuration has no process")]
    NoProcess,
    #[error("the configuration has no root")]
    NoRoot,
    #[error("process.args is missing or empty")]
    NoArgs,
    #[error("process.cwd {0:?} is not an absolute path")]
    RelativeCwd(PathBuf),
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
    #[error("cannot build the {what}: {cause}")]
    Build { what: &'static str, cause: oci_spec::OciSpecError },
    #[error("cannot make an empty linux section: {0}")]
    EmptyLinux(serde_json::Error),
}

/// The configuration of a container's init process.
pub(crate) fn for_init(plan: &Spec) -> Result<Adapted, AdaptError> {
    let mut spec = plan.clone();
    let mut process = spec.process().clone().ok_or(AdaptError::NoProcess)?;
    if spec.root().is_none() {
        return Err(AdaptError::NoRoot);
    }
    let mut linux = match spec.linux() {
        Some(linux) => linux.clone(),
        None => empty_linux()?,
    };
    let program = take_program(&mut process, &mut linux)?;
    name_propagation(&mut linux);
    name_sources(&mut spec);
    add_missing_dev(&mut spec)?;
    spec.set_process(Some(process)).set_linux(Some(linux));
    Ok(Adapted { spec, program })
}

/// The configuration of one more process in the container whose init has the pid `init`.
pub(crate) fn for_exec(plan: &Spec, process: &Process, init: i32) -> Result<Adapted, AdaptError> {
    let mut spec = plan.clone();
    let mut process = process.clone();
    let mut linux = match spec.linux() {
        Some(linux) => linux.clone(),
        None => empty_linux()?,
    };
    let program = take_program(&mut process, &mut linux)?;
    let joined = joined_namespaces(linux.namespaces().as_deref().unwrap_or_default(), init)?;
    linux.set_namespaces(Some(joined)).set_resources(None).set_devices(None).set_net_devices(None);
    spec.set_process(Some(process)).set_linux(Some(linux)).set_mounts(None).set_hooks(None);
    Ok(Adapted { spec, program })
}

fn empty_linux() -> Result<Linux, AdaptError> {
    serde_json::from_str("{}").map_err(AdaptError::EmptyLinux)
}

/// Takes what [`Program`] does out of the configuration.
fn take_program(process: &mut Process, linux: &mut Linux) -> Result<Program, AdaptError> {
    let program = Program::new(process)?;
    if !process.cwd().is_absolute() {
        return Err(AdaptError::RelativeCwd(process.cwd().clone()));
    }
    if process.capabilities().is_none() {
        process.set_capabilities(Some(no_capabilities()));
    }
    let program = match take_filter(process, linux) {
        Some(filter) => program.with_filter(filter),
        None => program,
    };
    limit_umask(process);
    Ok(program)
}

/// The kernel looks at the permissions alone.
fn limit_umask(process: &mut Process) {
    let mut user = process.user().clone();
    user.set_umask(user.umask().map(|umask| umask & 0o777));
    process.set_user(user);
}

/// The seccomp filter. Without `noNewPrivileges` the process needs its capabilities to load
/// it, so that dropping them is left to the program, too.
fn take_filter(process: &mut Process, linux: &mut Linux) -> Option<Filter> {
    let profile = linux.seccomp().clone()?;
    linux.set_seccomp(None);
    if process.no_new_privileges() == Some(true) {
        return Some(Filter::Last(profile));
    }
    let kept = process.capabilities().clone().unwrap_or_else(no_capabilities);
    process.set_capabilities(None);
    Some(Filter::Privileged(profile, Box::new(kept)))
}

/// Propagation of the root is always that of all mounts, which is what engines write.
fn name_propagation(linux: &mut Linux) {
    let plain = match linux.rootfs_propagation().as_deref() {
        Some("rshared") => "shared",
        Some("rslave") => "slave",
        Some("rprivate") => "private",
        Some("runbindable") => "unbindable",
        _ => return,
    };
    linux.set_rootfs_propagation(Some(plain.to_owned()));
}

fn no_capabilities() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None).set_effective(None).set_inheritable(None).set_permitted(None).set_ambient(None);
    none
}

fn joined_namespaces(own: &[LinuxNamespace], init: i32) -> Result<Vec<LinuxNamespace>, AdaptError> {
    let join = |namespace: &LinuxNamespace| {
        let path = format!("/proc/{init}/ns/{}", file_name(namespace.typ()));
        LinuxNamespaceBuilder::default().typ(namespace.typ()).path(path).build()
    };
    own.iter()
        .map(join)
        .collect::<Result<_, _>>()
        .map_err(|cause| AdaptError::Build { what: "namespaces", cause })
}

/// Name of a namespace under `/proc/PID/ns`.
pub(crate) fn file_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}

/// A mount of a file system that has no source needs none, but what lists mounts shows one.
fn name_sources(spec: &mut Spec) {
    let Some(mut mounts) = spec.mounts().clone() else { return };
    for mount in mounts.iter_mut().filter(|mount| mount.source().is_none()) {
        let name = mount.typ().clone().unwrap_or_else(|| "none".to_owned());
        mount.set_source(Some(PathBuf::from(name)));
    }
    spec.set_mounts(Some(mounts));
}

fn add_missing_dev(spec: &mut Spec) -> Result<(), AdaptError> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    if mounts.iter().any(|mount| lies_at(mount, "/dev")) {
        return Ok(());
    }
    let options = ["nosuid", "strictatime", "mode=755", "size=65536k"].map(str::to_owned).to_vec();
    let dev = MountBuilder::default()
        .destination("/dev")
        .typ("tmpfs")
        .source("tmpfs")
        .options(options)
        .build()
        .map_err(|cause| AdaptError::Build { what: "mount of /dev", cause })?;
    let first_below = mounts.iter().position(|mount| mount.destination().starts_with("/dev"));
    mounts.insert(first_below.unwrap_or(mounts.len()), dev);
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn lies_at(mount: &Mount, path: &str) -> bool {
    mount.destination().components().eq(Path::new(path).components())
}

/// The cgroup of a container: what the configuration asks for, as a path below
/// the guest's cgroup root.
///
/// systemd's form `SLICE:PREFIX:NAME` has no systemd to understand it here and
/// becomes `/PREFIX-NAME.scope`.
pub(crate) fn cgroup_path(spec: &Spec, id: &str) -> PathBuf {
    let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let text = asked.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let wanted = match text.split(':').collect::<Vec<_>>()[..] {
        [_, prefix, name] => format!("{prefix}-{name}.scope"),
        _ if text.is_empty() => id.to_owned(),
        _ => text,
    };
    let normal = Path::new(&wanted).components().filter(|part| matches!(part, Component::Normal(_)));
    let below: PathBuf = normal.collect();
    if below.as_os_str().is_empty() { Path::new("/").join("container") } else { Path::new("/").join(below) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn recursive_propagation_gets_its_plain_name() {
        let adapted = for_init(&spec(|value| value["linux"]["rootfsPropagation"] = "rslave".into())).unwrap();
        let propagation = adapted.spec.linux().as_ref().unwrap().rootfs_propagation().clone();
        assert_eq!(propagation.as_deref(), Some("slave"));
    }

    use serde_json::json;

    use super::*;

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut value = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
            "root": {"path": "rootfs"},
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]}
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn process(adapted: &Adapted) -> &Process {
        adapted.spec.process().as_ref().unwrap()
    }

    #[test]
    fn umask_is_what_the_kernel_would_make_of_it() {
        let adapted =
            for_init(&spec(|value| value["process"]["user"]["umask"] = json!(0o12_345_022))).unwrap();
        assert_eq!(process(&adapted).user().umask(), Some(0o22));
    }

    #[test]
    fn seccomp_moves_to_the_program_and_without_no_new_privileges_capabilities_too() {
        let with = |privileges: bool| {
            for_init(&spec(|value| {
                value["process"]["noNewPrivileges"] = json!(privileges);
                value["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]});
                value["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
            }))
            .unwrap()
        };
        let left = |adapted: &Adapted| adapted.spec.linux().as_ref().unwrap().seccomp().is_some();
        let (last, privileged) = (with(true), with(false));
        assert!(!left(&last) && !left(&privileged));
        assert!(matches!(last.program.filter(), Some(Filter::Last(_))));
        assert!(process(&last).capabilities().is_some());
        let Some(Filter::Privileged(_, kept)) = privileged.program.filter() else { panic!() };
        assert!(kept.bounding().is_some() && process(&privileged).capabilities().is_none());
    }

    #[test]
    fn absent_capabilities_become_empty_sets() {
        let adapted = for_init(&spec(|_| ())).unwrap();
        let capabilities = process(&adapted).capabilities().clone().unwrap();
        assert!(capabilities.bounding().is_none() && capabilities.permitted().is_none());
    }

    #[test]
    fn dev_is_mounted_in_front_of_what_lies_below_it() {
        let below = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts"}
        ]);
        let adapted = for_init(&spec(|value| value["mounts"] = below)).unwrap();
        let mounts = adapted.spec.mounts().clone().unwrap();
        let destinations: Vec<_> = mounts.iter().map(|mount| mount.destination().to_str().unwrap()).collect();
        assert_eq!(destinations, ["/proc", "/dev", "/dev/pts"]);
    }

    #[test]
    fn mount_without_a_source_gets_its_type_for_one() {
        let mounts = json!([
            {"destination": "/dev", "type": "tmpfs"},
            {"destination": "/x"},
            {"destination": "/proc", "type": "proc", "source": "mine"}
        ]);
        let adapted = for_init(&spec(|value| value["mounts"] = mounts)).unwrap();
        let mounts = adapted.spec.mounts().clone().unwrap();
        let sources: Vec<_> = mounts.iter().map(|mount| mount.source().clone().unwrap()).collect();
        assert_eq!(sources, ["tmpfs", "none", "mine"].map(PathBuf::from));
    }

    #[test]
    fn own_dev_is_left_alone() {
        let own = json!([{"destination": "/dev/", "type": "tmpfs", "source": "tmpfs"}]);
        let adapted = for_init(&spec(|value| value["mounts"] = own)).unwrap();
        assert_eq!(adapted.spec.mounts().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn exec_joins_the_namespaces_that_the_container_has() {
        let container = spec(|_| ());
        let adapted = for_exec(&container, container.process().as_ref().unwrap(), 42).unwrap();
        let namespaces = adapted.spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        let paths: Vec<_> = namespaces.iter().map(|namespace| namespace.path().clone().unwrap()).collect();
        assert_eq!(paths, [Path::new("/proc/42/ns/pid"), Path::new("/proc/42/ns/mnt")]);
    }

    #[test]
    fn missing_args_and_relative_cwd_are_refused() {
        let no_args = for_init(&spec(|value| value["process"]["args"] = json!([])));
        assert!(matches!(no_args, Err(AdaptError::NoArgs)));
        let relative = for_init(&spec(|value| value["process"]["cwd"] = json!("tmp")));
        assert!(matches!(relative, Err(AdaptError::RelativeCwd(_))));
    }

    #[test]
    fn cgroup_path_stays_below_the_root() {
        let path = |asked: Option<&str>| {
            cgroup_path(&spec(|value| value["linux"]["cgroupsPath"] = json!(asked)), "web")
                .display()
                .to_string()
        };
        assert_eq!(path(None), "/web");
        assert_eq!(path(Some("/a/b")), "/a/b");
        assert_eq!(path(Some("../../x")), "/x");
        assert_eq!(path(Some("/..")), "/container");
        assert_eq!(path(Some("system.slice:docker:abc")), "/docker-abc.scope");
    }
}

//! What a configuration must have, one rule a function. Types were checked
//! when it was parsed; what cannot be honoured is refused in `refuse`.

use std::path::{Component, Path};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Process, Spec};

use crate::{user_namespace, values};

/// Why no sandbox can be planned. The message names the configuration's field.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The configuration contradicts the specification or itself.
    #[error("config.json: {field}: {problem}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// The configuration is right and asks for what a microVM cannot give.
    #[error("config.json: {field}: not supported: {why}")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// A size on the command line is out of bounds.
    #[error("{option}: {problem}")]
    Option {
        /// The flag.
        option: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl PlanError {
    /// The message for what is not in a `config.json`, like the limits of `vmrun update`.
    pub fn field_and_problem(&self) -> String {
        let text = self.to_string();
        text.strip_prefix("config.json: ").unwrap_or(&text).to_owned()
    }

    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

type Rule = fn(&Spec) -> Result<(), PlanError>;

const RULES: &[Rule] = &[
    version_is_one,
    process_is_right,
    time_offsets_have_their_namespace,
    hostname_has_its_namespace,
    domainname_has_its_namespace,
    mount_destinations_are_absolute,
    bind_mounts_have_a_source,
    namespaces_are_unique,
    user_namespace::check,
    values::check,
];

/// Applies every rule; the first broken one is the error.
pub(crate) fn validate(spec: &Spec) -> Result<(), PlanError> {
    RULES.iter().try_for_each(|rule| rule(spec))
}

fn version_is_one(spec: &Spec) -> Result<(), PlanError> {
    let version = spec.version();
    let mut numbers = version.split(['-', '+']).next().unwrap_or_default().split('.');
    let is_one = numbers.next() == Some("1")
        && numbers.clone().count() == 2
        && numbers.all(|number| number.parse::<u32>().is_ok());
    if is_one {
        return Ok(());
    }
    let problem = if version.is_empty() {
        "is missing".to_owned()
    } else {
        format!("{version:?} is not a version 1.x.y of the runtime specification")
    };
    Err(PlanError::invalid("ociVersion", problem))
}

fn process(spec: &Spec) -> Result<&Process, PlanError> {
    spec.process().as_ref().ok_or_else(|| PlanError::invalid("process", "is missing: nothing to run"))
}

fn process_is_right(spec: &Spec) -> Result<(), PlanError> {
    check_process(process(spec)?)
}

/// What every process must have, the container's and one more.
pub(crate) fn check_process(process: &Process) -> Result<(), PlanError> {
    args_are_there(process)?;
    cwd_is_absolute(process)?;
    env_has_names(process)?;
    values::check_process(process)
}

fn args_are_there(process: &Process) -> Result<(), PlanError> {
    match process.args().as_deref() {
        None | Some([]) => Err(PlanError::invalid("process.args", "is empty: nothing to run")),
        Some([program, ..]) if program.is_empty() => {
            Err(PlanError::invalid("process.args[0]", "is empty: no program named"))
        }
        Some(_) => Ok(()),
    }
}

fn cwd_is_absolute(process: &Process) -> Result<(), PlanError> {
    let cwd = process.cwd();
    if cwd.is_absolute() {
        return Ok(());
    }
    Err(PlanError::invalid("process.cwd", format!("{:?} is not an absolute path", cwd.display().to_string())))
}

fn env_has_names(process: &Process) -> Result<(), PlanError> {
    for (index, entry) in process.env().iter().flatten().enumerate() {
        if entry.contains('\0') || entry.starts_with('=') {
            return Err(PlanError::invalid(format!("process.env[{index}]"), "is not NAME=value"));
        }
    }
    Ok(())
}

fn time_offsets_have_their_namespace(spec: &Spec) -> Result<(), PlanError> {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    if offsets.is_some_and(|offsets| !offsets.is_empty()) && !has_namespace(spec, LinuxNamespaceType::Time) {
        return Err(PlanError::invalid("linux.timeOffsets", "needs a time namespace in linux.namespaces"));
    }
    Ok(())
}

fn hostname_has_its_namespace(spec: &Spec) -> Result<(), PlanError> {
    needs_uts(spec, "hostname", spec.hostname().as_deref())
}

fn domainname_has_its_namespace(spec: &Spec) -> Result<(), PlanError> {
    needs_uts(spec, "domainname", spec.domainname().as_deref())
}

fn needs_uts(spec: &Spec, field: &str, name: Option<&str>) -> Result<(), PlanError> {
    if name.is_some_and(|name| !name.is_empty()) && !has_namespace(spec, LinuxNamespaceType::Uts) {
        return Err(PlanError::invalid(field, "needs a uts namespace in linux.namespaces"));
    }
    Ok(())
}

fn mount_destinations_are_absolute(spec: &Spec) -> Result<(), PlanError> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let destination = mount.destination();
        // The specification demands an absolute path; engines of before 1.0
        // wrote relative ones and runc still takes them as relative to `/`.
        if destination.as_os_str().is_empty() || has_parent(destination) {
            let problem = format!("{:?} is not an absolute path", destination.display().to_string());
            return Err(PlanError::invalid(format!("mounts[{index}].destination"), problem));
        }
    }
    Ok(())
}

fn has_parent(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

fn bind_mounts_have_a_source(spec: &Spec) -> Result<(), PlanError> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if crate::volumes::is_bind(mount) && mount.source().is_none() {
            return Err(PlanError::invalid(format!("mounts[{index}].source"), "is missing for a bind mount"));
        }
    }
    Ok(())
}

fn namespaces_are_unique(spec: &Spec) -> Result<(), PlanError> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let types: Vec<_> = namespaces.into_iter().flatten().map(LinuxNamespace::typ).collect();
    for (index, typ) in types.iter().enumerate() {
        if types[..index].contains(typ) {
            let problem = format!("{:?} is listed twice", typ.to_string());
            return Err(PlanError::invalid(format!("linux.namespaces[{index}].type"), problem));
        }
    }
    Ok(())
}

/// Whether `linux.namespaces` has an entry of this type.
pub(crate) fn has_namespace(spec: &Spec, wanted: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| namespace.typ() == wanted)
}

//! One more process for a container that runs.
//!
//! ```text
//!   the container's process ──changed()──▶ Process ──┐
//!   --process FILE ──────────load_process()▶ Process ─┴─exec()─▶ what the guest starts
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{PosixRlimit, Process};
use serde_json::{Value, json};
use vmrun_proto::{ConsoleSize, ProcessIo};

use crate::bundle::{BundleError, parse_process};
use crate::validate::{PlanError, check_process};
use crate::{left_out, rlimits};

/// What the options of `vmrun exec` change in the container's own process.
#[derive(Clone, Debug, Default)]
pub struct ProcessChanges {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Another working directory.
    pub cwd: Option<PathBuf>,
    /// Another user, and group if one is given.
    pub user: Option<(u32, Option<u32>)>,
    /// More groups.
    pub additional_gids: Vec<u32>,
    /// More environment.
    pub env: Vec<String>,
    /// More capabilities, by their names.
    pub capabilities: Vec<String>,
    /// No new privileges, whatever the container's process may do.
    pub no_new_privileges: bool,
    /// On a terminal.
    pub terminal: bool,
}

/// A process that differs from the container's as runc's options for it say. Names that are no capabilities
/// are left out, as runc does it.
///
/// # Errors
/// It has no JSON form.
pub fn changed(container: &Process, changes: &ProcessChanges) -> Result<Process, PlanError> {
    let unreadable = |error: serde_json::Error| PlanError::invalid("process", error.to_string());
    let mut process = container.clone();
    process.set_args(Some(changes.args.clone())).set_terminal(Some(changes.terminal)).set_console_size(None);
    if let Some(cwd) = &changes.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(changes.env.iter().cloned());
    process.set_env(Some(env));
    if changes.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    let mut user = process.user().clone();
    if let Some((uid, gid)) = changes.user {
        let gid = gid.unwrap_or(user.gid());
        user.set_uid(uid).set_gid(gid);
    }
    if !changes.additional_gids.is_empty() {
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&changes.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user);
    if changes.capabilities.is_empty() {
        return Ok(process);
    }
    let mut value = serde_json::to_value(process).map_err(unreadable)?;
    for name in changes.capabilities.iter().filter(|name| left_out::is_capability(name)) {
        add_capability(&mut value, name);
    }
    serde_json::from_value(value).map_err(unreadable)
}

/// As runc does: ambient only where something may be inherited, since the kernel wants both.
fn add_capability(process: &mut Value, name: &str) {
    let sets = &mut process["capabilities"];
    let inherits = sets["inheritable"].as_array().is_some_and(|set| !set.is_empty());
    for set in ["bounding", "effective", "permitted", "ambient"] {
        if set == "ambient" && !inherits {
            continue;
        }
        let slot = &mut sets[set];
        if slot.is_null() {
            *slot = json!([]);
        }
        if let Some(list) = slot.as_array_mut().filter(|list| !list.contains(&json!(name))) {
            list.push(json!(name));
        }
    }
}

impl ProcessChanges {
    /// The names among the capabilities that are none.
    pub fn unknown_capabilities(&self) -> Vec<String> {
        self.capabilities.iter().filter(|name| !left_out::is_capability(name)).cloned().collect()
    }
}

/// Reads `--process FILE`. The names with it are those that are no capabilities.
///
/// # Errors
/// The file cannot be read, or is not the JSON of a process.
pub fn load_process(path: &Path) -> Result<(Process, Vec<String>), BundleError> {
    let text = fs::read(path).map_err(|source| BundleError::ReadConfig { path: path.to_owned(), source })?;
    parse_process(&text).map_err(|at| BundleError::ParseConfig { path: path.to_owned(), at })
}

/// What a file leaves out: capabilities are those of the container's own process, limits the caller's.
pub fn inherit(process: &mut Process, container: &Process, callers: &[PosixRlimit]) {
    if process.capabilities().is_none() {
        process.set_capabilities(container.capabilities().clone());
    }
    rlimits::inherit(process, callers);
}

/// The process as a guest with so many CPUs starts it, and its streams.
///
/// # Errors
/// A [`PlanError`] that names the field which is invalid or cannot be honoured.
pub fn exec(
    mut process: Process,
    vcpus: u8,
    size: Option<ConsoleSize>,
) -> Result<(Process, ProcessIo), PlanError> {
    check_process(&process)?;
    crate::refuse::refuse_process(&process)?;
    crate::cpu_affinity::check(&process, vcpus)?;
    // "unconfined", or it was refused.
    process.set_apparmor_profile(None);
    let io = crate::process_io(Some(&process), size);
    Ok((process, io))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Process {
        serde_json::from_value(json!({
            "user": { "uid": 1, "gid": 2, "additionalGids": [3] },
            "args": ["init"], "cwd": "/", "env": ["A=1"],
            "capabilities": { "bounding": ["CAP_KILL"] },
            "consoleSize": { "height": 1, "width": 1 },
        }))
        .unwrap()
    }

    #[test]
    fn options_change_what_they_name_and_nothing_else() {
        let changes = ProcessChanges {
            args: vec!["true".to_owned()],
            cwd: Some("/tmp".into()),
            user: Some((7, None)),
            additional_gids: vec![9],
            env: vec!["B=2".to_owned()],
            capabilities: vec!["CAP_CHOWN".to_owned(), "CAP_KILL".to_owned()],
            no_new_privileges: true,
            terminal: true,
        };
        let value = serde_json::to_value(changed(&container(), &changes).unwrap()).unwrap();
        assert_eq!(value["args"], json!(["true"]));
        assert_eq!(value["cwd"], "/tmp");
        assert_eq!(value["user"], json!({ "uid": 7, "gid": 2, "additionalGids": [3, 9] }));
        assert_eq!(value["env"], json!(["A=1", "B=2"]));
        assert_eq!(value["capabilities"]["bounding"].as_array().unwrap().len(), 2);
        assert_eq!(value["capabilities"]["permitted"].as_array().unwrap().len(), 2);
        assert!(value["capabilities"]["ambient"].is_null());
        assert_eq!((&value["noNewPrivileges"], &value["terminal"]), (&json!(true), &json!(true)));
        assert!(value["consoleSize"].is_null());
    }

    #[test]
    fn unknown_capability_is_left_out_and_missing_program_refused() {
        let changes =
            ProcessChanges { capabilities: vec!["CAP_NONE".to_owned()], ..ProcessChanges::default() };
        assert_eq!(changes.unknown_capabilities(), ["CAP_NONE"]);
        assert_eq!(changed(&container(), &changes).unwrap().capabilities(), container().capabilities());
        let nothing = changed(&container(), &ProcessChanges::default()).unwrap();
        assert!(matches!(exec(nothing, 1, None), Err(PlanError::Invalid { .. })));
    }

    #[test]
    fn file_has_the_containers_capabilities_unless_it_names_its_own() {
        let container = container();
        let bare = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["x"], "cwd": "/" });
        let mut process: Process = serde_json::from_value(bare).unwrap();
        let mut other = process.clone();
        inherit(&mut process, &container, &[]);
        assert_eq!(process.capabilities(), container.capabilities());
        other.set_capabilities(Some(oci_spec::runtime::LinuxCapabilities::default()));
        let own = other.capabilities().clone();
        inherit(&mut other, &container, &[]);
        assert_eq!(other.capabilities(), &own);
    }

    #[test]
    fn process_without_a_terminal_has_three_streams() {
        let (_, io) = exec(container(), 1, None).unwrap();
        assert!(io.stdin && io.stdout && io.stderr && !io.terminal);
    }
}

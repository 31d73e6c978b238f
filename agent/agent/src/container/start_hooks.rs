//! `startContainer` hooks: in the container, right before its program.

use std::collections::HashMap;
use std::ffi::CString;

use libcontainer::container::{ContainerStatus, State};
use libcontainer::hooks::run_hooks;
use nix::unistd::getpid;
use oci_spec::runtime::{Hook, Spec};

use super::program::chain;

/// The hooks, and what they are told.
#[derive(Clone, Debug)]
pub(crate) struct StartHooks {
    hooks: Vec<Hook>,
    state: State,
}

impl StartHooks {
    /// Takes the hooks out of the configuration of `container`: libcontainer tells them a
    /// state of the guest's. `bundle` is the host's path.
    pub(crate) fn take(spec: &mut Spec, container: &str, bundle: &str) -> Option<Self> {
        let hooks = spec.hooks().as_ref()?.start_container().clone()?;
        spec.set_hooks(None);
        let mut state = State::new(container, ContainerStatus::Created, None, bundle.into());
        spec.version().clone_into(&mut state.oci_version);
        state.annotations = Some(spec.annotations().clone().unwrap_or_default());
        Some(Self { hooks, state })
    }

    /// Runs them. `environment`, the program's, is for those that have none of their own.
    pub(crate) fn run(&self, environment: &[CString]) -> Result<(), String> {
        let mut state = self.state.clone();
        state.pid = Some(getpid().as_raw());
        let run = run_hooks(Some(&self.hooks), Some(&state), None, None, Some(&variables(environment)));
        run.map_err(|error| format!("a startContainer hook failed: {}", chain(&error)))
    }
}

fn variables(environment: &[CString]) -> HashMap<String, String> {
    let pair = |entry: &CString| {
        let (name, value) = entry.to_str().ok()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    environment.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn hooks(hook: &Value) -> StartHooks {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.1.0-rc.1",
            "annotations": {"org.example": "1"},
            "hooks": {"startContainer": [hook]},
        }))
        .unwrap();
        let taken = StartHooks::take(&mut spec, "web", "/host/bundle").unwrap();
        assert_eq!(spec.hooks(), &None);
        taken
    }

    fn script(text: &str) -> Value {
        json!({"path": "/bin/sh", "args": ["sh", "-c", text]})
    }

    fn said(file: &Path) -> String {
        fs::read_to_string(file).unwrap()
    }

    #[test]
    fn hook_is_told_the_state_and_has_the_programs_environment() {
        let directory = tempfile::tempdir().unwrap();
        let (state, env) = (directory.path().join("state"), directory.path().join("env"));
        let text = format!("cat >{}; echo $A $HOME >{}", state.display(), env.display());
        let environment = [c"PATH=/usr/bin:/bin".to_owned(), c"A=1".to_owned(), c"HOME=/h".to_owned()];
        hooks(&script(&text)).run(&environment).unwrap();
        let expected = json!({
            "ociVersion": "1.1.0-rc.1",
            "id": "web",
            "status": "created",
            "pid": std::process::id(),
            "bundle": "/host/bundle",
            "annotations": {"org.example": "1"},
        });
        assert_eq!(serde_json::from_str::<Value>(&said(&state)).unwrap(), expected);
        assert_eq!(said(&env), "1 /h\n");
    }

    #[test]
    fn own_environment_is_the_only_one_and_failure_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("env");
        let mut hook = script(&format!("echo $A $B >{}; exit 3", file.display()));
        hook["env"] = json!(["B=2"]);
        let error = hooks(&hook).run(&[c"A=1".to_owned()]).unwrap_err();
        assert!(error.contains("startContainer") && error.contains('3'), "{error}");
        assert_eq!(said(&file), "2\n");
    }
}

//! Hooks: which run on the host and which in the guest.

use oci_spec::runtime::{Hook as OciHook, Hooks, Spec};
use vmrun_spec::{Hook, HostHooks};

use crate::validate::PlanError;

/// The host's hooks, and what is left for the guest: `startContainer`.
pub(crate) fn split(spec: &Spec) -> Result<(HostHooks, Option<Hooks>), PlanError> {
    let Some(hooks) = spec.hooks() else { return Ok((HostHooks::default(), None)) };
    let mut host = HostHooks::default();
    // In the runtime specification's order.
    #[allow(deprecated)] // `prestart` is, and engines still use it.
    let prestart = hooks.prestart().as_ref();
    add(&mut host.create_runtime, "prestart", prestart)?;
    add(&mut host.create_runtime, "createRuntime", hooks.create_runtime().as_ref())?;
    add(&mut host.create_container, "createContainer", hooks.create_container().as_ref())?;
    // They are the container's already, and as with runc their environment is its program's.
    let environment = spec.process().as_ref().and_then(|process| process.env().clone());
    for hook in &mut host.create_container {
        hook.env.get_or_insert_with(|| environment.clone().unwrap_or_default());
    }
    add(&mut host.poststart, "poststart", hooks.poststart().as_ref())?;
    add(&mut host.poststop, "poststop", hooks.poststop().as_ref())?;
    // Only its rules: the guest gets the hook as written.
    add(&mut Vec::new(), "startContainer", hooks.start_container().as_ref())?;
    let guest = hooks.start_container().as_ref().filter(|list| !list.is_empty()).map(|list| {
        let mut guest = Hooks::default();
        guest.set_start_container(Some(list.clone()));
        guest
    });
    Ok((host, guest))
}

fn add(to: &mut Vec<Hook>, name: &str, hooks: Option<&Vec<OciHook>>) -> Result<(), PlanError> {
    for (index, hook) in hooks.into_iter().flatten().enumerate() {
        let field = format!("hooks.{name}[{index}]");
        if !hook.path().is_absolute() {
            return Err(PlanError::invalid(format!("{field}.path"), "is not an absolute path"));
        }
        let timeout_s = match hook.timeout() {
            None => None,
            Some(seconds) => match u64::try_from(seconds).ok().filter(|seconds| *seconds > 0) {
                Some(seconds) => Some(seconds),
                None => {
                    return Err(PlanError::invalid(format!("{field}.timeout"), "is not greater than zero"));
                }
            },
        };
        to.push(Hook {
            field,
            path: hook.path().clone(),
            args: hook.args().clone().unwrap_or_default(),
            env: hook.env().clone(),
            timeout_s,
        });
    }
    Ok(())
}

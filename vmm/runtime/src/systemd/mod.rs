//! Scopes of systemd's, for engines that leave the cgroups to it.
//!
//! ```text
//!   launcher: locate ─▶ monitor: start, with itself in it ─▶ set, when limits change ─▶ delete: stop
//! ```
//!
//! systemd owns the files of a unit's cgroup and writes them anew when it likes to, so each limit is told
//! to it as well as written: it rounds what it is told.

mod limits;
mod manager;
mod wire;

use std::path::PathBuf;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use vmrun_spec::{HostLimit, ScopePlan};

pub use self::manager::SystemdError;
use self::manager::{Manager, Whose};
use self::wire::{Property, Value, Writer};
use crate::user_namespace::is_user_namespace;

const SLICE_OF_THE_HOST: &str = "system.slice";
const SLICE_OF_THE_USER: &str = "user.slice";

/// What becomes of another job of the unit's.
const REPLACE: &str = "replace";

/// The name of its error about a unit of the same name.
const EXISTS: &str = "UnitExists";

/// A scope that a container has, or will have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    manager: Whose,
    slice: String,
    unit: String,
}

/// Where a planned scope is.
pub(crate) struct Located {
    /// Its cgroup, below the root of the hierarchy.
    pub(crate) below: PathBuf,
    /// None where systemd does not run: then nobody else makes cgroups there.
    pub(crate) scope: Option<Scope>,
}

/// Finds the place of a scope.
pub(crate) fn locate(plan: &ScopePlan) -> Result<Located, SystemdError> {
    let manager = if geteuid().is_root() && !is_user_namespace() { Whose::Host } else { Whose::User };
    let usual = match manager {
        Whose::Host => SLICE_OF_THE_HOST,
        Whose::User => SLICE_OF_THE_USER,
    };
    let slice = plan.slice.as_deref().unwrap_or(usual);
    // The plan has looked at the name.
    let below = vmrun_plan::expand_slice(slice).unwrap_or_default().join(&plan.unit);
    // Where it does not run nobody else makes cgroups there.
    let Some(socket) = manager.socket() else { return Ok(Located { below, scope: None }) };
    // Its slices are below its own cgroup, which for the host's is the root, as a rule.
    let own = Manager::connect(socket).and_then(|mut manager| manager.property("ControlGroup"));
    let own = match own {
        // A user's can be done without: users may make no cgroups then.
        Err(_) if manager == Whose::User => return Ok(Located { below, scope: None }),
        own => own?,
    };
    let below = PathBuf::from(own.trim_start_matches('/')).join(below);
    Ok(Located { below, scope: Some(Scope { manager, slice: slice.to_owned(), unit: plan.unit.clone() }) })
}

impl Scope {
    /// The user's own manager has it: the container can do without.
    pub(crate) fn is_the_users(&self) -> bool {
        self.manager == Whose::User
    }

    /// Makes it, with this process in it.
    pub(crate) fn start(&self, limits: &[HostLimit]) -> Result<(), SystemdError> {
        let mut manager = self.connect()?;
        match manager.job("StartTransientUnit", "ssa(sv)a(sa(sv))", self.started(limits)) {
            Err(error) if error.is(EXISTS) => {
                // One that has failed stays until somebody has looked at it.
                manager.call("ResetFailedUnit", "s", self.named())?;
                manager.job("StartTransientUnit", "ssa(sv)a(sa(sv))", self.started(limits))
            }
            other => other,
        }
    }

    fn started(&self, limits: &[HostLimit]) -> Writer {
        let text = |text: &str| Value::Text(text.to_owned());
        let yes = Value::Bool(true);
        let mut properties: Vec<Property> = vec![
            ("Description", text(&format!("vmrun container {}", self.unit))),
            ("Slice", text(&self.slice)),
            ("PIDs", Value::Numbers(vec![std::process::id()])),
            // What is below it is ours.
            ("Delegate", yes.clone()),
            ("CPUAccounting", yes.clone()),
            ("IOAccounting", yes.clone()),
            ("MemoryAccounting", yes.clone()),
            ("TasksAccounting", yes),
            // The engine decides when a container ends, not the shutdown's order.
            ("DefaultDependencies", Value::Bool(false)),
            ("CollectMode", text("inactive-or-failed")),
        ];
        properties.extend(limits.iter().filter(|limit| !limit.late).flat_map(limits::properties));
        let mut body = Writer::default();
        body.text(&self.unit);
        body.text(REPLACE);
        body.properties(&properties);
        // No other units with it.
        body.array(8, |_| ());
        body
    }

    /// Tells it these limits.
    pub(crate) fn set<'a>(&self, limits: impl Iterator<Item = &'a HostLimit>) -> Result<(), SystemdError> {
        let properties: Vec<Property> = limits.flat_map(limits::properties).collect();
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = self.named();
        // Until the next boot.
        body.bool(true);
        body.properties(&properties);
        self.connect()?.call("SetUnitProperties", "sba(sv)", body).map(drop)
    }

    /// Ends it. One that is empty has ended by itself.
    pub(crate) fn stop(&self) -> Result<(), SystemdError> {
        let mut body = self.named();
        body.text(REPLACE);
        match self.connect()?.job("StopUnit", "ss", body) {
            Err(error) if error.is("NoSuchUnit") => Ok(()),
            other => other,
        }
    }

    fn named(&self) -> Writer {
        let mut body = Writer::default();
        body.text(&self.unit);
        body
    }

    fn connect(&self) -> Result<Manager, SystemdError> {
        let missing = || SystemdError::Io {
            socket: self.unit.clone().into(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        Manager::connect(self.manager.socket().ok_or_else(missing)?)
    }
}

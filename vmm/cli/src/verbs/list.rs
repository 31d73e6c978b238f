//! `vmrun list`.

use clap::{Args, ValueEnum};
use vmrun_runtime::{Error, OciState, Store};

use crate::ps::names::Names;

/// List the containers
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Table or JSON
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Only the names
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl ListArgs {
    #[allow(clippy::unused_self)] // The other verbs' acts name an object.
    pub(crate) fn act(&self) -> String {
        "cannot list the containers".to_owned()
    }
}

pub(crate) fn list(store: &Store, args: &ListArgs) -> Result<u8, Error> {
    let mut containers = vmrun_runtime::list(store)?;
    let users = Names::users();
    for state in &mut containers {
        let name = state.owner.strip_prefix('#').and_then(|number| users.of(number.parse().ok()?));
        state.owner = name.unwrap_or_else(|| std::mem::take(&mut state.owner));
    }
    let text = match (args.quiet, args.format) {
        (true, _) => containers.iter().map(|state| format!("{}\n", state.id)).collect(),
        (false, Format::Json) => serde_json::to_string(&containers).unwrap_or_default() + "\n",
        (false, Format::Table) => table(&containers),
    };
    super::print(&text);
    Ok(0)
}

/// runc's columns, each as wide as its widest cell.
fn table(containers: &[OciState]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(containers.iter().map(|state| {
        [
            state.id.clone(),
            state.pid.to_string(),
            state.status.to_string(),
            state.bundle.display().to_string(),
            state.created.clone(),
            state.owner.clone(),
        ]
    }));
    super::aligned(&rows)
}

//! `vmrun ps`.

use clap::{Args, ValueEnum};
use vmrun_runtime::{Error, Store};

use crate::ps;

/// List the processes of a container, by their pids in the guest
///
/// The options of ps(1) choose processes and columns; without any they are those of `ps -ef`.
/// Names of users and groups are the host's, as with runc.
#[derive(Debug, Args)]
#[command(override_usage = "vmrun ps [OPTIONS] <ID> [OPTIONS OF PS]...")]
pub(crate) struct PsArgs {
    /// Table, or JSON: the pids alone
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Name of the container, and options of ps
    #[arg(value_name = "ID", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl PsArgs {
    fn id(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub(crate) fn act(&self) -> String {
        format!("cannot list the processes of {:?}", self.id())
    }
}

pub(crate) fn ps(store: &Store, args: &PsArgs) -> Result<u8, Error> {
    let processes = vmrun_runtime::processes(store, args.id())?;
    let text = match args.format {
        Format::Json => {
            let pids: Vec<_> = processes.iter().map(|process| process.pid).collect();
            serde_json::to_string(&pids).unwrap_or_default() + "\n"
        }
        Format::Table => {
            let options = args.words.get(1..).unwrap_or_default();
            ps::table(&processes, options)
                .map_err(|refusal| Error::PsOption { option: refusal.option, why: refusal.why })?
        }
    };
    super::print(&text);
    Ok(0)
}

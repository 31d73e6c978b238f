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

    /// What comes behind the id is for ps, but for a format that no ps would know.
    fn format_and_options(&self) -> (Format, &[String]) {
        let options = self.words.get(1..).unwrap_or_default();
        match options {
            [option, format] if option == "--format" || option == "-f" => {
                match Format::from_str(format, false) {
                    Ok(format) => (format, &[]),
                    Err(_) => (self.format, options),
                }
            }
            _ => (self.format, options),
        }
    }

    pub(crate) fn act(&self) -> String {
        format!("cannot list the processes of {:?}", self.id())
    }
}

pub(crate) fn ps(store: &Store, args: &PsArgs) -> Result<u8, Error> {
    let processes = vmrun_runtime::processes(store, args.id())?;
    let (format, options) = args.format_and_options();
    let text = match format {
        Format::Json => {
            let pids: Vec<_> = processes.iter().map(|process| process.pid).collect();
            serde_json::to_string(&pids).unwrap_or_default() + "\n"
        }
        Format::Table => ps::table(&processes, options)
            .map_err(|refusal| Error::PsOption { option: refusal.option, why: refusal.why })?,
    };
    super::print(&text);
    Ok(0)
}

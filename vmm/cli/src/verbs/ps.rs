//! `vmrun ps`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use vmrun_runtime::{Error, ProcessInfo, Store};

/// List the processes of a container, by their pids in the guest
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Name of the container
    id: String,

    /// Table, or JSON: the pids alone
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Not supported but for -ef: the columns are those of `ps -ef`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    ps_options: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl PsArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot list the processes of {:?}", self.id)
    }
}

pub(crate) fn ps(store: &Store, args: &PsArgs) -> Result<u8, Error> {
    if args.ps_options.iter().any(|option| option != "-ef") {
        let why = "the processes are the guest's, and the columns always those of `ps -ef`";
        return Err(Error::Option { option: "an option of ps", why });
    }
    let processes = vmrun_runtime::processes(store, &args.id)?;
    let text = match args.format {
        Format::Json => {
            let pids: Vec<_> = processes.iter().map(|process| process.pid).collect();
            serde_json::to_string(&pids).unwrap_or_default()
        }
        Format::Table => table(&processes, SystemTime::now()),
    };
    super::print(&text);
    Ok(0)
}

/// The columns of `ps -ef`; times of the day are in UTC.
fn table(processes: &[ProcessInfo], now: SystemTime) -> String {
    let mut text = "UID          PID    PPID  C STIME TTY          TIME CMD\n".to_owned();
    for process in processes {
        let load = process.cpu_ms * 100 / process.elapsed_ms.max(1);
        let ProcessInfo { uid, pid, parent, .. } = process;
        let (began, terminal) = (began(process, now), plain(&process.terminal));
        let (time, command) = (clock(process.cpu_ms / 1000), plain(&process.command));
        text +=
            &format!("{uid:<8} {pid:>7} {parent:>7} {load:>2} {began:>5} {terminal:<8} {time} {command}\n");
    }
    text
}

/// The guest wrote it: nothing in it may move the reader's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// The time of the day, or how many days ago.
fn began(process: &ProcessInfo, now: SystemTime) -> String {
    /// Seconds of a day.
    const DAY: u64 = 86_400;
    let seconds = process.elapsed_ms / 1000;
    if seconds >= DAY {
        return format!("{}d", seconds / DAY);
    }
    let began = now.checked_sub(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    let today = began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % DAY;
    format!("{:02}:{:02}", today / 3600, today / 60 % 60)
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_the_columns_of_ps_and_no_control_characters() {
        let process = ProcessInfo {
            pid: 42,
            parent: 1,
            uid: 1000,
            cpu_ms: 61_000,
            elapsed_ms: 122_000,
            terminal: "pts/0".to_owned(),
            command: "sh -c \u{1b}[2J".to_owned(),
        };
        let noon = UNIX_EPOCH + Duration::from_secs(86_400 + 12 * 3600);
        let text = table(&[process], noon);
        assert_eq!(
            text.lines().nth(1),
            Some("1000          42       1 50 11:57 pts/0    00:01:01 sh -c ?[2J")
        );
    }
}

//! `vmrun stats`: a live table for people.
//!
//! ```text
//!   figures of each container ─▶ look ─┬▶ what came to pass between two looks ─▶ table, or lines of JSON
//!                  one interval later ─┘
//! ```

mod row;
mod table;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use vmrun_runtime::{Act, Error, Interruption, Store};

use self::row::{Line, Look, Row};

/// Containers that are asked at a time.
const AT_A_TIME: usize = 32;

/// Show what containers use, again and again
///
/// The columns are the container's, as its cgroup in the guest counts them; those with HOST are of the whole
/// sandbox, its machine included, as the host counts them. It ends with ctrl-C, or with the last of the containers
/// that were named.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Names of containers; without any, all that have not ended
    #[arg(value_name = "ID")]
    ids: Vec<String>,

    /// Once, and no more
    #[arg(long)]
    no_stream: bool,

    /// Table or JSON: a line for each container, each time
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Time between two figures, like 500ms, 0.5s or 1m30s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::events::duration)]
    interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl StatsArgs {
    #[allow(clippy::unused_self)] // The other verbs' acts name an object.
    pub(crate) fn act(&self) -> String {
        "cannot show the statistics of containers".to_owned()
    }
}

pub(crate) fn stats(store: &Store, args: &StatsArgs) -> Result<u8, Error> {
    end_by_interrupt()?;
    // Those that were named have to be there, and to answer.
    let mut before = looks(store, args, true)?;
    let mut is_first = true;
    loop {
        if before.is_empty() && !args.ids.is_empty() {
            return Ok(0);
        }
        thread::sleep(args.interval);
        let now = looks(store, args, false)?;
        let lines: Vec<_> = now.iter().map(|(id, answer)| line(id, answer, before.get(id))).collect();
        if !super::is_read(&shown(&lines, args, is_first)) || args.no_stream {
            return Ok(0);
        }
        (before, is_first) = (now, false);
    }
}

/// Ctrl-C ends it in good order, also while a container does not answer. There is nothing to clean up.
fn end_by_interrupt() -> Result<(), Error> {
    let interruption = Interruption::take().map_err(Error::Interruption)?;
    let ends = move || {
        interruption.wait();
        std::process::exit(0);
    };
    thread::Builder::new().name("interrupt".to_owned()).spawn(ends).map_err(Error::Interruption).map(drop)
}

/// What a container has come to, or why that is not known.
type Answer = Result<Look, String>;

fn line<'a>(id: &'a str, now: &Answer, before: Option<&Answer>) -> Line<'a> {
    match now {
        Ok(now) => Line::Row(Row::of(id, now, before.and_then(|before| before.as_ref().ok()))),
        Err(why) => Line::Silent { id: id.to_owned(), error: why.clone() },
    }
}

fn shown(lines: &[Line<'_>], args: &StatsArgs, is_first: bool) -> String {
    match args.format {
        Format::Json => lines.iter().map(Line::json).collect(),
        Format::Table if args.no_stream || !io::stdout().is_terminal() => table::text(lines),
        Format::Table => table::screen(lines, is_first),
    }
}

/// What the containers have come to. One that has ended is not among them, unless it has to be; nor does one that does not
/// answer end the table of the others.
fn looks(store: &Store, args: &StatsArgs, all: bool) -> Result<BTreeMap<String, Answer>, Error> {
    let ids = if args.ids.is_empty() { running(store)? } else { args.ids.clone() };
    let mut looks = BTreeMap::new();
    for some in ids.chunks(AT_A_TIME) {
        for (id, look) in some.iter().zip(looks_at(store, some)) {
            match look {
                Ok(look) => drop(looks.insert(id.clone(), Ok(look))),
                Err(error) if all && args.ids.contains(id) => return Err(error),
                Err(error) if error.is_about_the_end() => {}
                Err(error) => drop(looks.insert(id.clone(), Err(vmrun_runtime::chain(&error)))),
            }
        }
    }
    Ok(looks)
}

fn running(store: &Store) -> Result<Vec<String>, Error> {
    let containers = vmrun_runtime::list(store)?.into_iter();
    Ok(containers.filter(|state| state.status.allows(Act::Look)).map(|state| state.id).collect())
}

fn looks_at(store: &Store, ids: &[String]) -> Vec<Result<Look, Error>> {
    let look = |id: &str| {
        let sandbox = vmrun_runtime::sandbox_figures(store, id)?;
        Ok(Look { at: Instant::now(), sandbox, figures: vmrun_runtime::figures(store, id)? })
    };
    let look = |id: &String| {
        look(id).map_err(|source| Error::Container { id: id.clone(), source: Box::new(source) })
    };
    thread::scope(|scope| {
        let threads: Vec<_> = ids.iter().map(|id| scope.spawn(|| look(id))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

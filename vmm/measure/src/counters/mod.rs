//! What the kernel counts of a command and of all that it starts: figures that do not depend on how fast
//! the machine is.

mod filter;
mod reads;
mod reasons;

use std::collections::BTreeMap;
use std::io;

use perf_event::events::{Event, Hardware, Software, Tracepoint};
use perf_event::{Builder, Counter};

use reasons::Reason;

/// The counters that are open, and why others are not.
#[derive(Debug)]
pub(crate) struct Counters {
    open: Vec<Pair>,
    /// Whether the kernel keeps account of what is read.
    reads: bool,
    /// Names of figures, and why they are not counted.
    pub(crate) missing: BTreeMap<String, String>,
}

/// The kernel adds what a process has counted to those of its parent, which is this one: what this one
/// does itself is taken off.
#[derive(Debug)]
struct Pair {
    name: String,
    all: Counter,
    own: Counter,
}

/// The name of what is read with system calls.
const READ: &str = "bytes read";

/// The figures of one run.
pub(crate) type Figures = BTreeMap<String, u64>;

impl Counters {
    /// Opens all that there are here.
    pub(crate) fn open() -> Self {
        let mut counters = Self::none();
        match reads::of_ended_children() {
            Ok(_) => counters.reads = true,
            Err(error) => drop(counters.missing.insert(READ.to_owned(), why(&error))),
        }
        counters.add("guest instructions", Ok(Hardware::INSTRUCTIONS), Scope::Guest, None);
        counters.add("system calls", Tracepoint::with_name("raw_syscalls/sys_enter"), Scope::Host, None);
        counters.add("page faults", Ok(Software::PAGE_FAULTS), Scope::Host, None);
        counters.add("context switches", Ok(Software::CONTEXT_SWITCHES), Scope::Host, None);
        let exits = || Tracepoint::with_name("kvm/kvm_exit");
        counters.add("VM exits", exits(), Scope::Host, None);
        for Reason { name, codes } in reasons::here() {
            let filter = filter::any_of("exit_reason", codes);
            counters.add(&format!("VM exits: {name}"), exits(), Scope::Host, Some(&filter));
        }
        counters
    }

    /// None at all.
    pub(crate) fn none() -> Self {
        Self { open: Vec::new(), reads: false, missing: BTreeMap::new() }
    }

    fn add(&mut self, name: &str, event: io::Result<impl Event + Clone>, scope: Scope, filter: Option<&str>) {
        match event.and_then(|event| Pair::open(name, &event, scope, filter)) {
            Ok(pair) => self.open.push(pair),
            Err(error) => drop(self.missing.insert(name.to_owned(), why(&error))),
        }
    }

    /// Runs something and gives what was counted meanwhile; of something that fails nothing.
    pub(crate) fn during<T, E: From<io::Error>>(
        &mut self,
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Figures), E> {
        for pair in &mut self.open {
            pair.all.reset()?;
            pair.own.reset()?;
        }
        // The kernel's reset leaves what ended children have added: differences are taken.
        let before = self.read()?;
        self.switch(Counter::enable)?;
        let done = act();
        self.switch(Counter::disable)?;
        let done = done?;
        let after = self.read()?;
        let figures = after
            .into_iter()
            .map(|(name, after)| {
                let before = before.get(&name).copied().unwrap_or(0);
                (name, after.saturating_sub(before))
            })
            .collect();
        Ok((done, figures))
    }

    fn switch(&mut self, act: fn(&mut Counter) -> io::Result<()>) -> io::Result<()> {
        self.open.iter_mut().try_for_each(|pair| act(&mut pair.own).and_then(|()| act(&mut pair.all)))
    }

    fn read(&mut self) -> io::Result<Figures> {
        let read =
            |pair: &mut Pair| Ok((pair.name.clone(), pair.all.read()?.saturating_sub(pair.own.read()?)));
        let mut figures = self.open.iter_mut().map(read).collect::<io::Result<Figures>>()?;
        if self.reads {
            figures.insert(READ.to_owned(), reads::of_ended_children()?);
        }
        Ok(figures)
    }
}

/// Where it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Host,
    Guest,
}

impl Pair {
    fn open(
        name: &str,
        event: &(impl Event + Clone),
        scope: Scope,
        filter: Option<&str>,
    ) -> io::Result<Self> {
        let counter = |inherited: bool| {
            let mut builder = Builder::new(event.clone());
            builder.include_kernel().inherit(inherited).exclude_host(scope == Scope::Guest);
            let counter = builder.build()?;
            filter.map_or(Ok(()), |filter| filter::set(&counter, filter))?;
            Ok::<_, io::Error>(counter)
        };
        Ok(Self { name: name.to_owned(), all: counter(true)?, own: counter(false)? })
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "neither this kernel nor this processor has it, or tracefs is not mounted".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "it takes CAP_PERFMON, or a lower kernel.perf_event_paranoid".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_counted_says_why() {
        let mut counters = Counters::none();
        counters.add("x", Tracepoint::with_name("no/such_event"), Scope::Host, None);
        assert!(counters.missing["x"].contains("tracefs"));
        let (done, figures) = counters.during(|| Ok::<_, io::Error>(7)).unwrap();
        assert_eq!((done, figures.len()), (7, 0));
    }
}

//! A start that goes on from a template, and the one that makes it.
//!
//! ```text
//!   a template fits ─▶ restored ─▶ agent connects ─▶ becomes another guest ─▶ container
//!   none            ─▶ boots, stops at the checkpoint ─▶ saved ─▶ goes on; published beside it
//!   --cold          ─▶ boots
//! ```
//!
//! Nothing here makes a start fail: what a template cannot do the boot does, and says why.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use vmrun_machine::{Built, MappedPages, Running};
use vmrun_proto::Request;
use vmrun_spec::{HostPort, MachineSpec};

use crate::error::chain;
use crate::log::Log;
use crate::step;
use crate::templates::{Draft, Shape, Template, TemplateError, Templates, checkpoint};

/// What the machine's owner has to know of a warm start.
#[derive(Debug)]
pub(crate) enum Warm {
    /// The machine boots, and that is all.
    Not,
    /// It goes on from this template.
    Restored(Used),
    /// Its template is being written, by this thread if it still is.
    Published(Option<JoinHandle<()>>),
}

/// A template in use.
#[derive(Debug)]
pub(crate) struct Used {
    directory: PathBuf,
    name: String,
    log: Log,
}

/// Where templates are looked for, and of which shape.
#[derive(Debug)]
pub(super) struct Source<'s> {
    directory: &'s Path,
    shape: Shape,
    log: &'s Log,
}

impl<'s> Source<'s> {
    /// Of a machine of `spec`; nothing where its shape cannot be told.
    pub(super) fn of(directory: &'s Path, spec: &MachineSpec, log: &'s Log) -> Option<Self> {
        match Shape::of(spec) {
            Ok(shape) => Some(Self { directory, shape, log }),
            Err(error) => {
                super::warn(log, &format!("cannot tell which template fits: {error}; the guest boots"));
                None
            }
        }
    }

    /// The template that fits, if there is one. One that is no good is removed, so that it is told of once.
    pub(super) fn find(&self) -> Option<Template> {
        let templates = self.told(Templates::open(self.directory))??;
        match templates.find(&self.shape) {
            Ok(found) => found,
            Err(error) => {
                self.discard(&templates, &chain(&error));
                None
            }
        }
    }

    /// The template has not become a machine.
    pub(super) fn refuse(&self, why: &str) {
        if let Some(Some(templates)) = self.told(Templates::open(self.directory)) {
            self.discard(&templates, why);
        }
    }

    fn discard(&self, templates: &Templates, why: &str) {
        super::warn(self.log, &format!("{why}; the guest boots, and a new template is made"));
        self.told(templates.remove(&self.shape.name()));
    }

    pub(super) fn used(&self) -> Used {
        Used { directory: self.directory.to_owned(), name: self.shape.name(), log: self.log.clone() }
    }

    /// Begins a template.
    pub(super) fn begin(self) -> Option<Draft> {
        let Self { directory, shape, log } = self;
        let begun = Templates::make(directory).and_then(|templates| Draft::begin(templates, shape));
        told(log, begun)
    }

    fn told<T>(&self, result: Result<T, TemplateError>) -> Option<T> {
        told(self.log, result)
    }
}

fn told<T>(log: &Log, result: Result<T, TemplateError>) -> Option<T> {
    result
        .inspect_err(|error| super::warn(log, &format!("{}; the guest boots at each start", chain(error))))
        .ok()
}

impl Warm {
    pub(super) fn is_restored(&self) -> bool {
        matches!(self, Self::Restored(_))
    }

    /// The guest has not reported.
    pub(super) fn has_failed(&self) {
        if let Self::Restored(used) = self {
            used.distrust();
        }
    }

    /// Waits until a template that is begun is written: with the process its thread would end.
    pub(super) fn finish(self) {
        if let Self::Published(Some(written)) = self {
            // It has told what went wrong.
            let _ = written.join();
        }
    }
}

impl Used {
    /// The guest that came from it has not reported: the next start boots.
    pub(crate) fn distrust(&self) {
        let removed = Templates::open(&self.directory)
            .and_then(|templates| templates.map_or(Ok(false), |templates| templates.remove(&self.name)));
        if told(&self.log, removed) == Some(true) {
            let name = &self.name;
            super::warn(
                &self.log,
                &format!(
                    "the guest that was restored from the template {name} does not work; the template was removed"
                ),
            );
        }
    }
}

/// That machine, restored.
pub(super) fn restored(
    spec: &MachineSpec,
    template: &Template,
    kernel: &[MappedPages],
    host_port: HostPort,
) -> Result<Built, vmrun_machine::MachineError> {
    Built::restored(spec, &template.state, &template.memory, kernel, Some(host_port))
}

/// Waits until the guest is at its checkpoint, saves it, and lets it go on. What is readable in `others` ends the wait:
/// then there is no template, and the owner goes on with what it has.
pub(super) fn save(
    machine: &mut Running,
    draft: Draft,
    kernel: &[MappedPages],
    others: &[BorrowedFd<'_>],
    log: &Log,
) -> Option<JoinHandle<()>> {
    let saved = checkpoint::save(machine, &draft, kernel, others);
    machine.pass_checkpoint();
    let Some(state) = told(log, saved)? else {
        step!("the guest has not come to its checkpoint: no template");
        return None;
    };
    step!("the machine is saved");
    let log = log.clone();
    // What is written has to be on the disk before it is a template; the guest need not wait for that.
    let publish = move || {
        told(&log, draft.publish(state));
    };
    thread::Builder::new().name("template".to_owned()).spawn(publish).ok()
}

/// What makes a restored guest another one than those that were restored before.
pub(super) fn new_generation() -> Result<Request, rustix::io::Errno> {
    let mut entropy = vec![0; 64];
    let mut filled = 0;
    while filled < entropy.len() {
        let rest = entropy.get_mut(filled..).unwrap_or_default();
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(Request::NewGeneration { entropy, realtime_ns: super::clock::now_ns() })
}

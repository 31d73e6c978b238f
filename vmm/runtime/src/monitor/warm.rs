//! A start that goes on from a template, and the one that makes it.
//!
//! ```text
//!   a template fits ─▶ restored ─▶ agent connects ─▶ becomes another guest ─▶ container
//!   none            ─▶ boots, stops at the checkpoint ─▶ saved ─▶ goes on; published beside it
//!   --cold          ─▶ boots
//! ```
//!
//! Nothing here makes a start fail: what a template cannot do the boot does, and says why.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use vmrun_plan::SandboxPlan;
use vmrun_proto::Request;
use vmrun_spec::NetworkNamespace;

use crate::assets::Embedded;
use crate::error::chain;
use crate::log::Log;
use crate::machine::{Machine, Saved};
use crate::step;
use crate::templates::{
    Draft, Shape, StartKind, Template, TemplateError, TemplatePlace, Templates, WorkingSet, checkpoint,
};

/// How long the writing of a template may last when all else is done.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// What the machine's owner has to know of a warm start.
#[derive(Debug)]
pub(crate) enum Warm {
    /// The machine boots, and that is all.
    Not,
    /// It goes on from this template.
    Restored(Used),
    /// It was to be a template. If it is one, this says when that is written.
    Published(Option<Receiver<()>>),
}

/// A template in use.
#[derive(Debug)]
pub(crate) struct Used {
    place: TemplatePlace,
    name: String,
    /// What it lacks, which may be recorded.
    working_set: WorkingSet,
    log: Log,
}

/// It has been told, and there is nothing more to try.
#[derive(Debug)]
pub(super) struct Told;

/// Where templates are looked for, and of which shape.
#[derive(Debug)]
pub(super) struct Source<'s> {
    place: &'s TemplatePlace,
    shape: Shape,
    kind: StartKind,
    log: &'s Log,
}

impl<'s> Source<'s> {
    /// Of the machine of `plan`; nothing where its shape cannot be told.
    pub(super) fn of(
        place: &'s TemplatePlace,
        plan: &SandboxPlan,
        embedded: Embedded,
        log: &'s Log,
    ) -> Option<Self> {
        let kind = match (&plan.host.network, &plan.host.user_network) {
            // Hooks may set it up.
            (NetworkNamespace::New, None) if plan.host.hooks.precede_creation() => StartKind::Networked,
            (NetworkNamespace::New | NetworkNamespace::Callers, None) => StartKind::Alone,
            (NetworkNamespace::Named(_), _) | (_, Some(_)) => StartKind::Networked,
        };
        match Shape::of(&plan.machine, embedded) {
            Ok(shape) => Some(Self { place, shape, kind, log }),
            Err(error) => {
                super::warn(log, &format!("cannot tell which template fits: {error}; the guest boots"));
                None
            }
        }
    }

    /// The template that fits, if there is one. One that is no good is removed, so that it is told of once. An error is
    /// that there are no templates to be had, and has been told.
    pub(super) fn find(&self) -> Result<Option<Template>, Told> {
        let Some(templates) = self.open()? else { return Ok(None) };
        Ok(templates.find(&self.shape, self.kind).unwrap_or_else(|error| {
            self.discard(&templates, &chain(&error));
            None
        }))
    }

    /// The template has not become a machine.
    pub(super) fn refuse(&self, why: &str) {
        if let Ok(Some(templates)) = self.open() {
            self.discard(&templates, why);
        }
    }

    fn open(&self) -> Result<Option<Templates>, Told> {
        Templates::open(&self.place.path).map_err(|error| tell(self.log, self.place, &error))
    }

    fn discard(&self, templates: &Templates, why: &str) {
        super::warn(self.log, &format!("{why}; the guest boots, and a new template is made"));
        let removed = templates.remove(&self.shape.name());
        if let Err(error) = removed {
            tell(self.log, self.place, &error);
        }
    }

    /// To be kept by who goes on from the template, for which there is this working set.
    pub(super) fn used(&self, working_set: WorkingSet) -> Used {
        Used { place: self.place.clone(), name: self.shape.name(), working_set, log: self.log.clone() }
    }

    /// Begins a template: what is to be known of it, and what goes to the machine's process.
    pub(super) fn begin(self) -> Option<(Beginning, Saved)> {
        let Self { place, shape, log, .. } = self;
        let draft = Templates::make(&place.path).and_then(|templates| Draft::begin(templates, shape));
        let begun = draft.and_then(|draft| {
            let (state, saved) = checkpoint::files(&draft)?;
            Ok((Beginning { draft, state, place: place.clone() }, saved))
        });
        begun.map_err(|error| tell(log, place, &error)).ok()
    }
}

/// A template that is about to be made.
#[derive(Debug)]
pub(super) struct Beginning {
    draft: Draft,
    state: File,
    place: TemplatePlace,
}

/// Tells why there is no template. That a machine is too large for one, or a directory which nobody has named of no use, is
/// not worth a warning at each start.
fn tell(log: &Log, place: &TemplatePlace, error: &TemplateError) -> Told {
    let as_usual = match error {
        TemplateError::Io { .. } => !place.named,
        TemplateError::TooLarge(_) | TemplateError::Busy(_) => true,
        _ => false,
    };
    let why = chain(error);
    if as_usual {
        step!("{why}: no template");
    } else {
        super::warn(log, &format!("{why}; the guest boots at each start"));
    }
    Told
}

impl Warm {
    /// Whether its guest has random numbers in common with others, or is about to.
    pub(super) fn shares_randomness(&self) -> bool {
        !matches!(self, Self::Not)
    }

    /// How long the guest's boot has been waited for, of the time since it began: where it has come to its checkpoint, its
    /// agent needs another while.
    pub(super) fn waited(&self, since: Duration) -> Duration {
        match self {
            Self::Published(Some(_)) => Duration::ZERO,
            _ => since,
        }
    }

    /// The program is about to run: what its start took is recorded, if it is the first one of its kind from the template. The
    /// machine's process can tell it once, and is asked whether or not it is kept, since it gives a right up by that.
    pub(super) fn is_about_to_run(&self, machine: &Machine, kind: StartKind) {
        if let Self::Restored(used) = self
            && used.working_set.is_to_be_recorded()
        {
            used.record(machine, kind);
        }
    }

    /// The guest has come to nothing, by its own fault.
    pub(super) fn has_failed(&self) {
        if let Self::Restored(used) = self {
            used.distrust();
        }
    }

    /// Waits until a template that is begun is written: with the process its thread would end. A disk that takes
    /// longer costs the template.
    pub(super) fn finish(&self) {
        if let Self::Published(Some(written)) = self {
            // It has told what went wrong.
            let _ = written.recv_timeout(WRITE_LIMIT);
        }
    }
}

impl Used {
    /// A start that records nothing leaves it to the next one.
    fn record(&self, machine: &Machine, kind: StartKind) {
        let set = match machine.working_set() {
            Ok(set) => set,
            Err(error) => return step!("the working set is not known: {error}"),
        };
        let pages: u64 = set.iter().map(|run| u64::from(run.count)).sum();
        step!("working set: {pages} pages in {} runs", set.len());
        let kept = Templates::open(&self.place.path).and_then(|templates| {
            templates.map_or(Ok(()), |templates| match self.working_set.lacks(kind) {
                true => templates.keep_working_set(&self.name, kind, &set),
                false => templates.recorded_in_vain(&self.name),
            })
        });
        if let Err(error) = kept {
            step!("the working set is not kept: {}", chain(&error));
        }
    }

    /// The next start boots.
    fn distrust(&self) {
        let removed = Templates::open(&self.place.path)
            .and_then(|templates| templates.map_or(Ok(false), |templates| templates.remove(&self.name)));
        match removed {
            Ok(true) => {
                let name = &self.name;
                super::warn(
                    &self.log,
                    &format!(
                        "the guest that went on from the template {name} does not work; the template was removed"
                    ),
                );
            }
            Ok(false) => {}
            Err(error) => {
                tell(&self.log, &self.place, &error);
            }
        }
    }
}

/// Waits until the guest is at its checkpoint, saves it, and lets it go on. What is readable in `others` ends the wait:
/// then there is no template, and the owner goes on with what it has.
pub(super) fn save(
    machine: &Machine,
    beginning: Beginning,
    others: &[BorrowedFd<'_>],
    log: &Log,
) -> Option<Receiver<()>> {
    let Beginning { draft, state, place } = beginning;
    let saved = checkpoint::save(machine, &draft, &state, others);
    machine.pass_checkpoint();
    let Some(state) = saved.map_err(|error| tell(log, &place, &error)).ok()? else {
        step!("the guest has not come to its checkpoint: no template");
        return None;
    };
    step!("the machine is saved");
    let (written, end) = channel();
    let told = log.clone();
    // What is written has to be on the disk before it is a template; the guest need not wait for that.
    let publish = move || {
        if let Err(error) = draft.publish(state) {
            tell(&told, &place, &error);
        }
        // Nobody may wait any more.
        let _ = written.send(());
    };
    match thread::Builder::new().name("template".to_owned()).spawn(publish) {
        Ok(_) => Some(end),
        Err(error) => {
            super::warn(
                log,
                &format!("cannot start a thread that writes the template: {error}; there is none"),
            );
            None
        }
    }
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

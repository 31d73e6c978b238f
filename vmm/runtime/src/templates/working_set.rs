//! The working set of starts, beside the template that they go on from: what the first of them has recorded.
//!
//! It is a help and no more: whatever is wrong with it, the start goes on without. What it can do at worst is to have some
//! pages copied or mapped that nobody wants, and it is believed as far as the template is.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vmrun_machine::{Ahead, PageRun};

use super::draft::make_file;
use super::{FileIdentity, MEMORY, TemplateError, Templates, file, open_file};

/// Which starts are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartKind {
    /// Those with nothing but loopback.
    Alone,
    /// Those with network interfaces.
    Networked,
}

impl StartKind {
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::Alone => "working-set",
            Self::Networked => "working-set-networked",
        }
    }
}

/// What a start goes on with, and which sets it may record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkingSet {
    /// Nothing where there is none yet.
    pub(crate) runs: Vec<PageRun>,
    pub(crate) lacks_alone: bool,
    pub(crate) lacks_networked: bool,
}

impl WorkingSet {
    /// Whether a start of this kind records one.
    pub(crate) fn lacks(&self, kind: StartKind) -> bool {
        match kind {
            StartKind::Alone => self.lacks_alone,
            StartKind::Networked => self.lacks_networked,
        }
    }

    pub(crate) fn is_to_be_recorded(&self) -> bool {
        self.lacks_alone || self.lacks_networked
    }
}

/// What is in the file of one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The template's pages.
    memory: FileIdentity,
    /// Runs of pages: the number of the first one, and how many.
    copied: Vec<(u32, u32)>,
    mapped: Vec<(u32, u32)>,
    /// How many starts have recorded in vain: they looked like ones with interfaces, and had none. There are no runs then.
    vain: u8,
}

/// After so many no start of that look records any more: to record costs a start a fifth of its time.
const MOST_VAIN: u8 = 3;

impl Kept {
    fn of(memory: FileIdentity, runs: &[PageRun]) -> Self {
        let of_kind = |ahead| {
            runs.iter().filter(|run| run.ahead == ahead).map(|run| (run.first, run.count)).collect::<Vec<_>>()
        };
        Self { memory, copied: of_kind(Ahead::Copied), mapped: of_kind(Ahead::Mapped), vain: 0 }
    }

    fn runs(self) -> Vec<PageRun> {
        let runs = |ahead| move |(first, count)| PageRun { first, count, ahead };
        let mapped = self.mapped.into_iter().map(runs(Ahead::Mapped));
        self.copied.into_iter().map(runs(Ahead::Copied)).chain(mapped).collect()
    }
}

/// The one for a start that looks like one of this kind. What interfaces there are is known only later, so that one with
/// interfaces takes the other set for as long as it has none.
pub(super) fn find(entry: &OwnedFd, kind: StartKind, memory: &FileIdentity, path: &Path) -> WorkingSet {
    let read = |kind| read(entry, kind, memory, path);
    let networked = if kind == StartKind::Networked { read(StartKind::Networked) } else { None };
    let vain = networked.as_ref().map_or(0, |kept| kept.vain);
    match networked {
        Some(kept) if vain == 0 => return WorkingSet { runs: kept.runs(), ..WorkingSet::default() },
        _ => {}
    }
    let alone = read(StartKind::Alone);
    WorkingSet {
        lacks_alone: alone.is_none(),
        lacks_networked: kind == StartKind::Networked && vain < MOST_VAIN,
        runs: alone.map(Kept::runs).unwrap_or_default(),
    }
}

/// The one that is kept, if it is of these pages. One that is no good goes, so that another can be.
fn read(entry: &OwnedFd, kind: StartKind, memory: &FileIdentity, path: &Path) -> Option<Kept> {
    let opened =
        match openat(entry, kind.file(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => return None,
            _ => open_file(entry, kind.file(), path),
        };
    let kept = opened.ok().and_then(|file| file::read::<Kept>(&file, file::WORKING_SET).ok());
    match kept {
        Some(kept) if kept.memory == *memory => Some(kept),
        _ => {
            // Where that is not possible each start goes on without.
            let _ = unlinkat(entry, kind.file(), AtFlags::empty());
            None
        }
    }
}

impl Templates {
    /// Keeps the working set of a start from the template `name`, unless another start was first.
    pub(crate) fn keep_working_set(
        &self,
        name: &str,
        kind: StartKind,
        runs: &[PageRun],
    ) -> Result<(), TemplateError> {
        self.keep(name, kind, |memory, there| match there {
            Some(kept) if kept.vain == 0 => None,
            _ => Some(Kept::of(memory, runs)),
        })
    }

    /// A start from the template `name` has recorded as one with interfaces, and had none.
    pub(crate) fn recorded_in_vain(&self, name: &str) -> Result<(), TemplateError> {
        self.keep(name, StartKind::Networked, |memory, there| match there {
            Some(kept) if kept.vain == 0 => None,
            there => {
                let vain = there.map_or(0, |kept| kept.vain).saturating_add(1);
                Some(Kept { vain, ..Kept::of(memory, &[]) })
            }
        })
    }

    /// Puts what `change` makes of the file of this kind in its place, if it makes anything.
    fn keep(
        &self,
        name: &str,
        kind: StartKind,
        change: impl FnOnce(FileIdentity, Option<Kept>) -> Option<Kept>,
    ) -> Result<(), TemplateError> {
        let path = self.path.join(name);
        let failed = |act| TemplateError::io(act, &path);
        let entry = self.open_entry(name).map_err(failed("open the template"))?;
        let memory =
            FileIdentity::of(&open_file(&entry, MEMORY, &path)?).map_err(failed("look at the template"))?;
        let there = read(&entry, kind, &memory, &path);
        let replaces = there.is_some();
        let Some(kept) = change(memory, there) else { return Ok(()) };
        if replaces {
            unlinkat(&entry, kind.file(), AtFlags::empty()).map_err(failed("keep a working set in"))?;
        }
        // Whoever reads it half written removes it, and another start records it.
        let file = match make_file(&entry, kind.file()) {
            Err(Errno::EXIST) => return Ok(()),
            made => File::from(made.map_err(failed("keep a working set in"))?),
        };
        let written = file::write(&file, file::WORKING_SET, &kept);
        written.map_err(|source| TemplateError::Io {
            act: "keep a working set in",
            path: path.clone(),
            source,
        })
    }
}

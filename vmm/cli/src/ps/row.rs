//! One process as the columns see it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vmrun_runtime::ProcessInfo;

use super::Facts;

/// Size of a page in the guest.
const PAGE_BYTES: u64 = 4096;

/// A process, and what its columns are made with.
#[derive(Debug)]
pub(super) struct Row<'r> {
    pub(super) info: &'r ProcessInfo,
    fields: Vec<&'r str>,
    facts: &'r Facts,
    numeric: bool,
}

impl<'r> Row<'r> {
    pub(super) fn new(info: &'r ProcessInfo, facts: &'r Facts, numeric: bool) -> Self {
        Self { info, fields: info.stat.split_ascii_whitespace().collect(), facts, numeric }
    }

    /// A field of `/proc/PID/stat`, as proc(5) counts them.
    pub(super) fn field(&self, number: usize) -> Option<i64> {
        self.fields.get(number.checked_sub(3)?)?.parse().ok()
    }

    /// The same in words; a dash where it is not known.
    pub(super) fn shown(&self, number: usize) -> String {
        self.field(number).map_or_else(|| "-".to_owned(), |value| value.to_string())
    }

    pub(super) fn state(&self) -> char {
        self.fields.first().and_then(|text| text.chars().next()).unwrap_or('?')
    }

    /// A line of `/proc/PID/status`.
    pub(super) fn status(&self, name: &str) -> &str {
        self.info.status.get(name).map_or("-", String::as_str)
    }

    /// The user or group at this place: real, effective, saved, for files.
    pub(super) fn id(&self, kind: &str, place: usize) -> Option<u32> {
        let known = self.info.status.get(kind)?.split_ascii_whitespace().nth(place)?.parse().ok();
        if kind == "Uid" && place == 1 { Some(known.unwrap_or(self.info.uid)) } else { known }
    }

    pub(super) fn uid(&self) -> u32 {
        self.id("Uid", 1).unwrap_or(self.info.uid)
    }

    pub(super) fn user(&self, place: usize) -> String {
        let id = if place == 1 { Some(self.uid()) } else { self.id("Uid", place) };
        self.named(id, |facts, id| facts.users.of(id))
    }

    pub(super) fn group(&self, place: usize) -> String {
        self.named(self.id("Gid", place), |facts, id| facts.groups.of(id))
    }

    fn named(&self, id: Option<u32>, name: impl Fn(&Facts, u32) -> Option<String>) -> String {
        let Some(id) = id else { return "-".to_owned() };
        let name = if self.numeric { None } else { name(self.facts, id) };
        name.unwrap_or_else(|| id.to_string())
    }

    pub(super) fn vsz_kib(&self) -> Option<u64> {
        Some(u64::try_from(self.field(23)?).ok()? / 1024)
    }

    pub(super) fn rss_kib(&self) -> Option<u64> {
        Some(u64::try_from(self.field(24)?).ok()?.saturating_mul(PAGE_BYTES) / 1024)
    }

    pub(super) fn pages(&self) -> Option<u64> {
        Some(u64::try_from(self.field(23)?).ok()? / PAGE_BYTES)
    }

    /// Share of one CPU's time, in thousandths.
    pub(super) fn cpu_permille(&self) -> u64 {
        self.info.cpu_ms.saturating_mul(1000) / self.info.elapsed_ms.max(1)
    }

    pub(super) fn now(&self) -> SystemTime {
        self.facts.now
    }

    pub(super) fn began(&self) -> SystemTime {
        self.facts.now.checked_sub(Duration::from_millis(self.info.elapsed_ms)).unwrap_or(UNIX_EPOCH)
    }

    /// The state with what BSD's ps adds to it.
    pub(super) fn stat(&self) -> String {
        let mut text = self.state().to_string();
        match self.field(19) {
            Some(nice) if nice < 0 => text.push('<'),
            Some(nice) if nice > 0 => text.push('N'),
            _ => {}
        }
        if self.field(6) == Some(i64::from(self.info.pid)) {
            text.push('s');
        }
        if self.field(20).is_some_and(|threads| threads > 1) {
            text.push('l');
        }
        if self.field(8).is_some_and(|foreground| foreground > 0 && self.field(5) == Some(foreground)) {
            text.push('+');
        }
        text
    }

    pub(super) fn name(&self) -> String {
        self.marked(if self.info.name.is_empty() { &self.info.command } else { &self.info.name })
    }

    pub(super) fn command(&self) -> String {
        self.marked(&self.info.command)
    }

    fn marked(&self, text: &str) -> String {
        if self.state() == 'Z' { format!("{text} <defunct>") } else { text.to_owned() }
    }
}

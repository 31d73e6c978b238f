//! Times as `ps` writes them.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Datelike, Local};

/// Seconds of a day.
const DAY: u64 = 86_400;

/// `[DD-]HH:MM:SS` of CPU time.
pub(super) fn clock(ms: u64) -> String {
    let seconds = ms / 1000;
    let time = format!("{:02}:{:02}:{:02}", seconds % DAY / 3600, seconds / 60 % 60, seconds % 60);
    if seconds >= DAY { format!("{}-{time}", seconds / DAY) } else { time }
}

/// `MMM:SS` of CPU time.
pub(super) fn minutes(ms: u64) -> String {
    format!("{}:{:02}", ms / 60_000, ms / 1000 % 60)
}

/// `[[DD-]HH:]MM:SS` since the beginning.
pub(super) fn elapsed(ms: u64) -> String {
    let seconds = ms / 1000;
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (seconds / DAY, seconds % DAY / 3600) {
        (0, 0) => rest,
        (0, hours) => format!("{hours:02}:{rest}"),
        (days, hours) => format!("{days}-{hours:02}:{rest}"),
    }
}

/// The time of the day, else the day, else the year.
pub(super) fn day(began: SystemTime, now: SystemTime) -> String {
    let (began, now): (DateTime<Local>, DateTime<Local>) = (began.into(), now.into());
    let form = if began.year() != now.year() {
        "%Y"
    } else if began.ordinal() != now.ordinal() {
        "%b%d"
    } else {
        "%H:%M"
    };
    began.format(form).to_string()
}

/// The time within a day, else the day.
pub(super) fn recent(began: SystemTime, now: SystemTime, form: &str, old: &str) -> String {
    let is_recent = now.duration_since(began).unwrap_or_default() < Duration::from_secs(DAY);
    DateTime::<Local>::from(began).format(if is_recent { form } else { old }).to_string()
}

/// All of it.
pub(super) fn whole(began: SystemTime) -> String {
    DateTime::<Local>::from(began).format("%a %b %e %H:%M:%S %Y").to_string()
}

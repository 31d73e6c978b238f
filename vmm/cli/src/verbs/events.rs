//! `vmrun events`.

use std::time::{Duration, Instant};

use clap::Args;
use vmrun_runtime::{Error, Happening, Happenings, Store};

use super::event::Event;

/// Show a container's figures and how often it ran out of memory, as runc's JSON
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Name of the container
    id: String,

    /// Once, and no more
    #[arg(long)]
    stats: bool,

    /// Time between two figures, like 500ms, 0.5s or 1m30s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
}

impl EventsArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot show the statistics of {:?}", self.id)
    }
}

/// Numbers with units as Go writes them, like `1m30s` or `0.5s`, or one of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time like 500ms, 0.5s or 1m30s");
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "" if after.is_empty() && seconds == 0.0 => 1.0,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
        };
        seconds += number * unit;
        rest = after;
    }
    // Longer is as good as never.
    let time = Duration::try_from_secs_f64(seconds.min(LONGEST)).map_err(|_| wrong())?;
    if time.is_zero() { Err("duration interval must be greater than 0".to_owned()) } else { Ok(time) }
}

/// A hundred years, in seconds.
const LONGEST: f64 = 3.2e9;

/// In seconds.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("\u{b5}s", 1e-6),
    ("\u{3bc}s", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

pub(crate) fn events(store: &Store, args: &EventsArgs) -> Result<u8, Error> {
    if args.stats {
        show(&Event::stats(&args.id, &vmrun_runtime::figures(store, &args.id)?));
        return Ok(0);
    }
    // Before the first figures, so that nothing is missed between the two.
    let happenings = vmrun_runtime::happenings(store, &args.id)?;
    loop {
        let is_read = match vmrun_runtime::figures(store, &args.id) {
            Ok(figures) => show(&Event::stats(&args.id, &figures)),
            // What is left to be told comes before the end.
            Err(error) if error.is_about_the_end() => true,
            Err(error) => return Err(error),
        };
        let next = Instant::now() + args.interval;
        if !is_read || !until(next, &args.id, &happenings)? {
            return Ok(0);
        }
    }
}

/// Shows what happens before that time; whether the container lives on then, and somebody reads of it.
fn until(next: Instant, id: &str, happenings: &Happenings) -> Result<bool, Error> {
    loop {
        let left = next.saturating_duration_since(Instant::now());
        match happenings.next(left)? {
            Happening::OutOfMemory => {
                if !show(&Event::out_of_memory(id)) {
                    return Ok(false);
                }
            }
            Happening::Nothing if left.is_zero() => return Ok(true),
            Happening::Nothing => {}
            // The end of the container is the end of its events.
            Happening::End => return Ok(false),
        }
    }
}

/// Whether somebody reads it.
fn show(event: &Event<'_>) -> bool {
    // Numbers and names always have a form in JSON.
    let text = serde_json::to_string(event).unwrap_or_default();
    super::is_read(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_with_their_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h0.5m100us"), Ok(Duration::from_micros(3_630_000_100)));
        for wrong in ["", "0s", "-1s", "1x", "1s5", "s", "1..2s", "NaNs", "infs", "1e999s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}

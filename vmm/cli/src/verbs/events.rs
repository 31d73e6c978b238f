//! `vmrun events`.

use std::time::{Duration, Instant};

use clap::Args;
use vmrun_runtime::{Error, Happening, Store};

use super::stats::Event;

/// Show a container's figures and how often it ran out of memory, as runc's JSON
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Name of the container
    id: String,

    /// Once, and no more
    #[arg(long)]
    stats: bool,

    /// Time between two figures, like 500ms, 5s or 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
}

impl EventsArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot show the statistics of {:?}", self.id)
    }
}

/// A number with a unit, or of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1000));
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time like 500ms, 5s or 1m"))?;
    match number.saturating_mul(factor) {
        0 => Err("the interval must be more than 0".to_owned()),
        milliseconds => Ok(Duration::from_millis(milliseconds)),
    }
}

pub(crate) fn events(store: &Store, args: &EventsArgs) -> Result<u8, Error> {
    if args.stats {
        show(&Event::stats(&args.id, &vmrun_runtime::figures(store, &args.id)?));
        return Ok(0);
    }
    // Before the first figures, so that nothing is missed between the two.
    let happenings = vmrun_runtime::happenings(store, &args.id)?;
    loop {
        match vmrun_runtime::figures(store, &args.id) {
            Ok(figures) => show(&Event::stats(&args.id, &figures)),
            // What is left to be told comes before the end.
            Err(error) if error.is_about_the_end() => {}
            Err(error) => return Err(error),
        }
        let next = Instant::now() + args.interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match happenings.next(left)? {
                Happening::OutOfMemory => show(&Event::out_of_memory(&args.id)),
                Happening::Nothing if left.is_zero() => break,
                Happening::Nothing => {}
                // The end of the container is the end of its events.
                Happening::End => return Ok(0),
            }
        }
    }
}

fn show(event: &Event<'_>) {
    // Numbers and names always have a form in JSON.
    let text = serde_json::to_string(event).unwrap_or_default();
    super::print(&format!("{text}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_with_their_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "0s", "-1s", "1x"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}

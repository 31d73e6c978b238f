//! libcontainer's error lines, sent to the agent: the failures it returns have
//! lost their causes on the way through its processes.

use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::explain::ErrorLine;
use crate::report;

/// Sends error lines from now on, in this process and those it makes.
pub(crate) fn send_error_lines() {
    // It fails when one is set already, which then is this one.
    let _ = tracing::subscriber::set_global_default(ErrorLines);
}

struct ErrorLines;

impl Subscriber for ErrorLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut collector = Collector::default();
        event.record(&mut collector);
        report::send_trace(collector.line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Collects a line.
#[derive(Default)]
struct Collector {
    line: ErrorLine,
}

/// What libcontainer calls the error that a line is about.
const ERRORS: &[&str] = &["e", "err", "errno", "error", "ret"];

/// The root file system in the guest, which the container's paths begin at.
const SHARED_ROOT: &str = "/run/vmrun/share/rootfs";

/// A number or a text; what else Rust prints is not.
fn is_for_people(value: &str) -> bool {
    value.parse::<i64>().is_ok() || value.starts_with('"')
}

impl Visit for Collector {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.line.message = value,
            name if ERRORS.contains(&name) => self.line.error = value,
            name if is_for_people(&value) => {
                let value = value.replace(SHARED_ROOT, "");
                let separator = if self.line.details.is_empty() { "" } else { ", " };
                self.line.details.push_str(&format!("{separator}{name} {value}"));
            }
            _ => {}
        }
    }
}

//! libcontainer's error lines, sent to the agent: the failures it returns have
//! lost their causes on the way through its processes.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

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
        let mut line = Line::default();
        event.record(&mut line);
        report::send_trace(&line.text());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// `message (field: value, …)`
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn text(&self) -> String {
        if self.fields.is_empty() {
            self.message.clone()
        } else {
            format!("{} ({})", self.message, self.fields)
        }
    }

    fn add(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        if field.name() == "message" {
            return write!(self.message, "{value:?}");
        }
        let separator = if self.fields.is_empty() { "" } else { ", " };
        write!(self.fields, "{separator}{}: {value:?}", field.name())
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = self.add(field, value);
    }
}

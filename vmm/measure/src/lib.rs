//! `vmrun bench`: whole commands, from their first instruction to their exit code.
//!
//! ```text
//!   Request ─▶ Side (a command to run) ─▶ rounds, alternating ─▶ Sample ─▶ Report ─▶ text, JSON, HTML
//!                                            │                              └─▶ against an earlier one
//!                                            └─ time; what the kernel counts; vmrun's own timeline
//! ```
//!
//! Commands take turns run by run, so that whatever else the machine does hits all of them alike; what is
//! said of two is the median of the ratios of runs that stood side by side. Beside the time stands what does
//! not depend on the machine's speed.

mod baseline;
mod bundle;
mod command;
mod counters;
mod density;
mod error;
mod host;
mod pss;
mod report;
mod rounds;
mod sandbox;
mod side;
mod stats;

pub use baseline::{Verdict, against};
pub use bundle::{Minimal, Program};
pub use command::CommandLine;
pub use density::{Density, DensityRequest, density};
pub use error::MeasureError;
pub use pss::Memory;
pub use report::{Comparison, Host, PhaseSummary, Report, Side as MeasuredSide, density_text, html, text};
pub use rounds::{Progress, Request, measure};
pub use sandbox::Sandbox;
pub use side::{OfVmrun, Side};
pub use stats::{Interval, Summary};

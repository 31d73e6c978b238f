//! What a launcher waits for, and for how long.
//!
//! ```text
//!   spawn ───────────────────────▶ booted ──▶ created ──▶ started ──▶ end, which may take as long as it likes
//!     └──▶ prepared ──▶ hooked ──────▲ where there are hooks, which have limits of their own
//! ```

use std::time::{Duration, Instant};

use vmrun_spec::MonitorMessage;

use super::LaunchError;

/// For each step: longer than the monitor's own waits for the guest, so that it is the
/// monitor who says that the guest does not answer.
const LIMIT: Duration = Duration::from_secs(75);

/// The monitor's next word.
#[derive(Debug)]
pub(super) struct Awaited {
    /// What the monitor has to do before; nothing once the program runs.
    step: Option<&'static str>,
    deadline: Instant,
}

impl Awaited {
    /// Of a monitor that was just started.
    pub(super) fn first() -> Self {
        Self { step: Some("boot the guest"), deadline: Instant::now() + LIMIT }
    }

    /// After this word.
    pub(super) fn after(message: &MonitorMessage) -> Self {
        let step = match message {
            MonitorMessage::Hooked => return Self::first(),
            MonitorMessage::Booted => Some("make the container"),
            MonitorMessage::Created => Some("start the program"),
            MonitorMessage::Prepared
            | MonitorMessage::Started
            | MonitorMessage::Notified(_)
            | MonitorMessage::Ready
            | MonitorMessage::Ended { .. }
            | MonitorMessage::Failed(_) => None,
        };
        Self { step, deadline: Instant::now() + LIMIT }
    }

    /// How long it may still be waited; `None` for ever.
    pub(super) fn left(&self) -> Option<Duration> {
        self.step.map(|_| self.deadline.saturating_duration_since(Instant::now()))
    }

    /// What became of it when nothing is left.
    pub(super) fn missed(&self, pid: i32) -> Option<LaunchError> {
        let what = self.step?;
        let late = Instant::now() >= self.deadline;
        late.then_some(LaunchError::Late { who: "monitor", pid, what, limit: LIMIT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_limit_and_the_program_none() {
        let words = [MonitorMessage::Hooked, MonitorMessage::Booted];
        for awaited in words.iter().map(Awaited::after).chain([Awaited::first()]) {
            assert!(awaited.left() > Some(LIMIT / 2) && awaited.missed(1).is_none());
        }
        let passed = Awaited { deadline: Instant::now(), ..Awaited::after(&MonitorMessage::Created) };
        assert_eq!(passed.left(), Some(Duration::ZERO));
        let error = passed.missed(42).unwrap().to_string();
        assert_eq!(error, "timed out after 75 s waiting for the monitor, process 42, to start the program");
        for word in [MonitorMessage::Prepared, MonitorMessage::Started] {
            let endless = Awaited { deadline: Instant::now(), ..Awaited::after(&word) };
            assert!(endless.left().is_none() && endless.missed(42).is_none());
        }
    }
}

//! The states of a container and the moves between them.
//!
//! ```text
//!   creating ──▶ created ──▶ running ◀──▶ paused
//!       │           │           │            │
//!       └───────────┴─────▶ stopped ◀────────┘
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a container, as the OCI specification names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The sandbox boots.
    Creating,
    /// The container exists; its program waits.
    Created,
    /// The program runs.
    Running,
    /// The program is frozen.
    Paused,
    /// The program has ended, or the monitor is gone.
    Stopped,
}

const MOVES: &[(Status, Status)] = &[
    (Status::Creating, Status::Created),
    (Status::Creating, Status::Stopped),
    (Status::Created, Status::Running),
    (Status::Created, Status::Stopped),
    (Status::Running, Status::Paused),
    (Status::Running, Status::Stopped),
    (Status::Paused, Status::Running),
    (Status::Paused, Status::Stopped),
];

impl Status {
    /// Whether a container may go from this state to `next`.
    pub fn may_become(self, next: Self) -> bool {
        MOVES.contains(&(self, next))
    }

    /// Whether its processes can get signals.
    pub fn takes_signals(self) -> bool {
        matches!(self, Self::Created | Self::Running | Self::Paused)
    }

    /// Whether it can be deleted without force.
    pub fn is_deletable(self) -> bool {
        matches!(self, Self::Stopped | Self::Created)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{Created, Creating, Paused, Running, Stopped};

    #[test]
    fn nothing_leaves_stopped_and_nothing_starts_twice() {
        for next in [Creating, Created, Running, Paused, Stopped] {
            assert!(!Stopped.may_become(next));
            assert!(!next.may_become(next));
            assert_eq!(next.may_become(Stopped), next != Stopped);
        }
        assert!(Created.may_become(Running));
        assert!(!Creating.may_become(Running));
        assert!(Paused.may_become(Running));
    }
}

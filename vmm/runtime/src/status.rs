//! The states of a container, the moves between them, and what may be done in each.
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

use Status::{Created, Creating, Paused, Running, Stopped};

const MOVES: &[(Status, Status)] = &[
    (Creating, Created),
    (Creating, Stopped),
    (Created, Running),
    (Created, Stopped),
    (Running, Paused),
    (Running, Stopped),
    (Paused, Running),
    (Paused, Stopped),
];

/// What a verb does to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Let the program run.
    Start,
    /// Send a signal.
    Signal,
    /// Remove the container without force.
    Delete,
    /// Run one more process.
    Exec,
    /// Freeze it.
    Pause,
    /// Let it go on.
    Resume,
    /// Change its limits.
    Update,
    /// Look at its processes and figures.
    Look,
}

impl Act {
    /// The states in which it is possible.
    fn states(self) -> &'static [Status] {
        match self {
            Self::Start => &[Created],
            Self::Signal | Self::Look => &[Created, Running, Paused],
            Self::Delete => &[Created, Stopped],
            Self::Update => &[Created, Running, Paused],
            Self::Exec => &[Created, Running],
            Self::Pause => &[Running],
            Self::Resume => &[Paused],
        }
    }

    /// What the user can do when it is not possible in this state.
    pub(crate) fn next_step(self, status: Status) -> &'static str {
        match (self, status) {
            (_, Creating) => "wait until it is created",
            (Self::Exec, Paused) => "or let it go on with `vmrun resume`",
            (Self::Delete, _) => "stop it with `vmrun kill`, or use --force",
            (_, Stopped) => "a stopped container can only be deleted",
            (Self::Start, _) => "it was started before; nothing is to be done",
            (Self::Pause | Self::Resume, Created) => "start it with `vmrun start`",
            (Self::Resume, _) => "it goes on already; nothing is to be done",
            (Self::Pause, _) => "nothing is to be done",
            (_, Paused) => "let it go on with `vmrun resume`",
            _ => "`vmrun state` shows its state",
        }
    }
}

impl Status {
    /// Whether a container may go from this state to `next`.
    pub fn may_become(self, next: Self) -> bool {
        MOVES.contains(&(self, next))
    }

    /// Whether `act` is possible.
    pub fn allows(self, act: Act) -> bool {
        act.states().contains(&self)
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
    use super::*;

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

    #[test]
    fn acts_that_move_a_container_are_possible_where_the_move_is() {
        for from in [Creating, Created, Running, Paused, Stopped] {
            assert_eq!(from.allows(Act::Pause), from.may_become(Paused));
            assert_eq!(from.allows(Act::Start) || from.allows(Act::Resume), from.may_become(Running));
            assert!(!Creating.allows(Act::Signal) && !Stopped.allows(Act::Signal));
        }
        assert!(Stopped.allows(Act::Delete) && Created.allows(Act::Delete) && !Running.allows(Act::Delete));
    }
}

//! What a sandbox's network hangs on while it runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::alone::Connected;
use super::follower::Follower;
use super::passt::PasstError;
use crate::agent_client::{AgentError, Watch};

/// One of the two.
pub(crate) enum Attached {
    /// A namespace, which is followed.
    Namespace(Box<Follower>),
    /// passt, which goes with the sandbox and the sandbox with it.
    Passt(Connected),
}

/// Why the sandbox cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("cannot follow the network namespace")]
    News(#[source] io::Error),
    #[error(transparent)]
    Passt(#[from] PasstError),
}

impl Attached {
    /// The guest has the network that it was to be made with.
    pub(crate) fn begun(&mut self, watch: Watch<'_>) -> Result<(), AgentError> {
        match self {
            Self::Namespace(follower) => follower.begun(watch),
            Self::Passt(_) => Ok(()),
        }
    }

    /// Something has happened.
    pub(crate) fn news_came(&mut self) -> Result<(), Lost> {
        match self {
            Self::Namespace(follower) => follower.news_came().map_err(Lost::News),
            Self::Passt(_) => Err(PasstError::Ended.into()),
        }
    }

    /// The guest will stand still: nobody there answers until it [goes on](Self::go_on).
    pub(crate) fn hold(&self) -> Result<(), Lost> {
        match self {
            Self::Namespace(follower) => follower.hold().map_err(Lost::News),
            Self::Passt(_) => Ok(()),
        }
    }

    /// It does not any more.
    pub(crate) fn go_on(&mut self) -> Result<(), Lost> {
        match self {
            Self::Namespace(follower) => follower.go_on().map_err(Lost::News),
            Self::Passt(_) => Ok(()),
        }
    }

    /// The program has ended: passt takes nobody's connections any more, and the guest is told of nothing. What is left are the
    /// interfaces that end in the machine.
    pub(crate) fn leave(self) -> Option<Box<Follower>> {
        match self {
            Self::Namespace(mut follower) => {
                follower.leave();
                Some(follower)
            }
            Self::Passt(_) => None,
        }
    }

    /// Returns when the guest has what there is now. The inner error says what it cannot have.
    pub(crate) fn settle(&mut self, watch: Watch<'_>) -> Result<Result<(), String>, AgentError> {
        match self {
            Self::Namespace(follower) => follower.settle(watch),
            Self::Passt(_) => Ok(Ok(())),
        }
    }
}

/// Readable when something has happened.
impl AsFd for Attached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Namespace(follower) => follower.as_fd(),
            Self::Passt(connected) => connected.as_fd(),
        }
    }
}

//! What both ends of a conversation begin with.
//!
//! ```text
//!   verb                                     monitor
//!     greeting, request  ───────────────────▶
//!        ◀────────────  greeting, reply, and what is told afterwards
//! ```
//!
//! Monitors are as old as their containers. One of before there were greetings is asked without, as its state says
//! ([`State::control_version`](crate::store::State)), and a verb of then, which does not greet, is not greeted.
//!
//! The conversation is append-only, as the agent's: `agent/proto/VERSIONING.md`. `schema/` has one of each message.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Of the conversation. It grows with each message that an older peer must not be sent.
pub(crate) const VERSION: u32 = 2;

/// What a state without a version means: nobody greets.
pub(crate) const BEFORE_GREETINGS: u32 = 1;

/// Who speaks. Later ones may say more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    hello: Speaker,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Speaker {
    version: u32,
    program: String,
}

impl Greeting {
    /// This program's.
    pub(crate) fn ours() -> Self {
        Self { hello: Speaker { version: VERSION, program: env!("CARGO_PKG_VERSION").to_owned() } }
    }

    /// Whether the other end knows messages that this program does not.
    pub(crate) fn is_newer(&self) -> bool {
        self.hello.version > VERSION
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Speaker { version, program } = &self.hello;
        // Whoever listens at the socket has said it.
        write!(f, "vmrun {} with version {version} of the control socket", program.escape_default())
    }
}

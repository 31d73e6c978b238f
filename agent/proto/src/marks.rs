//! How the guest says how far a start has come, if it is asked to: by bytes to an I/O port, each of
//! which leaves the guest at once, so that the host can stamp it with its own clock.

/// The I/O port; a PC has nothing there.
pub const MARK_PORT: u16 = 0xe8;

/// The variable in the agent's environment that asks for it: a parameter of the kernel's that it does
/// not know itself.
pub const MARK_VARIABLE: &str = "VMRUN_MARKS";

/// How far the guest has come. The codes are never used again for another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GuestMark {
    /// The kernel has started the agent.
    AgentBegins = 1,
    /// The agent takes requests.
    AgentReady = 2,
    /// The agent has the order for the container.
    ContainerOrdered = 3,
    /// The container's first process exists and waits for its start.
    ContainerMade = 4,
    /// That process has become the program.
    ProgramRuns = 5,
    /// The program has ended.
    ProgramEnded = 6,
}

impl GuestMark {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AgentBegins,
        Self::AgentReady,
        Self::ContainerOrdered,
        Self::ContainerMade,
        Self::ProgramRuns,
        Self::ProgramEnded,
    ];

    /// The byte that says it.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What the byte says; nothing where a newer agent says it.
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mark| mark.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_one_thing_each() {
        let said: Vec<_> = (0..=u8::MAX).filter_map(GuestMark::of).collect();
        assert_eq!(said, GuestMark::ALL);
    }
}

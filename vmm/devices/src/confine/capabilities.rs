//! The capabilities that a thread keeps.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

pub(super) type Capabilities = CapabilitySet;

/// To make files as any of their owners would. `SYS_ADMIN` is for extended attributes whose names
/// begin with `trusted.` or `security.`; what else it allows the filter forbids. `DAC_READ_SEARCH`
/// is not there: `DAC_OVERRIDE` reads as well, and does not open files by their handles.
pub(super) const OWNERSHIP: Capabilities = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// Drops all but `kept`, of which the thread may have some, or none. The inheritable ones go
/// altogether, and the ambient ones with them (capabilities(7)).
pub(super) fn keep(kept: Capabilities) -> Result<(), Errno> {
    let had = capabilities(None)?;
    let sets = CapabilitySets {
        effective: had.effective & kept,
        permitted: had.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}

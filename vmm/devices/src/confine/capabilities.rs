//! The capabilities that a thread keeps.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, set_capabilities,
    set_capabilities_secure_bits,
};
use vmrun_spec::Authority;

pub(super) type Capabilities = CapabilitySet;

/// To make files as any of their owners would. `DAC_READ_SEARCH` is not there: `DAC_OVERRIDE` reads as well,
/// and does not open files by their handles.
pub(super) const OWNERSHIP: Capabilities = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// To do to files what `authority` allows. `SYS_ADMIN` is for extended attributes whose names begin with
/// `trusted.` or `security.`; what else it allows the filter forbids.
pub(super) fn of_files(authority: Authority) -> Capabilities {
    let mut capabilities = OWNERSHIP;
    capabilities.set(CapabilitySet::MKNOD, authority.device_nodes);
    capabilities.set(CapabilitySet::SETFCAP, authority.file_capabilities);
    capabilities.set(CapabilitySet::SYS_ADMIN, authority.attributes);
    capabilities
}

/// Whoever makes a file in the guest may have rights there beyond those of its user, as root of a user namespace
/// has: the guest's kernel has decided that before it asks. So the thread, which makes files as that user,
/// has its capabilities meanwhile as well.
fn keep_as_another_user() -> Result<(), Errno> {
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
}

/// Drops all but `kept`, of which the thread may have some, or none. The inheritable ones go
/// altogether, and the ambient ones with them (capabilities(7)).
pub(super) fn keep(kept: Capabilities) -> Result<(), Errno> {
    let had = capabilities(None)?;
    if kept.contains(CapabilitySet::SETUID) && had.effective.contains(CapabilitySet::SETPCAP) {
        keep_as_another_user()?;
    }
    let sets = CapabilitySets {
        effective: had.effective & kept,
        permitted: had.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}

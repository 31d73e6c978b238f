//! Rules of the interface before nf_tables, as `iptables-legacy` makes them. The guest's kernel has no such tables, so
//! the namespace may have none that decides on anything.
//!
//! ```text
//!   names of tables ─▶ entries of each, as the kernel keeps them ─▶ does one of them decide? (pure)
//! ```

mod entries;
mod system;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use entries::Shape;
use system::Table;

/// Who tells which tables have been made in this thread's namespace; the files are not there where the kernel has not
/// loaded that interface.
const FAMILIES: [(&str, Shape); 2] = [
    ("/proc/thread-self/net/ip_tables_names", Shape::V4),
    ("/proc/thread-self/net/ip6_tables_names", Shape::V6),
];

/// Whether this thread's namespace has such tables, whatever is in them: the kernel does not tell of changes. True
/// where that cannot be known.
pub(in super::super) fn are_there() -> bool {
    FAMILIES.iter().any(|(file, _)| match std::fs::read(file) {
        Err(error) => error.kind() != io::ErrorKind::NotFound,
        Ok(names) => !names.is_empty(),
    })
}

/// The names of the tables with rules that the guest would need, in the namespace of this thread. What serves only the
/// name servers `servers` it does without.
///
/// # Errors
/// The kernel does not show the rules.
pub(super) fn tables(servers: &[IpAddr]) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (file, shape) in FAMILIES {
        let names = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            names => names?,
        };
        for name in names.lines() {
            let table = Table::read(shape.is_ipv6(), name)?;
            if entries::decide(&table.entries, shape, servers) {
                found.insert(name.to_owned());
            }
        }
    }
    Ok(found)
}

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

/// What is known of them.
#[derive(Debug)]
pub(in super::super) enum Legacy {
    /// The names of the tables with rules that the guest would need.
    Tables(BTreeSet<String>),
    /// This process may not see which tables there are.
    Hidden(io::Error),
    /// There are some, of which it is not known what they hold.
    Unread(io::Error),
}

impl Default for Legacy {
    fn default() -> Self {
        Self::Tables(BTreeSet::new())
    }
}

/// What there is in the namespace of this thread. What serves only the name servers `servers` the guest does without.
pub(super) fn tables(servers: &[IpAddr]) -> Legacy {
    let mut found = BTreeSet::new();
    let mut unknown = None;
    for (file, shape) in FAMILIES {
        let names = match names(|| std::fs::read_to_string(file)) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                unknown = unknown.or(Some(Legacy::Hidden(error)));
                continue;
            }
            Err(error) => {
                unknown = Some(Legacy::Unread(error));
                continue;
            }
        };
        for name in names.lines() {
            match Table::read(shape.is_ipv6(), name) {
                Ok(table) if entries::decide(&table.entries, shape, servers) => {
                    found.insert(name.to_owned());
                }
                Ok(_) => {}
                // It has gone since, with the module that has made it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => unknown = Some(Legacy::Unread(error)),
            }
        }
    }
    // What is known to be in the way is so whatever else there is.
    match unknown {
        Some(unknown) if found.is_empty() => unknown,
        _ => Legacy::Tables(found),
    }
}

/// The names that `read` gives; none where the kernel has no such tables. One that is not to be had for the moment is
/// asked once more.
fn names(mut read: impl FnMut() -> io::Result<String>) -> io::Result<String> {
    let names = match read() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => read(),
        names => names,
    };
    match names {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        names => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_not_there_names_nothing_and_one_that_is_busy_is_read_again() {
        let not_there = names(|| Err(io::ErrorKind::NotFound.into()));
        assert_eq!(not_there.unwrap(), "");
        let busy = |times| {
            let mut asked = 0;
            move || {
                asked += 1;
                if asked <= times { Err(io::ErrorKind::WouldBlock.into()) } else { Ok("nat\n".to_owned()) }
            }
        };
        assert_eq!(names(busy(1)).unwrap(), "nat\n");
        assert_eq!(names(busy(2)).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let hidden = names(|| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(hidden.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}

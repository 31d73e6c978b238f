//! What a hook says: nobody hears it, unless it fails.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;

/// Of each stream as much is told.
const LONGEST: usize = 4096;

/// A hook's output, in memory files: it has to wait for nobody who reads them.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stdout: File,
    pub(super) stderr: File,
}

impl Output {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { stdout: file(c"vmrun-hook-stdout")?, stderr: file(c"vmrun-hook-stderr")? })
    }

    /// What it has said so far.
    pub(super) fn said(&self) -> Box<Said> {
        Box::new(Said { stdout: end_of(&self.stdout), stderr: end_of(&self.stderr) })
    }
}

fn file(name: &std::ffi::CStr) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// The end tells most. What cannot be read changes nothing.
fn end_of(file: &File) -> String {
    let length = fstat(file).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or_default();
    let first = length.saturating_sub(LONGEST.try_into().unwrap_or(u64::MAX));
    let mut bytes = vec![0; LONGEST];
    let count = file.read_at(&mut bytes, first).unwrap_or_default();
    bytes.truncate(count);
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if first > 0 { format!("...{text}") } else { text }
}

/// Both streams, in runc's form.
#[derive(Debug)]
pub(crate) struct Said {
    stdout: String,
    stderr: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", stdout: {}, stderr: {}", self.stdout, self.stderr)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn end_of_long_talk_is_kept() {
        let mut output = Output::new().unwrap();
        output.stdout.write_all(b"short\n").unwrap();
        output.stderr.write_all("x".repeat(LONGEST).as_bytes()).unwrap();
        output.stderr.write_all(b"the end\n").unwrap();
        let said = output.said().to_string();
        assert!(said.starts_with(", stdout: short, stderr: ...xxx"), "{said}");
        assert!(said.ends_with("xthe end") && said.len() < LONGEST + 64, "{said}");
    }
}

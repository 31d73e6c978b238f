//! What the kernel has to say of a disk: file systems tell in its log alone why they do not take an image.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

const LOG: &str = "/dev/kmsg";

/// A record of the log is no longer (`CONSOLE_EXT_LOG_MAX`).
const RECORD_BYTES: usize = 8192;

/// The log from a moment on.
pub(super) struct KernelLog(File);

impl KernelLog {
    pub(super) fn from_here() -> io::Result<Self> {
        let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(LOG)?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self(log))
    }

    /// The last record since then that names `device`.
    pub(super) fn last_about(mut self, device: &str) -> Option<String> {
        let mut record = [0; RECORD_BYTES];
        let mut last = None;
        loop {
            match self.0.read(&mut record) {
                Ok(length) if length > 0 => {
                    let text = String::from_utf8_lossy(record.get(..length)?).into_owned();
                    last = message(&text).filter(|message| message.contains(device)).or(last);
                }
                // Some were overwritten before they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                _ => return last,
            }
        }
    }
}

/// `PRIORITY,NUMBER,TIME,FLAGS;MESSAGE`, and lines with properties behind it.
fn message(record: &str) -> Option<String> {
    Some(record.split_once(';')?.1.lines().next()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_stands_behind_what_the_log_says_of_it() {
        let record = "3,339,5140900,-;EXT4-fs (vda): no; journal\n SUBSYSTEM=block\n";
        assert_eq!(message(record).as_deref(), Some("EXT4-fs (vda): no; journal"));
        assert_eq!(message("nothing"), None);
    }
}

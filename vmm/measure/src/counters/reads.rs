//! What commands have read, by the account that the kernel keeps (`proc_pid_io(5)`).

use std::fs;
use std::io;

/// Bytes that children of this process, and theirs, have read with system calls, from whatever: once one is waited for, the account of
/// the process has what it has read, and that of the thread has not.
pub(super) fn of_ended_children() -> io::Result<u64> {
    let all = read("/proc/self/io")?;
    Ok(all.saturating_sub(read("/proc/thread-self/io")?))
}

fn read(account: &str) -> io::Result<u64> {
    parse(&fs::read_to_string(account)?).ok_or(io::ErrorKind::InvalidData.into())
}

fn parse(account: &str) -> Option<u64> {
    account.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn account_is_read() {
        assert_eq!(parse("rchar: 12\nwchar: 7\nread_bytes: 4096\n"), Some(12));
        assert_eq!(parse("wchar: 7\n"), None);
    }

    #[test]
    fn what_a_grandchild_has_read_is_counted() {
        let before = of_ended_children().unwrap();
        let status = Command::new("sh").args(["-c", "head -c 1000000 /dev/zero >/dev/null; exit 0"]).status();
        assert!(status.unwrap().success());
        assert!(of_ended_children().unwrap() - before >= 1_000_000);
    }
}

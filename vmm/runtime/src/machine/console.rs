//! The guest's console when its machine cannot be asked any more: the log on the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// So much of the end is looked at.
const TAIL_BYTES: u64 = 16 << 10;

/// Its last lines, at most `lines`, oldest first, without what could play tricks on a terminal.
pub(super) fn tail(path: &Path, lines: usize) -> Vec<String> {
    let bytes = end_of(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let all: Vec<_> = text.lines().map(clean).filter(|line| !line.trim().is_empty()).collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().to_vec()
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Adds a line of vmrun's own. The machine's process writes no more.
pub(super) fn note(path: &Path, line: &str) -> io::Result<()> {
    let is_whole = end_of(path)?.last().is_none_or(|&last| last == b'\n');
    let start = if is_whole { "" } else { "\n" };
    // The log is there, or nobody wants it.
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(format!("{start}vmrun: {line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_clean_and_a_note_has_a_line_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        assert!(tail(&path, 2).is_empty() && note(&path, "lost").is_err());
        std::fs::write(&path, "one\r\n\ntwo\x1b[31m\nthree").unwrap();
        assert_eq!(tail(&path, 2), ["two[31m", "three"]);
        note(&path, "killed").unwrap();
        note(&path, "again").unwrap();
        assert_eq!(tail(&path, 3), ["three", "vmrun: killed", "vmrun: again"]);
    }
}

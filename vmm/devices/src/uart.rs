//! The guest's console: the transmit half of a 16550 UART.
//!
//! The guest kernel writes its log here with `earlyprintk`, from the first line
//! on, without a driver and without the probe of one (which costs more
//! instructions than the rest of the boot). Nothing is ever received.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};

/// The log file ends here: a hostile guest must not fill the host's disk.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The guest's last line in the file.
const FULL: &str = "the guest has printed 4 MiB; what it prints from here on is not kept here";

/// How many bytes of the end are kept in memory for error messages.
const TAIL_BYTES: usize = 16 << 10;

/// What a kernel that gives up prints first.
const PANIC_MARK: &[u8] = b"Kernel panic - not syncing";

/// Where the guest's console output goes: a file with a cap, and a tail in memory.
#[derive(Clone, Debug)]
pub struct ConsoleLog {
    state: Arc<Mutex<LogState>>,
}

#[derive(Debug)]
struct LogState {
    file: File,
    file_bytes: u64,
    is_full: bool,
    file_ends_line: bool,
    line: Vec<u8>,
    tail: VecDeque<u8>,
    panicked: bool,
}

impl ConsoleLog {
    /// Makes the log file, or empties it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let state = LogState {
            file,
            file_bytes: 0,
            is_full: false,
            file_ends_line: true,
            line: Vec::new(),
            tail: VecDeque::new(),
            panicked: false,
        };
        Ok(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// The last lines of the console, without control characters that could
    /// play tricks on a terminal.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let mut state = self.lock();
        state.finish_line();
        let bytes = state.tail.make_contiguous();
        let text = String::from_utf8_lossy(bytes);
        let all: Vec<String> = text
            .lines()
            .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
            .filter(|line| !line.trim().is_empty())
            .collect();
        all[all.len().saturating_sub(lines)..].to_vec()
    }

    /// Adds a line of the machine's own, which says what became of the guest. It has its place in the
    /// file even where the guest has filled that.
    pub fn note(&self, line: &str) {
        let mut state = self.lock();
        state.finish_line();
        state.note(line);
    }

    /// The guest kernel has printed that it panics.
    pub fn panicked(&self) -> bool {
        self.lock().panicked
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogState {
    fn push(&mut self, byte: u8) {
        self.line.push(byte);
        if byte == b'\n' || self.line.len() >= 1024 {
            self.finish_line();
        }
    }

    /// Lines go out whole: one write a line.
    fn finish_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.panicked |= line.windows(PANIC_MARK.len()).any(|window| window == PANIC_MARK);
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.file_bytes.saturating_add(length) <= MAX_FILE_BYTES {
            self.file_bytes = self.file_bytes.saturating_add(length);
            self.keep(line);
        } else {
            if !std::mem::replace(&mut self.is_full, true) {
                self.note(FULL);
            }
            self.remember(line);
        }
    }

    fn note(&mut self, line: &str) {
        // What the guest has left unfinished, in the file or in what is remembered, is finished.
        let ended = self.file_ends_line && self.tail.back().is_none_or(|&byte| byte == b'\n');
        let start = if ended { "" } else { "\n" };
        self.keep(format!("{start}vmrun: {line}\n").into_bytes());
    }

    fn keep(&mut self, line: Vec<u8>) {
        // The console must never stop the guest: a full disk costs log lines.
        let _ = self.file.write_all(&line);
        if let Some(&last) = line.last() {
            self.file_ends_line = last == b'\n';
        }
        self.remember(line);
    }

    fn remember(&mut self, line: Vec<u8>) {
        self.tail.extend(line);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
    }
}

impl Write for ConsoleLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        for &byte in bytes {
            state.push(byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing is received, so no interrupt is ever due.
#[derive(Clone, Copy, Debug)]
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = io::Error;
    fn trigger(&self) -> Result<(), io::Error> {
        Ok(())
    }
}

/// The UART's eight I/O ports.
#[derive(Debug)]
pub struct Uart {
    serial: Serial<NoInterrupt, NoEvents, ConsoleLog>,
}

impl Uart {
    /// Number of I/O ports.
    pub const PORTS: u16 = 8;

    /// A UART that prints into `log`.
    pub fn new(log: ConsoleLog) -> Self {
        Self { serial: Serial::new(NoInterrupt, log) }
    }

    /// `in` from port `offset`.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.serial.read(offset)
    }

    /// `out` to port `offset`.
    pub fn write(&mut self, offset: u8, value: u8) {
        // Fails only when the loop-back buffer is full, which nobody reads.
        let _ = self.serial.write(offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(uart: &mut Uart, text: &str) {
        for byte in text.bytes() {
            uart.write(0, byte);
        }
    }

    #[test]
    fn printed_lines_reach_file_and_tail() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let log = ConsoleLog::create(&path).unwrap();
        let mut uart = Uart::new(log.clone());
        print(&mut uart, "one\r\ntwo\x1b[31m\r\nthree");
        assert_eq!(log.tail(2), ["two[31m", "three"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\r\ntwo\x1b[31m\r\nthree");
        assert!(!log.panicked());
    }

    #[test]
    fn panic_line_is_recognised() {
        let directory = tempfile::tempdir().unwrap();
        let log = ConsoleLog::create(&directory.path().join("console.log")).unwrap();
        print(&mut Uart::new(log.clone()), "[ 0.1] Kernel panic - not syncing: no init\r\n");
        assert!(log.panicked());
    }

    #[test]
    fn endless_output_keeps_file_and_memory_small() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let mut log = ConsoleLog::create(&path).unwrap();
        for _ in 0..6 << 10 {
            log.write_all(&[b'x'; 1024]).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let most = usize::try_from(MAX_FILE_BYTES).unwrap();
        assert!(text.len() <= most + FULL.len() + 10 && text.matches(FULL).count() == 1);
        assert!(text.ends_with(&format!("xx\nvmrun: {FULL}\n")));
        assert!(log.lock().tail.len() <= TAIL_BYTES);
        log.note("virtio-rng: broken");
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("\nvmrun: virtio-rng: broken\n"));
        assert_eq!(log.tail(1), ["vmrun: virtio-rng: broken"]);
    }
}

//! A bundle with nothing in it but a program, for who names none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::error::MeasureError;

/// `exit(0)`
const EXIT: &[u8] = &[
    0x31, 0xff, // xor edi, edi
    0xb8, 0x3c, 0, 0, 0, // mov eax, 60 (exit)
    0x0f, 0x05, // syscall
];

/// Waits for ever.
const WAIT: &[u8] = &[
    0xb8, 0x22, 0, 0, 0, // mov eax, 34 (pause)
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the first
];

/// Where its text lies in memory, and how many bytes its headers have.
const ADDRESS: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// What the program of a bundle does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Ends at once.
    Exit,
    /// Waits for its end.
    Wait,
}

/// A bundle in a temporary directory, which goes with this value. In its root file system are `/exit`, which
/// ends at once, and `/wait`, which waits for its end; each has some 130 bytes.
#[derive(Debug)]
pub struct Minimal {
    place: TempDir,
}

impl Minimal {
    /// Makes it, with this program for the container.
    ///
    /// # Errors
    /// A file could not be written.
    pub fn make(program: Program) -> Result<Self, MeasureError> {
        let place = tempfile::Builder::new().prefix("vmrun-bench-").tempdir();
        let place = place.map_err(MeasureError::file("make a directory in", std::env::temp_dir()))?;
        let rootfs = place.path().join("rootfs");
        fs::create_dir(&rootfs).map_err(MeasureError::file("make", &rootfs))?;
        // Readable for whoever the container's processes are on the host.
        for directory in [place.path(), &rootfs] {
            allow(directory, 0o755)?;
        }
        for directory in ["proc", "dev", "sys"] {
            let path = rootfs.join(directory);
            fs::create_dir(&path).map_err(MeasureError::file("make", &path))?;
        }
        for (name, code) in [("exit", EXIT), ("wait", WAIT)] {
            let path = rootfs.join(name);
            write(&path, &executable(code))?;
            allow(&path, 0o755)?;
        }
        write(&place.path().join("config.json"), config(program).as_bytes())?;
        Ok(Self { place })
    }

    /// The bundle's directory.
    pub fn path(&self) -> PathBuf {
        self.place.path().to_owned()
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), MeasureError> {
    fs::write(path, bytes).map_err(MeasureError::file("write", path))
}

fn allow(path: &Path, mode: u32) -> Result<(), MeasureError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(MeasureError::file("set the mode of", path))
}

/// What any runtime takes.
fn config(program: Program) -> String {
    let program = match program {
        Program::Exit => "/exit",
        Program::Wait => "/wait",
    };
    let namespaces: Vec<_> =
        ["pid", "mount", "ipc", "uts", "network"].iter().map(|kind| json!({"type": kind})).collect();
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": [program], "env": ["PATH=/"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces},
    });
    format!("{config:#}\n")
}

/// A static ELF executable with one segment, which is the whole file (System V ABI, AMD64; `elf(5)`).
fn executable(code: &[u8]) -> Vec<u8> {
    let size = HEADERS + u64::try_from(code.len()).unwrap_or_default();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let halves =
        |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    let words =
        |file: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    let longs =
        |file: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    // e_type: executable; e_machine: x86-64; e_version.
    halves(&mut file, &[2, 62]);
    words(&mut file, &[1]);
    // e_entry, e_phoff, e_shoff; e_flags; then the sizes and numbers of headers.
    longs(&mut file, &[ADDRESS + HEADERS, 64, 0]);
    words(&mut file, &[0]);
    halves(&mut file, &[64, 56, 1, 64, 0, 0]);
    // p_type: load; p_flags: read and execute; p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
    words(&mut file, &[1, 5]);
    longs(&mut file, &[0, ADDRESS, ADDRESS, size, size, 0x1000]);
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn program_that_ends_at_once_does_and_the_other_waits() {
        let bundle = Minimal::make(Program::Exit).unwrap();
        let status = Command::new(bundle.path().join("rootfs/exit")).status().unwrap();
        assert!(status.success());
        let mut waiting = Command::new(bundle.path().join("rootfs/wait")).spawn().unwrap();
        assert_eq!(waiting.try_wait().unwrap(), None);
        waiting.kill().unwrap();
        waiting.wait().unwrap();
    }

    #[test]
    fn bundle_names_its_program_and_is_gone_with_its_value() {
        let bundle = Minimal::make(Program::Wait).unwrap();
        let path = bundle.path();
        let config = fs::read_to_string(path.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["process"]["args"][0], "/wait");
        drop(bundle);
        assert!(!path.exists());
    }
}

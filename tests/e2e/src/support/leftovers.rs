//! What a sandbox may have left behind on the host.

use std::fs;
use std::path::{Path, PathBuf};

/// Everything on this host that still speaks of a container.
pub(crate) fn of(id: &str, store: &Path, bundle: &Path) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(processes(id).into_iter().map(|(pid, line)| format!("process {pid}: {line}")));
    let entry = store.join(id);
    if entry.symlink_metadata().is_ok() {
        found.push(format!("directory {}", entry.display()));
    }
    let bundle = bundle.display().to_string();
    let names = |line: &str| line.contains(id) || line.contains(&bundle);
    for table in ["/proc/self/mountinfo", "/proc/net/unix"] {
        let text = fs::read_to_string(table).unwrap();
        found.extend(text.lines().filter(|line| names(line)).map(|line| format!("{table}: {line}")));
    }
    found.extend(
        cgroups(Path::new("/sys/fs/cgroup"), id).iter().map(|path| format!("cgroup {}", path.display())),
    );
    found
}

/// Live processes with the container's id among their arguments.
pub(crate) fn processes(id: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ends meanwhile has no arguments any more, as a zombie.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let arguments: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        if arguments.iter().any(|argument| argument == id) {
            found.push((pid, arguments.join(" ")));
        }
    }
    found
}

fn cgroups(directory: &Path, id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(id) {
            found.push(entry.path());
        } else {
            found.extend(cgroups(&entry.path(), id));
        }
    }
    found
}

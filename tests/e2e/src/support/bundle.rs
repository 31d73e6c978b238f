//! Bundles, made by what differs from an ordinary one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::place::place;
use super::run::{BOTH, Outcome, Run, Runtime};

/// A bundle in a directory of its own. The configuration is `runc spec`'s, without a terminal.
#[derive(Debug)]
pub(crate) struct Bundle {
    directory: TempDir,
    config: Value,
}

impl Bundle {
    /// A busybox of its own, which it may write into, and a script for its shell.
    pub(crate) fn shell(script: &str) -> Self {
        let bundle = Self::empty(&json!({ "path": "rootfs", "readonly": false })).args(&["sh", "-c", script]);
        let copied =
            Command::new("cp").arg("-a").arg(&place().busybox).arg(bundle.rootfs()).status().unwrap();
        assert!(copied.success());
        bundle
    }

    /// The Debian root file system, read-only since it is shared, with a `/tmp`, and a script for its shell.
    pub(crate) fn debian(script: &str) -> Self {
        Self::empty(&json!({ "path": place().debian, "readonly": true }))
            .args(&["sh", "-c", script])
            .mount(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }))
    }

    /// The same with a program for its python3.
    pub(crate) fn python(program: &str) -> Self {
        Self::debian("").args(&["python3", "-c", program])
    }

    /// A script on each of the sample root file systems.
    pub(crate) fn shells(script: &str) -> [Self; 2] {
        [Self::shell(script), Self::debian(script)]
    }

    /// A bundle whose root is `path`, as the configuration shall have it.
    pub(crate) fn with_root(path: &Path) -> Self {
        Self::empty(&json!({ "path": path, "readonly": false }))
    }

    fn empty(root: &Value) -> Self {
        let directory = tempfile::Builder::new().prefix("bundle-").tempdir().unwrap();
        // The container's users pass through it.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let bundle = Self { directory, config: ordinary(root) };
        bundle.write();
        bundle
    }

    /// What the program is called with.
    pub(crate) fn args(self, args: &[&str]) -> Self {
        self.set("/process/args", json!(args))
    }

    /// One more environment variable, `NAME=value`.
    pub(crate) fn env(self, entry: &str) -> Self {
        self.push("/process/env", json!(entry))
    }

    /// These capabilities in every set but the ambient one.
    pub(crate) fn capabilities(mut self, names: &[&str]) -> Self {
        for set in ["bounding", "effective", "permitted"] {
            self = self.set(&format!("/process/capabilities/{set}"), json!(names));
        }
        self
    }

    /// One more mount, behind those that are there.
    pub(crate) fn mount(self, mount: Value) -> Self {
        self.push("/mounts", mount)
    }

    /// A bind mount.
    pub(crate) fn bind(self, source: &Path, destination: &str, options: &[&str]) -> Self {
        let options: Vec<_> = ["rbind"].iter().chain(options).collect();
        self.mount(
            json!({ "destination": destination, "type": "bind", "source": source, "options": options }),
        )
    }

    /// Sets the value at a JSON pointer and makes the objects on the way to it.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        *self.slot(pointer) = value;
        self.write();
        self
    }

    /// Takes the value at a JSON pointer away.
    pub(crate) fn remove(mut self, pointer: &str) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.slot(parent).as_object_mut().unwrap().remove(name).unwrap();
        self.write();
        self
    }

    /// Appends to the list at a JSON pointer; none is made where there is none.
    pub(crate) fn push(mut self, pointer: &str, value: Value) -> Self {
        let slot = self.slot(pointer);
        if slot.is_null() {
            *slot = json!([]);
        }
        slot.as_array_mut().unwrap().push(value);
        self.write();
        self
    }

    fn slot(&mut self, pointer: &str) -> &mut Value {
        pointer.split('/').skip(1).fold(&mut self.config, |value, name| match value {
            Value::Array(list) => &mut list[name.parse::<usize>().unwrap()],
            other => &mut other[name],
        })
    }

    /// The configuration as text.
    pub(crate) fn config(&self) -> String {
        fs::read_to_string(self.path().join("config.json")).unwrap()
    }

    fn write(&self) {
        let text = serde_json::to_string_pretty(&self.config).unwrap();
        fs::write(self.path().join("config.json"), text).unwrap();
    }

    /// The bundle's directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its own root file system.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// `vmrun run` of it, to the end.
    #[track_caller]
    pub(crate) fn run(&self) -> Outcome {
        self.run_on(Runtime::Vmrun)
    }

    /// The same by the runtime of choice.
    #[track_caller]
    pub(crate) fn run_on(&self, runtime: Runtime) -> Outcome {
        Run::of(self).on(runtime).finish()
    }

    /// Runs it on crun, then on vmrun: what one accepts the other must.
    #[track_caller]
    pub(crate) fn on_both(&self, check: impl Fn(&Outcome)) {
        for runtime in BOTH {
            check(&self.run_on(runtime));
        }
    }
}

/// What `runc spec` writes.
fn ordinary(root: &Value) -> Value {
    let few = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": few, "effective": few, "permitted": few },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": root,
        "hostname": "sandbox",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

//! Namespaces: those to make, and those to join.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset, Spec};

use super::words;

const TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// Those that a process enters for its children, and not for itself.
const FOR_CHILDREN: [CloneFlags; 2] = [TIME, CloneFlags::CLONE_NEWPID];

/// The others, in the order in which they are joined: nothing is looked up in the guest's mounts afterwards.
const OWN: [CloneFlags; 5] = [
    CloneFlags::CLONE_NEWUTS,
    CloneFlags::CLONE_NEWIPC,
    CloneFlags::CLONE_NEWNET,
    CloneFlags::CLONE_NEWCGROUP,
    CloneFlags::CLONE_NEWNS,
];

/// A process's namespaces.
pub(super) struct Namespaces {
    made: CloneFlags,
    joined: Vec<(CloneFlags, File)>,
}

impl Namespaces {
    /// Those of the configuration. What is to be joined is opened, while it may be.
    pub(super) fn open(spec: &Spec) -> Result<Self, String> {
        let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let mut namespaces = Self { made: CloneFlags::empty(), joined: Vec::new() };
        for namespace in all {
            let kind = flag(namespace.typ());
            match namespace.path() {
                None => namespaces.made |= kind,
                Some(_) => namespaces.joined.push((kind, open(namespace)?)),
            }
        }
        Ok(namespaces)
    }

    pub(super) fn have_user(&self) -> bool {
        self.has(CloneFlags::CLONE_NEWUSER)
    }

    /// Whether the process has a namespace of this kind that is not the guest's.
    pub(super) fn has(&self, kind: CloneFlags) -> bool {
        self.made.contains(kind) || self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    pub(super) fn makes(&self, kind: CloneFlags) -> bool {
        self.made.contains(kind)
    }

    pub(super) fn join_user(&self) -> Result<(), String> {
        self.join(CloneFlags::CLONE_NEWUSER)
    }

    /// What a child of this process is in, with `offsets`, if they are open already.
    pub(super) fn enter_for_children(&self, spec: &Spec, offsets: Option<File>) -> Result<(), String> {
        FOR_CHILDREN.into_iter().try_for_each(|kind| self.join(kind))?;
        let made = self.made & FOR_CHILDREN.into_iter().collect();
        make(made)?;
        let offsets = if offsets.is_none() { self.open_offsets(spec)? } else { offsets };
        offsets.map_or(Ok(()), |file| write_offsets(file, spec))
    }

    /// What the process itself is in.
    pub(super) fn enter(&self) -> Result<(), String> {
        OWN.into_iter().try_for_each(|kind| self.join(kind))?;
        make(self.made & OWN.into_iter().collect())
    }

    fn join(&self, kind: CloneFlags) -> Result<(), String> {
        let mut joined = self.joined.iter().filter(|(joined, _)| *joined == kind);
        joined.try_for_each(|(kind, file)| {
            setns(file, *kind)
                .map_err(|error| format!("cannot join the {} namespace: {}", name(*kind), words(error)))
        })
    }

    /// Where the clocks of a time namespace that this process makes for its children are set; `None` where
    /// none is to be.
    pub(super) fn open_offsets(&self, spec: &Spec) -> Result<Option<File>, String> {
        if !self.made.contains(TIME) || offsets(spec).is_empty() {
            return Ok(None);
        }
        OpenOptions::new().write(true).open("/proc/self/timens_offsets").map(Some).map_err(about_offsets)
    }
}

fn open(namespace: &LinuxNamespace) -> Result<File, String> {
    let path = namespace.path().clone().unwrap_or_default();
    File::open(&path).map_err(|error| {
        let name = name(flag(namespace.typ()));
        format!("cannot open the {name} namespace {}: {}", path.display(), words(error))
    })
}

fn make(kinds: CloneFlags) -> Result<(), String> {
    if kinds.is_empty() {
        return Ok(());
    }
    unshare(kinds)
        .map_err(|error| format!("cannot make the namespaces of linux.namespaces: {}", words(error)))
}

fn about_offsets(error: io::Error) -> String {
    format!("linux.timeOffsets: cannot set them: {}", words(error))
}

fn write_offsets(mut file: File, spec: &Spec) -> Result<(), String> {
    file.write_all(offsets(spec).as_bytes()).map_err(about_offsets)
}

/// As the kernel reads them.
fn offsets(spec: &Spec) -> String {
    let given = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let line = |(clock, offset): (&String, &LinuxTimeOffset)| {
        format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
    };
    given.into_iter().flatten().map(line).collect()
}

fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Time => TIME,
    }
}

fn name(kind: CloneFlags) -> &'static str {
    match kind {
        CloneFlags::CLONE_NEWUSER => "user",
        CloneFlags::CLONE_NEWPID => "pid",
        CloneFlags::CLONE_NEWUTS => "uts",
        CloneFlags::CLONE_NEWIPC => "ipc",
        CloneFlags::CLONE_NEWNET => "network",
        CloneFlags::CLONE_NEWCGROUP => "cgroup",
        CloneFlags::CLONE_NEWNS => "mount",
        _ => "time",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(linux: &Value) -> Spec {
        serde_json::from_value(json!({ "ociVersion": "1.0.2", "linux": linux })).unwrap()
    }

    #[test]
    fn namespaces_with_a_path_are_joined_and_others_made() {
        let own =
            json!([{ "type": "pid" }, { "type": "uts" }, { "type": "mount", "path": "/proc/self/ns/mnt" }]);
        let namespaces = Namespaces::open(&spec(&json!({ "namespaces": own }))).unwrap();
        assert_eq!(namespaces.made, CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS);
        assert!(namespaces.has(CloneFlags::CLONE_NEWNS) && !namespaces.makes(CloneFlags::CLONE_NEWNS));
        assert!(namespaces.makes(CloneFlags::CLONE_NEWUTS) && !namespaces.have_user());
    }

    #[test]
    fn namespace_that_is_missing_is_named() {
        let gone = json!([{ "type": "network", "path": "/no/such" }]);
        let error = Namespaces::open(&spec(&json!({ "namespaces": gone }))).err().unwrap();
        assert_eq!(error, "cannot open the network namespace /no/such: No such file or directory");
    }

    #[test]
    fn offsets_are_lines_of_the_kernels() {
        let spec = spec(&json!({ "timeOffsets": { "boottime": { "secs": -5, "nanosecs": 7 } } }));
        assert_eq!(offsets(&spec), "boottime -5 7\n");
    }
}

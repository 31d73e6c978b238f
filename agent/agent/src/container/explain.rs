//! libcontainer's failures in words.
//!
//! Its errors pass through three processes, and what comes out at the end names only the stage. Its
//! error lines know more: the first one what could not be done, this one or a later one why, as Rust
//! would print the value. Neither is for people; this makes one sentence of them.

use nix::errno::Errno;
use oci_spec::runtime::{Mount, Spec};
use serde::{Deserialize, Serialize};

use super::dev;

/// An error line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorLine {
    pub(crate) message: String,
    /// The error that it is about, in Rust's words.
    pub(crate) error: String,
    /// What it is about, `name value, …`.
    pub(crate) details: String,
}

/// How libcontainer begins what it hands from process to process.
const PREFIXES: &[&str] = &[
    "exec process failed with error ",
    "error in executing process : ",
    "intermediate process error ",
    "cgroup error: ",
];

/// How libcontainer says that the other end of a channel is gone.
const BROKEN: &[&str] = &["BrokenChannel", "channel connection broken"];

/// Causes that say nothing.
const EMPTY: &[&str] =
    &["syscall", "failed syscall", "syscall failed", "io error", "nix error", "symlink", "procfs failed"];

/// What libcontainer calls an act, the field that it is for, and how people call it.
const ACTS: &[(&str, &str, &str)] = &[
    ("failed to chdir", "process.cwd", "cannot enter it"),
    ("failed to set uid and gid", "process.user", "cannot become it"),
    ("failed to set privileged supplementary gids", "process.user.additionalGids", "cannot take them"),
    ("failed to set unprivileged supplementary gids", "process.user.additionalGids", "cannot take them"),
    ("failed to set groups", "process.user.additionalGids", "cannot take them"),
    ("failed to set supplementary gids", "process.user.additionalGids", "cannot take them"),
    ("failed to drop capabilities", "process.capabilities", "cannot keep these alone"),
    ("failed to set rlimit", "process.rlimits", "cannot set one"),
    ("failed to set io_priority", "process.ioPriority", "cannot set it"),
    ("error setting scheduler", "process.scheduler", "cannot set it"),
    ("failed to set hostname", "hostname", "cannot set it"),
    ("failed to set domainname", "domainname", "cannot set it"),
    ("failed to set sysctl", "linux.sysctl", "cannot set it"),
    ("failed to write timens_offsets", "linux.timeOffsets", "cannot set them"),
    ("failed to set linux personality", "linux.personality", "cannot take it"),
    ("failed to mknod device", "linux.devices", "cannot make one"),
    ("failed to chown device", "linux.devices", "cannot give one its owner"),
    ("failed to mount bind dev", "linux.devices", "cannot mount one"),
    ("failed to open bind dev", "linux.devices", "cannot make one"),
    ("failed to create parent dir", "linux.devices", "cannot make the folder of one"),
    ("failed to set readonly path", "linux.readonlyPaths", "cannot make one read-only"),
    ("failed to remount path as readonly", "linux.readonlyPaths", "cannot make one read-only"),
    ("failed to mount path as readonly", "linux.readonlyPaths", "cannot make one read-only"),
    ("failed to mount path as masked", "linux.maskedPaths", "cannot hide one"),
    ("failed to set masked paths", "linux.maskedPaths", "cannot hide one"),
    ("failed to apply cgroup", "linux.resources", "cannot apply them"),
    (
        "failed to run create container hooks",
        "the container's mounts",
        "cannot finish them, as its standard error says",
    ),
    ("failed to open /dev/null inside the container", "the container", "cannot open its /dev/null"),
    ("invalid /dev/null device inside the container", "the container", "its /dev/null is another device"),
    ("failed to set up tty", "process.terminal", "cannot make the terminal"),
    ("failed to adjust root mount propagation", "linux.rootfsPropagation", "cannot set it"),
];

/// One sentence of a failure and of the error lines before it.
pub(crate) fn explain(failure: &str, lines: &[ErrorLine], spec: &Spec) -> String {
    if BROKEN.iter().any(|broken| failure.contains(broken)) && lines.iter().all(|line| line.error.is_empty())
    {
        return ended(spec);
    }
    let Some(first) = lines.first() else { return plain(failure) };
    let (act, shown) = act(first, spec);
    let exact =
        lines.iter().flat_map(|line| [&line.error, &line.message]).find_map(|text| system_error(text));
    let told = || lines.iter().find_map(|line| quoted(&line.error));
    let cause = exact.or_else(told).or(shown).unwrap_or_else(|| plain(failure));
    if act.ends_with(&cause) || EMPTY.contains(&cause.as_str()) { act } else { format!("{act}: {cause}") }
}

/// One of libcontainer's processes is gone, and nothing says why.
fn ended(spec: &Spec) -> String {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let memory = resources.and_then(|resources| resources.memory().as_ref()?.limit());
    match memory.filter(|limit| *limit > 0) {
        Some(limit) => format!(
            "the process was killed while it was made: linux.resources.memory.limit {limit} may be too low; raise it"
        ),
        None => "the process ended while it was made; the last lines of the guest's console may say why"
            .to_owned(),
    }
}

/// What could not be done, and the cause that the line shows itself.
fn act(line: &ErrorLine, spec: &Spec) -> (String, Option<String>) {
    let message = line.message.trim();
    if let Some(mount) = mount_of(message, spec) {
        return mount;
    }
    if let Some(limit) = limit_of(line) {
        return (limit, None);
    }
    let details = if line.details.is_empty() { String::new() } else { format!(" ({})", line.details) };
    if let Some((known, field, act)) = ACTS.iter().find(|(known, ..)| message.starts_with(known)) {
        let rest = message.strip_prefix(known).unwrap_or_default();
        let (rest, shown) = split_cause(rest);
        let value = value_of(field, spec).unwrap_or_else(|| format!("{}{details}", rest.trim_end()));
        return (format!("{field}{}: {act}", spaced(&value)), shown);
    }
    let message = message.strip_prefix("failed to run intermediate process ").unwrap_or(message);
    let (text, shown) = split_cause(message);
    let text =
        text.strip_prefix("failed to ").map_or_else(|| text.to_owned(), |rest| format!("cannot {rest}"));
    (format!("{text}{details}"), shown)
}

fn spaced(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(" {text}") }
}

/// The value of the few fields that are short and tell the most.
fn value_of(field: &str, spec: &Spec) -> Option<String> {
    let process = spec.process().as_ref()?;
    match field {
        "process.cwd" => Some(format!("{:?}", process.cwd().display().to_string())),
        _ => None,
    }
}

/// `failed to apply cgroup`, with an error that names a file of the cgroup and what was written there.
fn limit_of(line: &ErrorLine) -> Option<String> {
    let file = line.error.split_once("WrappedIo(").and_then(|(_, io)| text_after(io, "path: \""))?;
    let file = file.rsplit('/').next().unwrap_or(file);
    let data = text_after(&line.error, "data: \"").map_or_else(String::new, |data| format!("{data:?} to "));
    let act = if data.is_empty() { "use" } else { "write" };
    Some(format!("linux.resources: cannot {act} {data}{file} of the container's cgroup"))
}

/// `failed to mount Mount { … }: CAUSE`
fn mount_of(message: &str, spec: &Spec) -> Option<(String, Option<String>)> {
    let (_, mount) = message.split_once("Mount { ")?;
    let destination = text_after(mount, "destination: \"")?;
    let destination = dev::destination(destination.as_ref()).display().to_string();
    let typ = text_after(mount, "typ: Some(\"").unwrap_or("bind");
    let known = |known: &Mount| known.destination().display().to_string() == destination;
    let index = spec.mounts().iter().flatten().position(known);
    let field = index.map_or_else(|| "mounts".to_owned(), |index| format!("mounts[{index}]"));
    let shown = mount.rsplit_once(" }: ").and_then(|(_, cause)| informative(cause));
    let options = index.and_then(|index| spec.mounts().as_ref()?.get(index)?.options().clone());
    let options = options.filter(|options| !options.is_empty());
    let options =
        options.map_or_else(String::new, |options| format!(" with the options {}", options.join(",")));
    Some((format!("{field}: cannot mount {typ} at {destination}{options}"), shown))
}

fn text_after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split('"').next()
}

/// The text before the last colon, and the cause behind it.
fn split_cause(message: &str) -> (&str, Option<String>) {
    match message.rsplit_once(": ") {
        Some((text, cause)) => (text, informative(cause)),
        None => (message, None),
    }
}

fn informative(cause: &str) -> Option<String> {
    let cause = without_number(cause.trim());
    Some(cause).filter(|cause| !cause.is_empty() && !EMPTY.contains(&cause.as_str()))
}

/// The system's own words in what Rust prints of an error: `Os { code: 2, …, message: "…" }`, or `Nix(ENOENT)`.
fn system_error(text: &str) -> Option<String> {
    if let Some(message) = text.split_once("Os { code: ").and_then(|(_, os)| text_after(os, "message: \"")) {
        return Some(message.to_owned());
    }
    if let Some((before, _)) = text.split_once(" (os error ") {
        return before.rsplit([':', '"', '(']).next().map(|words| words.trim().to_owned());
    }
    if let Ok(number) = text.parse::<i32>() {
        return Some(Errno::from_raw(number).desc().to_owned());
    }
    let names = text.split(|character: char| !character.is_ascii_alphanumeric());
    names.filter(|name| name.starts_with('E') && name.len() > 2).find_map(errno)
}

fn errno(name: &str) -> Option<String> {
    const LAST: i32 = 133;
    let numbers = (1..=LAST).map(Errno::from_raw);
    numbers.into_iter().find(|errno| format!("{errno:?}") == name).map(|errno| errno.desc().to_owned())
}

/// The text in what Rust prints of an error that has no other: `Other("…")`.
fn quoted(error: &str) -> Option<String> {
    let text = text_after(error, "(\"")?;
    informative(text)
}

/// A failure without error lines.
fn plain(failure: &str) -> String {
    let mut text = failure;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    without_number(text)
}

/// ` (os error 2)` tells no more than the words before it.
fn without_number(text: &str) -> String {
    match text.rsplit_once(" (os error ") {
        Some((words, number)) if number.trim_end_matches(')').parse::<i32>().is_ok() => words.to_owned(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Spec {
        let mounts = json!([
            { "destination": "/proc", "type": "proc" },
            { "destination": "/o", "type": "tmpfs", "options": ["size=banana"] },
            { "destination": "/dev/shm", "type": "tmpfs" },
        ]);
        let process = json!({ "cwd": "/etc/passwd", "user": {} });
        serde_json::from_value(json!({ "ociVersion": "1.0.2", "mounts": mounts, "process": process }))
            .unwrap()
    }

    fn line(message: &str, error: &str, details: &str) -> ErrorLine {
        let [message, error, details] = [message, error, details].map(str::to_owned);
        ErrorLine { message, error, details }
    }

    fn mount(destination: &str, cause: &str) -> String {
        format!(
            "failed to mount Mount {{ destination: \"{destination}\", typ: Some(\"tmpfs\"), source: Some(\"t\"), \
             options: Some([\"size=banana\", \"mode=0755\"]), uid_mappings: None }}: {cause}"
        )
    }

    #[test]
    fn mount_that_fails_is_named_by_its_field_and_the_cause_comes_from_a_later_line() {
        let lines = [
            line(&mount("/o", "syscall"), "", ""),
            line("failed to prepare rootfs", "Mount(Syscall(Nix(EINVAL)))", ""),
        ];
        let expected = "mounts[1]: cannot mount tmpfs at /o with the options size=banana: Invalid argument";
        assert_eq!(explain("x", &lines, &spec()), expected);
        let staged = [line(&mount("/dev/.vmrun/shm", "create next directory component failed"), "", "")];
        let expected = "mounts[2]: cannot mount tmpfs at /dev/shm: create next directory component failed";
        assert_eq!(explain("x", &staged, &spec()), expected);
    }

    #[test]
    fn acts_for_a_field_are_told_by_it() {
        let lines = [line("failed to chdir", "ENOTDIR", "")];
        let expected = "process.cwd \"/etc/passwd\": cannot enter it: Not a directory";
        assert_eq!(explain("x", &lines, &spec()), expected);
        let user = [line("failed to set uid and gid", "Nix(EINVAL)", "uid 5, gid 6")];
        let expected = "process.user (uid 5, gid 6): cannot become it: Invalid argument";
        assert_eq!(explain("x", &user, &spec()), expected);
        let sysctl = [line("failed to set sysctl net.x=1: Invalid argument (os error 22)", "", "")];
        assert_eq!(explain("x", &sysctl, &spec()), "linux.sysctl net.x=1: cannot set it: Invalid argument");
        let caps = [line(
            "failed to drop capabilities",
            "SetCaps(CapsError(\"capset failure: Operation not permitted (os error 1)\"))",
            "",
        )];
        let expected = "process.capabilities: cannot keep these alone: Operation not permitted";
        assert_eq!(explain("x", &caps, &spec()), expected);
    }

    #[test]
    fn limits_are_told_by_the_file_that_refuses_them() {
        let error = "V2(CpuController(WrappedIo(Write { err: Os { code: 22, kind: InvalidInput, \
                     message: \"Invalid argument\" }, path: \"/sys/fs/cgroup/x/cpu.max\", data: \"1 100000\" })))";
        let lines = [line("failed to apply cgroup", error, "")];
        let expected = "linux.resources: cannot write \"1 100000\" to cpu.max of the container's cgroup: Invalid argument";
        assert_eq!(explain("x", &lines, &spec()), expected);
        let failure = "intermediate process error cgroup error: malformed page size 3";
        let lines = [line("failed to apply cgroup", "V2(MalformedPageSize { page_size: 3 })", "")];
        let expected = "linux.resources: cannot apply them: malformed page size 3";
        assert_eq!(explain(failure, &lines, &spec()), expected);
        let lines = [line("error setting scheduler", "22", "")];
        assert_eq!(explain("x", &lines, &spec()), "process.scheduler: cannot set it: Invalid argument");
    }

    #[test]
    fn other_lines_lose_what_only_rust_needs() {
        let lines = [line("failed to prepare rootfs", "Mount(Other(\"no ordinary directory\"))", "")];
        assert_eq!(explain("x", &lines, &spec()), "cannot prepare rootfs: no ordinary directory");
        let os = "Io(Os { code: 2, kind: NotFound, message: \"No such file or directory\" })";
        let lines = [line("failed to open it", os, "path \"/x\"")];
        assert_eq!(explain("x", &lines, &spec()), "cannot open it (path \"/x\"): No such file or directory");
    }

    #[test]
    fn limit_of_memory_that_kills_the_process_is_named() {
        let failure = "failed to receive. \"waiting for intermediate process\". BrokenChannel: channel connection broken";
        assert!(explain(failure, &[], &spec()).starts_with("the process ended while it was made; "));
        let limited = json!({ "ociVersion": "1", "linux": { "resources": { "memory": { "limit": 7 } } } });
        let text = explain(failure, &[], &serde_json::from_value(limited).unwrap());
        assert!(text.contains("linux.resources.memory.limit 7 may be too low; "), "{text}");
    }

    #[test]
    fn failure_without_lines_loses_its_prefixes() {
        let failure = "exec process failed with error error in executing process : it broke (os error 5)";
        assert_eq!(explain(failure, &[], &spec()), "it broke");
    }
}

//! The monitor's user namespace where it is started without root: the caller is root in it, and the
//! caller's subordinate ids are everybody else.
//!
//! ```text
//!   child ──unshare──▶ user namespace ◀─map─ newuidmap, newgidmap: the caller, and the subordinate ids
//!                        ▲
//!   this process ──setns─┘    or ──unshare──▶ one with the caller alone, where that cannot be
//! ```
//!
//! Without subordinate ids a container runs all the same, but its files can belong to its root alone:
//! that is told, with what to write where.

use std::fmt;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Pid, Uid, getegid, geteuid};

use super::id_map::Child;

/// What the kernel takes in one map, of which the caller is one (user_namespaces(7)).
const MOST_RANGES: usize = 339;

/// Who has which number.
const USERS: &str = "/etc/passwd";

/// A kind of ids.
struct Kind {
    /// Where an administrator says whose subordinate ids are which.
    file: &'static str,
    /// Who maps them.
    program: &'static str,
}

const UIDS: Kind = Kind { file: "/etc/subuid", program: "newuidmap" };
const GIDS: Kind = Kind { file: "/etc/subgid", program: "newgidmap" };

/// Why there are no subordinate ids.
#[derive(Debug, PartialEq, Eq)]
enum Lack {
    /// There are none.
    Ids { file: &'static str, user: String },
    /// Nobody is there to map them.
    Program { name: &'static str },
    /// Who maps them does not.
    Refused { program: &'static str, said: String },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ids { file, user } => write!(
                f,
                "{user} has no subordinate ids in {file}: add a line like {user}:100000:65536, of ids that nobody has, to {} and {}",
                UIDS.file, GIDS.file
            ),
            Self::Program { name } => {
                write!(f, "the program {name} is not in PATH: install the package uidmap")
            }
            Self::Refused { program, said } => write!(
                f,
                "{program} does not map the subordinate ids: {said}: correct {} and {}",
                UIDS.file, GIDS.file
            ),
        }
    }
}

/// Enters a new user namespace, in which the caller is root. To be called while there is one thread.
/// Gives the warning where there are no ids for others.
pub(super) fn become_root() -> io::Result<Option<String>> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let child = Child::start()?;
    let mapped = map_all(child.pid(), &[(UIDS, uid), (GIDS, gid)]);
    let mapped = mapped.and_then(|()| {
        let refused = |error: io::Error| Lack::Refused { program: UIDS.program, said: error.to_string() };
        child.namespace().map_err(refused)
    });
    match mapped {
        Ok(namespace) => {
            setns(namespace, CloneFlags::CLONE_NEWUSER)?;
            Ok(None)
        }
        Err(lack) => {
            become_root_alone(uid, gid)?;
            Ok(Some(format!("files of the container can belong to its root alone: {lack}")))
        }
    }
}

fn map_all(pid: Pid, kinds: &[(Kind, u32)]) -> Result<(), Lack> {
    let uid = geteuid();
    let users = fs::read_to_string(USERS).unwrap_or_default();
    let user = name(&users, uid).map_or_else(|| uid.to_string(), str::to_owned);
    let mut commands = Vec::new();
    for (kind, own) in kinds {
        let table = fs::read_to_string(kind.file).unwrap_or_default();
        let ranges = ranges(&table, &user, uid);
        if ranges.is_empty() {
            return Err(Lack::Ids { file: kind.file, user });
        }
        let mut command = Command::new(kind.program);
        command.arg(pid.to_string()).args(arguments(*own, &ranges));
        commands.push((kind.program, command));
    }
    // Not before both are known.
    commands.into_iter().try_for_each(|(program, command)| run(program, command))
}

fn run(program: &'static str, mut command: Command) -> Result<(), Lack> {
    let refused = |said: String| Lack::Refused { program, said };
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty());
            Err(refused(last.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Lack::Program { name: program }),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// As anybody may do it, whose groups are then fixed.
fn become_root_alone(uid: u32, gid: u32) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Of `passwd(5)`: the C library's own search loads modules, which a program linked like this one has not.
fn name(users: &str, uid: Uid) -> Option<&str> {
    let number = uid.to_string();
    let fields = users.lines().map(|line| line.split(':'));
    fields
        .filter_map(|mut fields| Some((fields.next()?, fields.nth(1)?)))
        .find(|user| user.1 == number)
        .map(|user| user.0)
}

/// First ids and counts of what `subuid(5)` gives this user.
fn ranges(table: &str, name: &str, uid: Uid) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let is_whole = count > 0 && first.checked_add(count).is_some();
        ((owner == name || owner == number) && is_whole).then_some((first, count))
    };
    table.lines().filter_map(range).take(MOST_RANGES).collect()
}

/// The caller is 0; the ranges follow one after the other.
fn arguments(own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut words = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut next: u32 = 1;
    for &(first, count) in ranges {
        let Some(end) = next.checked_add(count) else { break };
        words.extend([next, first, count].map(|number| number.to_string()));
        next = end;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_user_by_name_and_number() {
        let table = "a:100000:65536\nb:1:2\n1000:200000:10\n\na:x:1\na:7:0\na:4294967295:2\na:5\n aa:3:4\n";
        assert_eq!(ranges(table, "a", Uid::from_raw(1000)), [(100_000, 65536), (200_000, 10)]);
        assert_eq!(ranges(table, "c", Uid::from_raw(1)), []);
    }

    #[test]
    fn name_is_that_of_the_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nplain:x:1000:1000::/:/bin/sh\n";
        assert_eq!(name(users, Uid::from_raw(1000)), Some("plain"));
        assert_eq!(name(users, Uid::from_raw(1)), None);
    }

    #[test]
    fn caller_is_root_and_the_others_follow() {
        let words = arguments(1000, &[(100_000, 65536), (200_000, 10)]).join(" ");
        assert_eq!(words, "0 1000 1 1 100000 65536 65537 200000 10");
        assert_eq!(arguments(7, &[(1, u32::MAX)]).join(" "), "0 7 1");
    }

    #[test]
    fn lack_names_the_files_and_what_to_do() {
        let lack = Lack::Ids { file: "/etc/subgid", user: "plain".to_owned() }.to_string();
        assert!(lack.contains("plain has no subordinate ids in /etc/subgid"), "{lack}");
        assert!(
            lack.contains("plain:100000:65536") && lack.contains("/etc/subuid and /etc/subgid"),
            "{lack}"
        );
        let lack = run("newuidmap", Command::new("/nonexistent/newuidmap")).unwrap_err();
        assert!(lack.to_string().contains("install the package uidmap"), "{lack}");
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo first >&2; echo no such range >&2; exit 1"]);
        let lack = run("newgidmap", failing).unwrap_err().to_string();
        assert!(lack.starts_with("newgidmap does not map the subordinate ids: no such range: "), "{lack}");
    }
}

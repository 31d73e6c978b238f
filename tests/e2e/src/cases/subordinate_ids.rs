//! Sandboxes of plain users: whom their files can belong to.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Bundle, Outcome, Run, Scratch, end_of, new_id, place};

/// A user of these cases alone.
const ID: u32 = 61_237;
const FIRST: u32 = 300_000;

/// In a mount namespace whose users are those of the files in `$0`.
const AS_USER: &str = r#"
    for name in passwd subuid subgid; do mount --bind "$0/$name" "/etc/$name" || exit 99; done
    exec setpriv --reuid=plain --regid=61237 --clear-groups "$@""#;

/// A root file system of the user's.
fn root(scratch: &Scratch) -> std::path::PathBuf {
    let root = scratch.join("root");
    let copied = Command::new("cp").arg("-a").arg(&place().busybox).arg(&root).status().unwrap();
    let given = Command::new("chown").args(["-R", "61237:61237"]).arg(&root).status().unwrap();
    assert!(copied.success() && given.success());
    root
}

/// `vmrun run` as the user, to whom these tables give subordinate ids.
fn run_as_user(bundle: &Bundle, (uids, gids): (&str, &str), variables: &[&str], options: &[&str]) -> Outcome {
    let files = Scratch::new();
    files.file("passwd", format!("root:x:0:0::/:/bin/sh\nplain:x:{ID}:{ID}::/:/bin/sh\n"));
    files.file("subuid", uids);
    files.file("subgid", gids);
    let store = Path::new("/tmp").join(new_id());
    let inner = Run::of(bundle).options(options).store(&store).command();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", AS_USER]).arg(files.path()).arg("env").args(variables);
    let outcome = end_of(command.arg(inner.get_program()).args(inner.get_args()));
    fs::remove_dir_all(&store).unwrap();
    outcome
}

fn owner(path: &Path) -> (u32, u32) {
    let seen = fs::metadata(path).unwrap();
    (seen.uid(), seen.gid())
}

#[test]
fn subordinate_ids_of_a_plain_user_are_the_containers_users_behind_passt_too() {
    let scratch = Scratch::new();
    let root = root(&scratch);
    let script = ">/file; chown 5:6 /file; mkdir /own; chown 1000:1000 /own; su user -c '>/own/new'; \
        stat -c %u:%g /file /own/new /bin; id -u; ip -o -4 addr show dev eth0 | awk '{ print $4 }'; \
        head -n 1 /etc/resolv.conf";
    let bundle = Bundle::with_root(&root).args(&["sh", "-c", script]).capabilities(&[
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_SETGID",
        "CAP_SETUID",
    ]);
    // By name and by number, in two ranges.
    let uids = format!("other:1:2\nplain:{FIRST}:10\n{ID}:{}:2000\n", FIRST + 10);
    let gids = format!("plain:{FIRST}:2000\n");
    let outcome = run_as_user(&bundle, (&uids, &gids), &[], &["--network", "user"]);
    outcome.prints("5:6\n1000:1000\n0:0\n0\n10.0.2.100/24\nnameserver 10.0.2.3\n");
    assert_eq!(owner(&root.join("file")), (FIRST + 4, FIRST + 5));
    assert_eq!(owner(&root.join("own/new")), (FIRST + 999, FIRST + 999));
}

#[test]
fn plain_user_without_subordinate_ids_is_told_what_to_write_where() {
    let scratch = Scratch::new();
    let root = root(&scratch);
    let bundle = Bundle::with_root(&root)
        .args(&["sh", "-c", ">/file; chown 5:6 /file 2>/dev/null; stat -c %u:%g /file"])
        .capabilities(&["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    let ids = format!("plain:{FIRST}:2000\n");
    let lost = "vmrun: warning: files of the container can belong to its root alone: ";
    for (uids, gids, variable, words) in [
        ("", ids.as_str(), "A=b", ["no subordinate ids in /etc/subuid", "a line like plain:100000:65536"]),
        (&ids, "", "A=b", ["no subordinate ids in /etc/subgid", "to /etc/subuid and /etc/subgid"]),
        (&ids, &ids, "PATH=/nonexistent", ["newuidmap is not in PATH", "install the package uidmap"]),
    ] {
        let outcome = run_as_user(&bundle, (uids, gids), &[variable], &[]);
        outcome.prints_with_errors("0:0\n", &[lost, words[0], words[1]]);
    }
    assert_eq!(owner(&root.join("file")), (ID, ID));
}

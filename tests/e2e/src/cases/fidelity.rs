//! A volume is as good as a bind mount: what programs do with files comes out as on the directory itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::{Bundle, Mounted, Outcome, Runtime, Scratch};

const PROGRAM: &str = include_str!("../programs/fidelity.py");
/// Has a table of what is known to differ, with the reasons.
const DOCUMENT: &str = include_str!("../../../../docs/volumes.md");

/// Capabilities to do with files what root does.
const OF_FILES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_LEASE",
    "CAP_MKNOD",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETUID",
];

/// Lines `behaviour: what came of it`.
type Column = Vec<(String, String)>;

fn column(text: &str) -> Column {
    let lines = text.lines().map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{text}")));
    let column: Column = lines.map(|(behaviour, value)| (behaviour.to_owned(), value.to_owned())).collect();
    assert_eq!(column.last().map(|(last, _)| last.as_str()), Some("end"), "{text}");
    column
}

fn on_the_directory(directory: &Path) -> Column {
    let output = Command::new("python3").args(["-c", PROGRAM]).arg(directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    column(&String::from_utf8(output.stdout).unwrap())
}

fn in_a_container(runtime: Runtime, directory: &Path) -> Column {
    let bundle = Bundle::debian("").args(&["python3", "-c", PROGRAM, "/data"]).capabilities(OF_FILES).bind(
        directory,
        "/data",
        &[],
    );
    let outcome: Outcome = bundle.run_on(runtime);
    outcome.exits(0);
    column(&outcome.out())
}

/// What the document lists: the first cell of each row is a behaviour, the last one a reason.
fn listed() -> BTreeSet<String> {
    let (_, table) = DOCUMENT.split_once("| behaviour |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(1).unwrap().trim().trim_matches('`').to_owned()).collect()
}

fn compare(directory: &Path, with_runc: bool) -> BTreeSet<String> {
    let place = |name: &str| {
        let place = directory.join(name);
        std::fs::create_dir(&place).unwrap();
        place
    };
    let plain = on_the_directory(&place("plain"));
    if with_runc {
        let runc = in_a_container(Runtime::Runc, &place("runc"));
        assert_eq!(runc, plain, "a container of runc's differs from the directory");
    }
    let ours = in_a_container(Runtime::Vmrun, &place("vmrun"));
    let names = |column: &Column| column.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let differ = ours.iter().filter(|line| !plain.contains(line)).map(|(name, _)| name.clone());
    let missing = names(&plain).into_iter().filter(|name| !names(&ours).contains(name));
    let differ: BTreeSet<_> = differ.chain(missing).collect();
    let listed = listed();
    let unlisted: Vec<_> = plain
        .iter()
        .chain(&ours)
        .filter(|(name, _)| differ.contains(name) && !listed.contains(name))
        .collect();
    assert!(unlisted.is_empty(), "docs/volumes.md does not list: {unlisted:#?}");
    differ
}

#[test]
fn files_of_a_volume_are_as_on_the_directory_itself() {
    let scratch = Scratch::new();
    let image = scratch.file("image", "");
    std::fs::File::options().write(true).open(&image).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("mkfs.ext4").arg("-qF").arg(&image).status().unwrap();
    assert!(made.success());
    let disk = Mounted::new(&["-o", "loop", image.to_str().unwrap()], &scratch.join("disk"));
    // A bind mount is the directory itself wherever it is: runc shows that once.
    let mut differ = compare(&scratch.directory("memory"), false);
    differ.extend(compare(disk.path(), true));
    let unneeded: Vec<_> = listed().difference(&differ).cloned().collect();
    assert!(unneeded.is_empty(), "docs/volumes.md lists what does not differ: {unneeded:?}");
}

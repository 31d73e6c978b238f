//! Starts that go on from a template.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Bundle, Mounted, Outcome, Run, Scratch, vmrun};

/// What the monitor tells of a machine that does not boot.
const RESTORED: &str = "machine restored";

/// A run with templates of its own, which tells its steps.
fn run<'b>(bundle: &'b Bundle, templates: &Path) -> Run<'b> {
    Run::of(bundle).option("--templates").option(templates)
}

/// Whether it was a warm one; it has to have printed this.
#[track_caller]
fn is_warm(bundle: &Bundle, templates: &Path, printed: &str) -> bool {
    let outcome = run(bundle, templates).option("--debug").finish();
    assert_eq!(outcome.exits(0).out(), printed, "{}", outcome.err());
    outcome.err().contains(RESTORED)
}

/// The directories of the templates.
fn entries(templates: &Path) -> Vec<PathBuf> {
    fs::read_dir(templates).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[track_caller]
fn template(templates: &Path, words: &[&str]) -> Outcome {
    vmrun(&["--templates", templates.to_str().unwrap()], &[&["template"], words].concat())
}

#[test]
fn first_start_makes_a_template_and_each_shape_has_its_own() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    let bundle = Bundle::shell("nproc");
    assert!(!is_warm(&bundle, &templates, "1\n"));
    assert!(is_warm(&bundle, &templates, "1\n"));
    // One of the same machine in another bundle.
    assert!(is_warm(&Bundle::shell("echo other").env("A=b"), &templates, "other\n"));
    let two = |printed| {
        let outcome =
            run(&bundle, &templates).options(&["--vcpus", "2", "--memory", "192", "--debug"]).finish();
        assert_eq!(outcome.out(), printed, "{}", outcome.err());
        outcome.err().contains(RESTORED)
    };
    assert_eq!([two("2\n"), two("2\n")], [false, true]);
    assert_eq!(entries(&templates).len(), 2);
    let cold = run(&bundle, &templates).options(&["--cold", "--debug"]).finish();
    assert!(!cold.err().contains(RESTORED), "{}", cold.err());
    let none = scratch.join("none");
    run(&bundle, &none).option("--cold").finish().prints("1\n");
    assert!(!none.exists());
}

/// What the monitor tells of a start that records which pages it has written.
const RECORDED: &str = "working set: ";

#[test]
fn first_warm_start_records_which_pages_it_writes_and_the_next_ones_use_that() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    let bundle = Bundle::shell("echo ran");
    let records = || {
        let outcome = run(&bundle, &templates).option("--debug").finish();
        assert_eq!(outcome.exits(0).out(), "ran\n", "{}", outcome.err());
        outcome.err().contains(RECORDED)
    };
    assert_eq!([records(), records(), records()], [false, true, false]);
    let set = entries(&templates)[0].join("working-set");
    let length = fs::metadata(&set).unwrap().len();
    assert!((100..20_000).contains(&length), "{length}");
    // One that is no good costs nothing but another record.
    fs::OpenOptions::new().write(true).open(&set).unwrap().write_all_at(&[0xff; 8], length - 8).unwrap();
    assert_eq!([records(), records()], [true, false]);
    let listed = template(&templates, &["list", "--quiet"]).ok();
    template(&templates, &["remove", listed.trim()]).exits(0);
    assert_eq!(entries(&templates), Vec::<PathBuf>::new());
}

/// Changes what is behind the header of a template's state, and the sum that is in the header.
fn rewrite(path: &Path, change: impl Fn(&mut [u8])) {
    let mut state = fs::read(path).unwrap();
    let payload = &mut state[24..];
    change(payload);
    let sum = crc32fast::hash(payload);
    state[12..16].copy_from_slice(&sum.to_le_bytes());
    fs::write(path, state).unwrap();
}

#[test]
fn template_that_is_no_good_is_told_of_once_and_replaced() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    let bundle = Bundle::shell("echo ran");
    let entry = || entries(&templates).pop().unwrap();
    let flip = |name: &str, at: u64| {
        let file = fs::File::options().read(true).write(true).open(entry().join(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
    };
    // One that is whole, and says of its last pages that they are elsewhere in the file: the machine is begun, and given up.
    let lie = || {
        rewrite(&entry().join("state"), |payload| {
            let ends: Vec<_> =
                (0..payload.len()).rev().filter(|&at| payload[at] & 0x80 == 0).take(2).collect();
            payload[ends[1]] ^= 1;
        });
    };
    // One of another processor: the first word of its maker's name, which function 0 of CPUID gives.
    let other_processor = || {
        rewrite(&entry().join("state"), |payload| {
            let at = payload.windows(4).position(|part| part == b"Auth" || part == b"Genu");
            payload[at.unwrap()] ^= 1;
        });
    };
    let damages: [(&str, &dyn Fn()); 6] = [
        ("it is another machine's: its memory", &lie),
        ("it is another machine's: its processor", &other_processor),
        ("has been changed since it was saved", &|| flip("memory", 4096)),
        ("has been changed since it was saved", &|| {
            fs::File::options().write(true).open(entry().join("memory")).unwrap().set_len(8192).unwrap();
        }),
        ("is damaged", &|| flip("state", 100)),
        ("is not whole", &|| fs::remove_file(entry().join("state")).unwrap()),
    ];
    assert!(!is_warm(&bundle, &templates, "ran\n"));
    for (told, damage) in damages {
        damage();
        let outcome = run(&bundle, &templates).finish();
        assert_eq!(outcome.exits(0).out(), "ran\n");
        let warnings: Vec<_> = outcome.err().lines().map(str::to_owned).collect();
        assert!(warnings.len() == 1 && warnings[0].contains(told), "{told}: {warnings:?}");
        assert!(is_warm(&bundle, &templates, "ran\n"), "{told}");
    }
}

#[test]
fn directory_that_others_can_write_to_is_not_used() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    let bundle = Bundle::shell("echo ran");
    assert!(!is_warm(&bundle, &templates, "ran\n"));
    fs::set_permissions(&templates, Permissions::from_mode(0o777)).unwrap();
    let outcome = run(&bundle, &templates).option("--debug").finish();
    assert_eq!(outcome.exits(0).out(), "ran\n");
    let told = outcome.err();
    assert!(told.matches("can be written to by others").count() == 1 && !told.contains(RESTORED), "{told}");
    template(&templates, &["list"]).fails_with(1, &["can be written to by others", "chmod go-w"]);
}

#[test]
fn place_without_room_costs_a_template_and_no_start() {
    let scratch = Scratch::new();
    let small = Mounted::new(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"], &scratch.join("small"));
    let templates = small.path().join("templates");
    let outcome = run(&Bundle::shell("echo ran"), &templates).finish();
    assert_eq!(outcome.exits(0).out(), "ran\n");
    let warnings = outcome.err();
    let one = warnings.lines().count() == 1 && warnings.contains("no room for a template");
    assert!(one && warnings.contains(templates.to_str().unwrap()) && warnings.contains(" MiB"), "{warnings}");
    assert_eq!(entries(&templates), Vec::<PathBuf>::new());
}

#[test]
fn two_first_starts_at_once_are_right_and_leave_one_template() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    let bundles = ["echo one", "echo two"].map(Bundle::shell);
    let started: Vec<_> = bundles.iter().map(|bundle| run(bundle, &templates).start()).collect();
    let printed: Vec<_> = started.into_iter().map(|started| started.finish().ok()).collect();
    assert_eq!(printed, ["one\n", "two\n"]);
    assert_eq!(entries(&templates).len(), 1);
    assert!(is_warm(&bundles[0], &templates, "one\n"));
}

/// Whoever writes a template is killed anywhere: there is a whole one then, or none.
#[test]
fn writer_that_is_killed_leaves_no_template_that_is_trusted_wrongly() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    let bundle = Bundle::shell("echo ran");
    let mut published = 0;
    for round in 0..8u64 {
        let _ = fs::remove_dir_all(&templates);
        let started = run(&bundle, &templates).option("--detach").start();
        let monitor = started.monitor();
        // Each time somewhere else between the monitor's start and the end.
        thread::sleep(std::time::Duration::from_millis(100 + 90 * round));
        let _ = kill(Pid::from_raw(monitor), Signal::SIGKILL);
        drop(started.stdout.whole());
        let id = started.id.clone();
        let _ = vmrun(&[], &["delete", "--force", &id]);
        started.await_nothing_left();
        if is_warm(&bundle, &templates, "ran\n") {
            published += 1;
        }
        assert!(is_warm(&bundle, &templates, "ran\n"), "round {round}");
        let left = entries(&templates);
        assert!(
            left.iter().all(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.')),
            "{left:?}"
        );
    }
    assert!(published < 8, "each was killed behind its template");
}

#[test]
fn templates_are_built_ahead_listed_and_removed() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    template(&templates, &["list"]).exits(0);
    template(&templates, &["list", "--quiet"]).prints("");
    let name = template(&templates, &["build", "--memory", "128"]).ok().trim().to_owned();
    assert_eq!(template(&templates, &["build", "--memory", "128"]).ok().trim(), name);
    let listed: Value = serde_json::from_str(&template(&templates, &["list", "--json"]).ok()).unwrap();
    let expected = (&Value::from(name.as_str()), &Value::from(128), &Value::from(true));
    assert_eq!((&listed[0]["name"], &listed[0]["memory_mib"], &listed[0]["usable"]), expected, "{listed}");
    let bundle = Bundle::shell("echo ran");
    let outcome = run(&bundle, &templates).options(&["--memory", "128", "--debug"]).finish();
    assert!(outcome.err().contains(RESTORED), "{}", outcome.err());
    template(&templates, &["remove", "0123456789abcdef"])
        .fails_with(1, &["no template 0123456789abcdef", "list"]);
    template(&templates, &["prune"]).prints("");
    template(&templates, &["prune", "--keep", "0"]).prints(&format!("{name}\n"));
    assert_eq!(entries(&templates), Vec::<PathBuf>::new());
    template(&templates, &["build", "--memory", "8"]).fails_with(1, &["--memory", "48 MiB"]);
}

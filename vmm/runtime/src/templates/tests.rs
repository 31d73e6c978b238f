use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use vmrun_machine::{Ahead, PageRun};
use vmrun_spec::{DeviceSpec, Image, MachineSpec};

use super::*;
use crate::assets::Embedded;

fn spec(vcpus: u8) -> MachineSpec {
    MachineSpec {
        vcpus,
        memory_mib: 256,
        kernel: Image::Embedded,
        initramfs: Image::Embedded,
        cmdline: Vec::new(),
        console_log: PathBuf::from("console.log"),
        mark_port: None,
        devices: vec![DeviceSpec::Rng],
    }
}

const EMBEDDED: Embedded = Embedded { kernel: b"", kernel_pages: &[], initramfs: b"", digest: 7 };

fn shape(vcpus: u8) -> Shape {
    Shape::of(&spec(vcpus), EMBEDDED).unwrap()
}

/// A directory for templates, and the path of it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("a/templates");
    (above, path)
}

/// Publishes one whose memory is a page of sevens.
fn publish(path: &Path, shape: &Shape) {
    let draft = Draft::begin(Templates::make(path).unwrap(), shape.clone()).unwrap();
    draft.memory().write_all_at(&[7; 4096], 0).unwrap();
    draft.publish(MachineState::nothing(4096)).unwrap();
}

fn open(path: &Path) -> Templates {
    Templates::open(path).unwrap().unwrap()
}

#[test]
fn published_template_is_found_by_its_shape_and_no_other() {
    let (_above, path) = place();
    assert!(Templates::open(&path).unwrap().is_none());
    publish(&path, &shape(1));
    let found = open(&path).find(&shape(1), StartKind::Alone).unwrap().unwrap();
    assert_eq!((found.state.memory_bytes(), found.memory.metadata().unwrap().len()), (Some(4096), 4096));
    assert!(open(&path).find(&shape(2), StartKind::Alone).unwrap().is_none());
    let other = MachineSpec { cmdline: vec!["loglevel=7".to_owned()], ..spec(1) };
    assert!(open(&path).find(&Shape::of(&other, EMBEDDED).unwrap(), StartKind::Alone).unwrap().is_none());
    let newer = Embedded { digest: 8, ..EMBEDDED };
    assert!(open(&path).find(&Shape::of(&spec(1), newer).unwrap(), StartKind::Alone).unwrap().is_none());
    // Whoever comes second keeps what is there.
    publish(&path, &shape(1));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}

/// What is done to the directory of a template.
type Change<'c> = &'c dyn Fn(&Path);

#[test]
fn template_that_was_changed_is_refused() {
    let changes: [(&str, Change<'_>); 7] = [
        ("a byte of its memory", &|entry| {
            let file = fs::OpenOptions::new().write(true).open(entry.join(MEMORY)).unwrap();
            file.write_all_at(&[8], 9).unwrap();
        }),
        ("its memory's length", &|entry| {
            fs::OpenOptions::new().write(true).open(entry.join(MEMORY)).unwrap().set_len(0).unwrap();
        }),
        ("a copy of its memory", &|entry| {
            fs::copy(entry.join(MEMORY), entry.join("copy")).unwrap();
            fs::rename(entry.join("copy"), entry.join(MEMORY)).unwrap();
        }),
        ("its memory's end", &|entry| fs::remove_file(entry.join(MEMORY)).unwrap()),
        ("a byte of its state", &|entry| {
            let mut state = fs::read(entry.join(STATE)).unwrap();
            let last = state.len() - 1;
            state[last] ^= 1;
            fs::write(entry.join(STATE), state).unwrap();
        }),
        ("its state's length", &|entry| {
            let state = fs::read(entry.join(STATE)).unwrap();
            fs::write(entry.join(STATE), &state[..state.len() - 1]).unwrap();
        }),
        ("a link for its state", &|entry| {
            fs::rename(entry.join(STATE), entry.join("other")).unwrap();
            symlink("other", entry.join(STATE)).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (_above, path) = place();
        publish(&path, &shape(1));
        change(&path.join(shape(1).name()));
        let error = open(&path).find(&shape(1), StartKind::Alone).unwrap_err();
        assert!(matches!(error, TemplateError::Damaged { .. }), "{what}: {error}");
    }
}

#[test]
fn template_of_another_shape_under_this_name_is_refused() {
    let (_above, path) = place();
    publish(&path, &shape(2));
    fs::rename(path.join(shape(2).name()), path.join(shape(1).name())).unwrap();
    let error = open(&path).find(&shape(1), StartKind::Alone).unwrap_err().to_string();
    assert!(error.ends_with("is of another kernel, vmrun or size"), "{error}");
}

#[test]
fn what_others_can_write_to_is_not_used() {
    let (_above, path) = place();
    publish(&path, &shape(1));
    let entry = path.join(shape(1).name());
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for (what, closed) in [(entry.join(STATE), 0o600), (entry.join(MEMORY), 0o600), (entry, 0o700)] {
        set(&what, closed | 0o020);
        let error = open(&path).find(&shape(1), StartKind::Alone).unwrap_err();
        assert!(matches!(error, TemplateError::Untrusted { .. }), "{error}");
        set(&what, closed);
    }
    set(&path, 0o722);
    assert!(matches!(Templates::open(&path), Err(TemplateError::Untrusted { .. })));
    set(&path, 0o700);
    let link = path.with_file_name("link");
    symlink(&path, &link).unwrap();
    assert!(Templates::open(&link).is_err());
}

#[test]
fn draft_that_is_dropped_or_left_leaves_nothing() {
    let (_above, path) = place();
    drop(Draft::begin(Templates::make(&path).unwrap(), shape(1)).unwrap());
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    // One whose writer was killed, and a template half removed.
    for name in [".new-1", ".old-0123456789abcdef-1"] {
        fs::create_dir(path.join(name)).unwrap();
        fs::write(path.join(name).join(MEMORY), "m").unwrap();
    }
    publish(&path, &shape(1));
    let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [&*shape(1).name()]);
}

#[test]
fn draft_that_is_written_is_nobody_elses_to_remove() {
    let (_above, path) = place();
    let draft = Draft::begin(Templates::make(&path).unwrap(), shape(1)).unwrap();
    assert_eq!(open(&path).prune(0).unwrap(), Vec::<String>::new());
    draft.memory().write_all_at(&[7; 4096], 0).unwrap();
    draft.publish(MachineState::nothing(4096)).unwrap();
    assert!(open(&path).find(&shape(1), StartKind::Alone).unwrap().is_some());
}

#[test]
fn templates_are_listed_removed_and_pruned_by_their_use() {
    let (_above, path) = place();
    for vcpus in [1, 2, 3] {
        publish(&path, &shape(vcpus));
    }
    let seconds = |seconds| Timespec { tv_sec: seconds, tv_nsec: 0 };
    for (vcpus, used) in [(1, 30), (2, 10), (3, 20)] {
        let entry = fs::File::open(path.join(shape(vcpus).name())).unwrap();
        futimens(&entry, &Timestamps { last_access: seconds(used), last_modification: untouched() }).unwrap();
    }
    let templates = open(&path);
    let program = Path::new("/proc/self/exe");
    let listed = templates.list(&host_kernel(), Some(program)).unwrap();
    assert_eq!(listed.iter().map(|info| info.shape.as_ref().unwrap().vcpus).collect::<Vec<_>>(), [1, 3, 2]);
    assert!(listed.iter().all(|info| info.shape.as_ref().unwrap().is_current && info.bytes > 0));
    let foreign = templates.list("Linux 1.0", Some(program)).unwrap();
    assert!(foreign.iter().all(|info| !info.shape.as_ref().unwrap().is_current));
    // Room for two: the one goes that was used longest ago.
    assert_eq!(templates.prune(listed[0].bytes * 2).unwrap(), [shape(2).name()]);
    assert!(templates.remove(&shape(3).name()).unwrap());
    assert!(!templates.remove(&shape(3).name()).unwrap());
    assert!(!templates.remove("../templates").unwrap());
    assert_eq!(templates.list("", None).unwrap().len(), 1);
}

const SET: [PageRun; 2] = [
    PageRun { first: 3, count: 2, ahead: Ahead::Copied },
    PageRun { first: 9, count: 1, ahead: Ahead::Mapped },
];

/// What a start that looks like one of this kind goes on with, and whether it records a set alone, or with interfaces.
fn working_set(path: &Path, kind: StartKind) -> (Vec<PageRun>, [bool; 2]) {
    let found = open(path).find(&shape(1), kind).unwrap().unwrap().working_set;
    let lacks = [StartKind::Alone, StartKind::Networked].map(|kind| found.lacks(kind));
    (found.runs, lacks)
}

#[test]
fn first_working_set_of_a_kind_is_kept_and_goes_with_its_template() {
    let (_above, path) = place();
    publish(&path, &shape(1));
    let name = shape(1).name();
    assert_eq!(working_set(&path, StartKind::Alone), (Vec::new(), [true, false]));
    assert_eq!(working_set(&path, StartKind::Networked), (Vec::new(), [true, true]));
    open(&path).keep_working_set(&name, StartKind::Alone, &SET).unwrap();
    open(&path).keep_working_set(&name, StartKind::Alone, &[]).unwrap();
    assert_eq!(working_set(&path, StartKind::Alone), (SET.to_vec(), [false, false]));
    assert_eq!(working_set(&path, StartKind::Networked), (SET.to_vec(), [false, true]));
    open(&path).keep_working_set(&name, StartKind::Networked, &SET[..1]).unwrap();
    assert_eq!(working_set(&path, StartKind::Networked), (SET[..1].to_vec(), [false, false]));
    assert_eq!(working_set(&path, StartKind::Alone), (SET.to_vec(), [false, false]));
    // Nothing else is beside it.
    assert_eq!(fs::read_dir(path.join(&name)).unwrap().count(), 4);
    assert!(open(&path).remove(&name).unwrap());
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    assert!(open(&path).keep_working_set(&name, StartKind::Alone, &SET).is_err());
}

#[test]
fn starts_that_had_no_interfaces_record_in_vain_three_times() {
    let (_above, path) = place();
    publish(&path, &shape(1));
    let name = shape(1).name();
    open(&path).keep_working_set(&name, StartKind::Alone, &SET).unwrap();
    for _ in 0..3 {
        assert_eq!(working_set(&path, StartKind::Networked), (SET.to_vec(), [false, true]));
        open(&path).recorded_in_vain(&name).unwrap();
    }
    assert_eq!(working_set(&path, StartKind::Networked), (SET.to_vec(), [false, false]));
    // One that has some, and began to record before.
    open(&path).keep_working_set(&name, StartKind::Networked, &SET[..1]).unwrap();
    open(&path).recorded_in_vain(&name).unwrap();
    assert_eq!(working_set(&path, StartKind::Networked), (SET[..1].to_vec(), [false, false]));
}

#[test]
fn working_set_that_is_no_good_is_recorded_anew() {
    let changes: [(&str, Change<'_>); 5] = [
        ("a byte", &|file| {
            let opened = fs::OpenOptions::new().write(true).open(file).unwrap();
            opened.write_all_at(&[0xff], 25).unwrap();
        }),
        ("its end", &|file| {
            fs::OpenOptions::new().write(true).open(file).unwrap().set_len(9).unwrap();
        }),
        ("its rights", &|file| fs::set_permissions(file, Permissions::from_mode(0o602)).unwrap()),
        ("a link", &|file| {
            fs::rename(file, file.with_file_name("moved")).unwrap();
            symlink("moved", file).unwrap();
        }),
        ("a state in its place", &|file| {
            fs::copy(file.with_file_name(STATE), file).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (_above, path) = place();
        publish(&path, &shape(1));
        let name = shape(1).name();
        open(&path).keep_working_set(&name, StartKind::Alone, &SET).unwrap();
        change(&path.join(&name).join(StartKind::Alone.file()));
        assert_eq!(working_set(&path, StartKind::Alone), (Vec::new(), [true, false]), "{what}");
        open(&path).keep_working_set(&name, StartKind::Alone, &SET).unwrap();
        assert_eq!(working_set(&path, StartKind::Alone), (SET.to_vec(), [false, false]), "{what}");
    }
}

#[test]
fn working_set_of_another_template_is_not_used() {
    let (_above, path) = place();
    publish(&path, &shape(1));
    let name = shape(1).name();
    open(&path).keep_working_set(&name, StartKind::Alone, &SET).unwrap();
    let kept = path.join("kept");
    fs::rename(path.join(&name).join(StartKind::Alone.file()), &kept).unwrap();
    assert!(open(&path).remove(&name).unwrap());
    publish(&path, &shape(1));
    fs::rename(&kept, path.join(&name).join(StartKind::Alone.file())).unwrap();
    assert_eq!(working_set(&path, StartKind::Alone), (Vec::new(), [true, false]));
}

use std::sync::Barrier;
use std::thread;

use super::*;
use crate::control;
use crate::process::ProcessIdentity;
use crate::status::Status;

fn state(id: &str) -> State {
    let me = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
    StateSource::plain(id).state(Status::Running, me)
}

fn exec_base() -> ExecBase {
    ExecBase::plain()
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(Some(&dir.path().join("deep/root")));
    (dir, store)
}

#[test]
fn of_many_takers_of_one_id_one_wins() {
    let (_dir, store) = store();
    let id: ContainerId = "x".parse().unwrap();
    let barrier = Barrier::new(8);
    let winners: usize = thread::scope(|scope| {
        let takers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    match store.reserve(&id) {
                        Ok(new) => {
                            new.keep();
                            1
                        }
                        Err(StoreError::Exists) => 0,
                        Err(error) => panic!("{error:?}"),
                    }
                })
            })
            .collect();
        takers.into_iter().map(|taker| taker.join().unwrap()).sum()
    });
    assert_eq!(winners, 1);
}

#[test]
fn entry_that_is_not_kept_leaves_nothing() {
    let (_dir, store) = store();
    let id: ContainerId = "x".parse().unwrap();
    drop(store.reserve(&id).unwrap());
    assert!(store.ids().unwrap().is_empty());
    assert!(matches!(store.open(&id), Err(StoreError::NotFound { .. })));
    let mut new = store.reserve(&id).unwrap();
    new.publish(&state("x"), &exec_base()).unwrap();
    new.remove().unwrap();
    assert!(!store.directory(&id).exists());
}

#[test]
fn state_comes_back_and_updates_do_not_get_lost() {
    let (_dir, store) = store();
    let id: ContainerId = "x".parse().unwrap();
    let mut new = store.reserve(&id).unwrap();
    new.publish(&State { exit_code: Some(0), ..state("x") }, &exec_base()).unwrap();
    new.keep();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let entry = store.open(&id).unwrap();
                for _ in 0..8 {
                    let count = |state: State| State { exit_code: state.exit_code.map(|n| n + 1), ..state };
                    entry.update(|state| state.map(count)).unwrap();
                }
            });
        }
    });
    let read = store.open(&id).unwrap().read().unwrap().unwrap();
    assert_eq!(read.exit_code, Some(64));
    assert_eq!(read.status_now(), Status::Running);
    assert_eq!(ExecBase::read(&store.directory(&id)).unwrap(), exec_base());
    assert_eq!(store.ids().unwrap(), [id]);
}

#[test]
fn state_of_another_boot_or_schema_is_recognised() {
    let (_dir, store) = store();
    let id: ContainerId = "x".parse().unwrap();
    let mut new = store.reserve(&id).unwrap();
    new.publish(&State { boot_id: "before".to_owned(), ..state("x") }, &exec_base()).unwrap();
    assert_eq!(new.entry().read().unwrap().unwrap().status_now(), Status::Stopped);
    new.publish(&State { schema: 99, ..state("x") }, &exec_base()).unwrap();
    assert!(matches!(new.entry().read(), Err(StoreError::Schema { found: 99, .. })));
    fs::write(store.directory(&id).join(STATE_FILE), "{").unwrap();
    assert!(matches!(new.entry().read(), Err(StoreError::Parse { .. })));
}

#[test]
fn late_remover_spares_a_new_container_of_the_same_name() {
    let (_dir, store) = store();
    let id: ContainerId = "x".parse().unwrap();
    store.reserve(&id).unwrap().keep();
    let (quick, late) = (store.open(&id).unwrap(), store.open(&id).unwrap());
    assert!(quick.is_current().unwrap());
    assert!(quick.remove().unwrap());
    assert!(!late.remove().unwrap());
    let mut new = store.reserve(&id).unwrap();
    new.publish(&state("x"), &exec_base()).unwrap();
    assert!(!late.is_current().unwrap() && !late.remove().unwrap());
    let refused = late.update(|_| Some(State { exit_code: Some(1), ..state("x") }));
    assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    assert_eq!(store.open(&id).unwrap().read().unwrap().unwrap().exit_code, None);
    assert!(new.remove().unwrap());
    assert!(store.ids().unwrap().is_empty());
}

#[test]
fn of_many_removers_one_has_removed() {
    let (_dir, store) = store();
    let id: ContainerId = "x".parse().unwrap();
    store.reserve(&id).unwrap().keep();
    let barrier = Barrier::new(8);
    let removed = thread::scope(|scope| {
        let remover = || {
            let entry = store.open(&id).unwrap();
            barrier.wait();
            entry.remove().unwrap()
        };
        let removers: Vec<_> = (0..8).map(|_| scope.spawn(remover)).collect();
        removers.into_iter().map(|remover| remover.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(removed, 1);
}

/// The files of `tests/golden/state`, which are never changed: what a `vmrun` of once wrote, and one of today's.
fn golden_state(name: &str) -> State {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/state").join(name);
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entry::parse(&path, &text).unwrap()
}

#[test]
fn state_of_the_first_vmrun_is_read_with_what_was_meant_then() {
    let state = golden_state("first.json");
    assert_eq!((&*state.id, state.status, state.monitor.pid), ("web", Status::Running, 4242));
    assert_eq!(state.control_version, control::BEFORE_GREETINGS);
    assert_eq!((state.cgroup, state.network, state.exit_code), (None, None, None));
    assert!(state.scope.is_none() && state.poststart.is_empty() && !state.notifies);
    assert_eq!(state.poststop.len(), 1);
}

#[test]
fn state_of_before_greetings_is_read_with_what_was_meant_then() {
    let state = golden_state("before-greetings.json");
    assert_eq!(state.control_version, control::BEFORE_GREETINGS);
    assert_eq!(state.cgroup.as_deref(), Some(Path::new("/sys/fs/cgroup/web")));
    assert!(state.notifies);
}

#[test]
fn state_of_today_is_written_as_it_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/state/today.json");
    let text: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(serde_json::to_value(golden_state("today.json")).unwrap(), text);
    // A field that is new gets a place in this file, and what it means in older ones gets a test above.
    assert_eq!(
        serde_json::to_value(state("x")).unwrap().as_object().unwrap().len(),
        text.as_object().unwrap().len()
    );
}

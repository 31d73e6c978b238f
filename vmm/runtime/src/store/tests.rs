use std::sync::Barrier;
use std::thread;

use super::*;
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

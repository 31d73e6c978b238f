//! Where containers are remembered, and how their directories go.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Bundle, Mounted, Outcome, Run, Scratch, end_of, place};

/// `vmrun` as another user, who has these variables and no others.
fn vmrun_as(uid: u32, variables: &[(&str, &Path)], wrapper: &[&str], words: &[&str]) -> Outcome {
    let user = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).args(wrapper);
    command.arg(&place().vmrun).args(words).env_clear().envs(variables.iter().copied());
    end_of(&mut command)
}

#[test]
fn store_that_another_user_has_made_is_refused() {
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o1777)).unwrap();
    let (uid, store) = (61_234, scratch.join("vmrun-61234"));
    let list = || vmrun_as(uid, &[("TMPDIR", scratch.path())], &[], &["list"]);
    list().ok();
    fs::create_dir(&store).unwrap();
    chown(&store, Some(uid + 1), Some(uid + 1)).unwrap();
    let refused = |why: &str| {
        list().fails_with(1, &["cannot list", "vmrun-61234", why, "XDG_RUNTIME_DIR", "--root"]);
    };
    refused("belongs to another user");
    chown(&store, Some(uid), Some(uid)).unwrap();
    list().ok();
    fs::set_permissions(&store, Permissions::from_mode(0o770)).unwrap();
    refused("can be written to by others");
    fs::remove_dir(&store).unwrap();
    symlink(scratch.directory("elsewhere"), &store).unwrap();
    refused("is not a directory");
}

/// A store in `directory` that is that user's, with a container that is not one: whoever looks into it
/// complains.
fn store_of(uid: u32, directory: &Path) {
    let entry = directory.join("vmrun/mine");
    fs::create_dir_all(&entry).unwrap();
    fs::write(entry.join("state.json"), "{").unwrap();
    fs::set_permissions(directory.join("vmrun"), Permissions::from_mode(0o700)).unwrap();
    for path in [directory, &directory.join("vmrun"), &entry, &entry.join("state.json")] {
        chown(path, Some(uid), Some(uid)).unwrap();
    }
}

#[test]
fn root_of_a_user_namespace_has_the_store_of_its_user() {
    let scratch = Scratch::new();
    let (uid, own) = (61_235, scratch.directory("own"));
    store_of(uid, &own);
    let variables = [("XDG_RUNTIME_DIR", own.as_path())];
    for wrapper in [&[][..], &["unshare", "--user", "--map-root-user"]] {
        let outcome = vmrun_as(uid, &variables, wrapper, &["state", "mine"]);
        outcome.fails_with(1, &["cannot read", "own/vmrun/mine/state.json"]);
    }
}

#[test]
fn users_store_is_in_their_runtime_directory_also_when_no_variable_names_it() {
    let uid = 61_236;
    let own = Owned(format!("/run/user/{uid}").into());
    store_of(uid, &own.0);
    for wrapper in [&[][..], &["unshare", "--user", "--map-root-user"]] {
        let outcome = vmrun_as(uid, &[], wrapper, &["state", "mine"]);
        outcome.fails_with(1, &["cannot read", "/run/user/61236/vmrun/mine/state.json"]);
    }
}

/// A directory outside of a scratch place.
struct Owned(PathBuf);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_mounted_in_a_containers_directory_is_in_the_way_of_its_removal() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("true");
    let container = Run::of(&bundle).detach();
    container.await_status("stopped");
    let share = container.started.store.join(&container.started.id).join("share");
    scratch.file("precious", "");
    let mounted = Mounted::new(&["--bind", scratch.path().to_str().unwrap()], &share);
    container.verb("delete", &[]).fails_with(1, &["cannot delete", "share", "mounted there", "unmount"]);
    assert!(scratch.join("precious").exists());
    drop(mounted);
    container.delete();
}

//! Where things are; `tests/e2e/inside` says so in the environment.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The files that the tests are about.
#[derive(Debug)]
pub(crate) struct Place {
    /// The built `vmrun`.
    pub(crate) vmrun: PathBuf,
    /// Sample root file systems; nobody writes into them.
    pub(crate) busybox: PathBuf,
    pub(crate) debian: PathBuf,
}

/// The one of this run.
pub(crate) fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| Place {
        vmrun: existing("VMRUN_E2E_VMRUN"),
        busybox: existing("VMRUN_E2E_BUSYBOX"),
        debian: existing("VMRUN_E2E_DEBIAN"),
    })
}

fn existing(name: &str) -> PathBuf {
    let Some(value) = std::env::var_os(name) else {
        panic!("{name} is not set: run these tests with tests/e2e/run");
    };
    let path = Path::new(&value);
    path.canonicalize().unwrap_or_else(|error| panic!("{name}={}: {error}", path.display()))
}

//! The network of a sandbox that stands alone: what `--network` and `--publish` change of the bundle,
//! and the file that names the name servers.

use std::fs;
use std::path::{Path, PathBuf};

use vmrun_plan::{Bundle, add_network_namespace, mount_resolv_conf, resolv_conf, user_network};
use vmrun_spec::{UserNetwork, VolumeKind};

use super::{LaunchError, LaunchOptions};
use crate::error::Error;

/// The host's own.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The guest's, in the container's directory.
const FILE: &str = "resolv.conf";

/// What became of the choice.
pub(super) struct Alone {
    /// The caller's network is to be reached.
    pub(super) user: Option<UserNetwork>,
    /// The file that is mounted into the container.
    file: Option<PathBuf>,
}

/// Brings the choice into the bundle's configuration.
pub(super) fn choose(bundle: &mut Bundle, options: &LaunchOptions, directory: &Path) -> Result<Alone, Error> {
    let user = user_network(&bundle.spec, options.network.as_ref(), &options.ports)?;
    if options.network.is_some() {
        add_network_namespace(&mut bundle.spec);
    }
    let file = directory.join(FILE);
    let mounted = user.is_some() && mount_resolv_conf(&mut bundle.spec, &file);
    Ok(Alone { user, file: mounted.then_some(file) })
}

impl Alone {
    /// The plan has to know of what is mounted, which is made after it.
    pub(super) fn sources(&self) -> Option<(PathBuf, VolumeKind)> {
        self.file.clone().map(|file| (file, VolumeKind::File))
    }

    /// Once there is a directory for them.
    pub(super) fn write_files(&self) -> Result<(), LaunchError> {
        let Some(file) = &self.file else { return Ok(()) };
        // A host without the file has no name servers.
        let hosts = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        fs::write(file, resolv_conf(&hosts)).map_err(LaunchError::io("write the guest's resolv.conf"))
    }
}

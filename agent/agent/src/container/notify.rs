//! The container's place for the socket on which its program says how it is.

use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{MountBuilder, Spec};

/// Name of the socket in its directory.
pub(crate) const NOTIFY_SOCKET: &str = "notify.sock";

/// Where its directory is in the container: runc's place.
const PLACE: &str = "/run/notify";

/// The configuration with the socket in `directory`, and the program told of it.
pub(crate) fn offer(spec: &Spec, directory: &Path) -> Result<Spec, OciSpecError> {
    let mut spec = spec.clone();
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let mount =
        MountBuilder::default().destination(PLACE).source(directory).typ("bind").options(options).build()?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        env.push(format!("NOTIFY_SOCKET={PLACE}/{NOTIFY_SOCKET}"));
        process.set_env(Some(env));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn program_is_told_of_the_socket_last_and_finds_it_mounted() {
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "env": ["A=1", "NOTIFY_SOCKET=/x"]},
            "mounts": [{"destination": "/run", "type": "tmpfs"}],
        });
        let spec = offer(&serde_json::from_value(spec).unwrap(), Path::new("/state/notify")).unwrap();
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(env.last().unwrap(), "NOTIFY_SOCKET=/run/notify/notify.sock");
        let mounts = spec.mounts().clone().unwrap();
        assert_eq!(mounts[1].destination(), Path::new("/run/notify"));
        assert_eq!(mounts[1].source().as_deref(), Some(Path::new("/state/notify")));
    }
}

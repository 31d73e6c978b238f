//! `linux.devices`: what can be made of it.

use std::path::{Component, Path};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use crate::validate::PlanError;

const OUTSIDE: &str = "devices are made below /dev alone; take a path there";

/// Refuses a device that cannot be made, or not there.
pub(crate) fn check(spec: &Spec) -> Result<(), PlanError> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    devices.iter().enumerate().try_for_each(|(index, device)| check_one(index, device))
}

fn check_one(index: usize, device: &LinuxDevice) -> Result<(), PlanError> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let path = device.path();
    if !path.is_absolute() {
        let problem = format!("{:?} is not an absolute path", path.display().to_string());
        return Err(PlanError::invalid(field("path"), problem));
    }
    if !is_below_dev(path) {
        return Err(PlanError::Unsupported {
            field: format!("{}: {}", field("path"), path.display()),
            why: OUTSIDE,
        });
    }
    if device.typ() == LinuxDeviceType::A {
        return Err(PlanError::invalid(field("type"), "\"a\" is all types, of which a device has one"));
    }
    let numbers = [("major", device.major()), ("minor", device.minor())];
    match numbers.into_iter().find(|(_, number)| *number < 0) {
        Some((name, number)) => Err(PlanError::invalid(field(name), format!("{number} is below 0"))),
        None => Ok(()),
    }
}

fn is_below_dev(path: &Path) -> bool {
    let leads_out = path.components().any(|part| part == Component::ParentDir);
    path.starts_with("/dev") && path != Path::new("/dev") && !leads_out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn error(device: &Value) -> String {
        let spec = json!({ "ociVersion": "1.0.2", "linux": { "devices": [device] } });
        check(&serde_json::from_value(spec).unwrap())
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn devices_that_cannot_be_made_are_refused_by_field() {
        let device = |path: &str, typ: &str, minor: i64| json!({ "path": path, "type": typ, "major": 1, "minor": minor });
        for (device, field) in [
            (device("", "c", 3), "path"),
            (device("dev/x", "c", 3), "path"),
            (device("/x", "c", 3), "path: /x"),
            (device("/dev/../x", "c", 3), "path: /dev/../x"),
            (device("/dev", "c", 3), "path: /dev"),
            (device("/dev/x", "a", 3), "type"),
            (device("/dev/x", "b", -1), "minor"),
        ] {
            let error = error(&device);
            assert!(error.starts_with(&format!("config.json: linux.devices[0].{field}: ")), "{error}");
        }
        assert_eq!(error(&json!({ "path": "/dev/fifo", "type": "p" })), "");
        assert_eq!(error(&device("/dev/net/tun", "c", 200)), "");
    }
}

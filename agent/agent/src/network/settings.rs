//! Settings below `/proc/sys/net`, in the namespace in which the thread is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path};

use vmrun_proto::{INTERFACE_SETTINGS, Interface};

use super::apply::words;

const SETTINGS: &str = "/proc/sys/net";

/// Gives the interface its settings, where they are others than `before`. What the container has made of the others
/// stays.
pub(super) fn apply(interface: &Interface, before: &BTreeMap<String, i32>) -> Result<(), String> {
    for (name, value) in changes(before, &interface.settings) {
        let [family, setting] = parts(name).ok_or_else(|| no_setting(name, &interface.name))?;
        let path = Path::new(SETTINGS).join(family).join("conf").join(&interface.name).join(setting);
        write(&path, &value.to_string())?;
    }
    Ok(())
}

/// Gives the namespace as a whole its settings, where they are others than `before`. Some are taken only when others
/// are there, like a range of ports below which all are privileged: what fails is tried again after all others.
pub(super) fn apply_all(
    before: &BTreeMap<String, String>,
    settings: &BTreeMap<String, String>,
) -> Result<(), String> {
    let mut refused = Vec::new();
    for (name, value) in settings.iter().filter(|(name, value)| before.get(*name) != Some(*value)) {
        let is_below = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !is_below {
            return Err(no_setting(name, "the network"));
        }
        let path = Path::new(SETTINGS).join(name);
        if write(&path, value).is_err() {
            refused.push((path, value));
        }
    }
    refused.into_iter().try_for_each(|(path, value)| write(&path, value))
}

/// Settings of an interface, others than `settings` and than the default: all that count are written then.
pub(super) fn unlike(settings: &BTreeMap<String, i32>) -> BTreeMap<String, i32> {
    let of_all = ["ipv4/forwarding", "ipv6/disable_ipv6", "ipv6/forwarding"].map(str::to_owned);
    let names = settings.keys().cloned().chain(of_all);
    names.map(|name| (name, i32::MIN)).collect()
}

/// What is another one now; what is not told any more is the kernel's default again.
fn changes<'s>(
    before: &'s BTreeMap<String, i32>,
    now: &'s BTreeMap<String, i32>,
) -> impl Iterator<Item = (&'s str, i32)> {
    let new = now.iter().filter(|(name, value)| before.get(*name) != Some(*value));
    let default =
        |name: &str| INTERFACE_SETTINGS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let gone = gone.filter_map(move |name| Some((name.as_str(), default(name)?)));
    gone.chain(new.map(|(name, value)| (name.as_str(), *value)))
}

fn parts(name: &str) -> Option<[&std::ffi::OsStr; 2]> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Component::Normal(family)), Some(Component::Normal(setting)), None) => Some([family, setting]),
        _ => None,
    }
}

fn no_setting(name: &str, whose: &str) -> String {
    format!("{name:?} is no setting of {whose}")
}

fn write(path: &Path, value: &str) -> Result<(), String> {
    match fs::write(path, value) {
        // The host's kernel may have more of them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => {
            other.map_err(|error| format!("cannot set {} to {value}: {}", path.display(), words(&error)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_written_and_what_is_gone_is_the_default() {
        let settings = |pairs: &[(&str, i32)]| -> BTreeMap<String, i32> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let before = settings(&[("ipv4/forwarding", 1), ("ipv6/disable_ipv6", 1), ("ipv6/hop_limit", 9)]);
        let now = settings(&[("ipv4/forwarding", 1), ("ipv4/rp_filter", 2), ("ipv6/hop_limit", 10)]);
        let changed: Vec<_> = changes(&before, &now).collect();
        assert_eq!(changed, [("ipv6/disable_ipv6", 0), ("ipv4/rp_filter", 2), ("ipv6/hop_limit", 10)]);
    }

    #[test]
    fn names_lead_nowhere_else() {
        let outside = BTreeMap::from([("../kernel/hostname".to_owned(), "x".to_owned())]);
        assert!(apply_all(&BTreeMap::new(), &outside).is_err_and(|error| error.contains("no setting")));
        assert_eq!(parts("ipv4/../forwarding"), None);
        assert_eq!(parts("/ipv4/forwarding"), None);
    }

    #[test]
    fn new_interface_has_what_others_may_have_written_for_all() {
        let settings = BTreeMap::from([("ipv6/forwarding".to_owned(), 1), ("ipv4/rp_filter".to_owned(), 2)]);
        let before = unlike(&settings);
        let mut changed: Vec<_> = changes(&before, &settings).collect();
        changed.sort_unstable();
        let expected =
            [("ipv4/forwarding", 0), ("ipv4/rp_filter", 2), ("ipv6/disable_ipv6", 0), ("ipv6/forwarding", 1)];
        assert_eq!(changed, expected);
    }
}

//! `linux.resources`: what is written to the cgroup, and what is said when the kernel refuses it.

use oci_spec::runtime::{LinuxResources, Spec};

use super::cgroup::Cgroup;
use super::create::words;
use super::program::chain;

/// Sets the limits of the configuration.
pub(crate) fn apply(spec: &Spec, cgroup: &Cgroup) -> Result<(), String> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let Some(resources) = resources.filter(|resources| limits_something(resources)) else { return Ok(()) };
    cgroup.apply(resources).map_err(|error| explain(&format!("{error:?}"), &chain(&error)))
}

/// Engines always write rules for devices, which are not written to files.
fn limits_something(resources: &LinuxResources) -> bool {
    let without_devices = |resources: &LinuxResources| {
        let mut resources = resources.clone();
        resources.set_devices(None);
        resources
    };
    without_devices(resources) != without_devices(&LinuxResources::default())
}

/// The library has the file, what was written there and the system's number in its value alone.
fn explain(value: &str, text: &str) -> String {
    let file = value.split_once("WrappedIo(").and_then(|(_, io)| text_after(io, "path: \""));
    let Some(file) = file else { return format!("linux.resources: cannot apply them: {text}") };
    let file = file.rsplit('/').next().unwrap_or(file);
    let data = text_after(value, "data: \"").map_or_else(String::new, |data| format!("{data:?} to "));
    let act = if data.is_empty() { "use" } else { "write" };
    let number = value.split_once("Os { code: ").and_then(|(_, os)| os.split(',').next()?.parse().ok());
    let cause =
        number.map_or_else(|| text.to_owned(), |number| words(std::io::Error::from_raw_os_error(number)));
    format!("linux.resources: cannot {act} {data}{file} of the container's cgroup: {cause}")
}

fn text_after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_told_by_the_file_that_refuses_them() {
        let value = "CpuController(WrappedIo(Write { err: Os { code: 22, kind: InvalidInput, \
                     message: \"Invalid argument\" }, path: \"/sys/fs/cgroup/x/cpu.max\", data: \"1 100000\" }))";
        let expected = "linux.resources: cannot write \"1 100000\" to cpu.max of the container's cgroup: Invalid argument";
        assert_eq!(explain(value, "x"), expected);
        let expected = "linux.resources: cannot apply them: malformed page size 3";
        assert_eq!(explain("MalformedPageSize { page_size: 3 }", "malformed page size 3"), expected);
    }

    #[test]
    fn rules_for_devices_are_no_limits() {
        let limits = |resources| limits_something(&serde_json::from_value(resources).unwrap());
        assert!(!limits(json!({ "devices": [{ "allow": false, "access": "rwm" }] })) && !limits(json!({})));
        assert!(limits(json!({ "pids": { "limit": 5 } })));
    }
}

//! What the host's kernel is set to, for the guest's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;

/// More than any of them has.
const MOST_BYTES: usize = 1024;

/// Reads settings by their paths below `/proc/sys`. One that this kernel does not have, or does
/// not show, is left out.
pub(crate) fn read(names: &[&str]) -> BTreeMap<String, String> {
    names.iter().filter_map(|name| Some(((*name).to_owned(), value(name)?))).collect()
}

/// The kernel gives all of one at the first read: no look at the size before, and none for the end after.
fn value(name: &str) -> Option<String> {
    let mut bytes = [0; MOST_BYTES];
    let length = File::open(format!("/proc/sys/{name}")).ok()?.read(&mut bytes).ok()?;
    // One that may go on is none that we know.
    let value = bytes.get(..length).filter(|value| value.len() < MOST_BYTES)?;
    Some(std::str::from_utf8(value).ok()?.trim().to_owned())
}

/// All that the guest's kernel gets. It takes a while of which the guest needs more to boot.
pub(crate) fn for_the_guest() -> BTreeMap<String, String> {
    let hosts = read(vmrun_plan::KERNEL_SETTINGS);
    let promises = vmrun_plan::refuses_memory(&hosts).then(promises).flatten();
    vmrun_plan::for_the_guest(hosts, ram(), promises)
}

/// This host's memory in KiB.
fn ram() -> u64 {
    let told = rustix::system::sysinfo();
    told.totalram.saturating_mul(told.mem_unit.into()) >> 10
}

fn promises() -> Option<vmrun_plan::Promises> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    let memory = kib("MemTotal")?.saturating_add(kib("SwapTotal")?);
    Some(vmrun_plan::Promises { memory, limit: kib("CommitLimit")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_unknown_ones_left_out() {
        let read = read(&["kernel/pid_max", "kernel/nonsense"]);
        assert_eq!(read.len(), 1);
        assert!(read["kernel/pid_max"].parse::<u64>().is_ok());
    }

    #[test]
    fn memory_is_what_meminfo_says() {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
        assert_eq!(line.trim(), format!("{} kB", ram()));
    }

    #[test]
    fn this_host_tells_how_much_it_promises() {
        assert!(promises().is_some_and(|promises| promises.memory > 0 && promises.limit > 0));
    }
}

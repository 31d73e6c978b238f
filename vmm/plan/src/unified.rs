//! `linux.resources.unified`: files of a cgroup, some of which have a field of their own.
//!
//! A file is written after the fields, so what it says counts. Numbers are read as the kernel reads them.

use oci_spec::runtime::{LinuxCpu, LinuxResources};

/// Numbers of the host's processors and of its memory nodes.
pub(crate) const CPUS: &str = "cpuset.cpus";
pub(crate) const MEMORY_NODES: &str = "cpuset.mems";

/// The kernel's period, where none is given.
const PERIOD: u64 = 100_000;

/// Behind a number of bytes, in either case: powers of two.
const UNITS: &[(char, u32)] = &[('k', 10), ('m', 20), ('g', 30), ('t', 40), ('p', 50), ('e', 60)];

/// What is to be written to a file of the cgroup.
pub(crate) fn file<'a>(resources: &'a LinuxResources, name: &str) -> Option<&'a str> {
    Some(resources.unified().as_ref()?.get(name)?.trim())
}

/// The name of its field.
pub(crate) fn field(file: &str) -> String {
    format!("linux.resources.unified[{file:?}]")
}

/// Bytes that the container may have, if that is limited.
pub(crate) fn memory_limit(resources: &LinuxResources) -> Option<u64> {
    match file(resources, "memory.max") {
        Some(text) => bytes(text),
        None => u64::try_from(resources.memory().as_ref()?.limit()?).ok().filter(|bytes| *bytes > 0),
    }
}

/// Microseconds of CPU time, and the period in which it may have them, if that is limited.
pub(crate) fn cpu_quota(resources: &LinuxResources) -> Option<(u64, u64)> {
    let cpu = resources.cpu().as_ref();
    let period = cpu.and_then(LinuxCpu::period).filter(|period| *period > 0).unwrap_or(PERIOD);
    let Some(text) = file(resources, "cpu.max") else {
        let quota = u64::try_from(cpu?.quota()?).ok().filter(|quota| *quota > 0)?;
        return Some((quota, period));
    };
    let mut words = text.split_ascii_whitespace();
    let mut positive =
        |missing| words.next().map_or(missing, |word| word.parse().ok()).filter(|&word| word > 0);
    Some((positive(None)?, positive(Some(period))?))
}

/// The number in a file that counts bytes, like `64M`; none in `max`, or where the kernel reads none.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?.to_ascii_lowercase();
    let unit = UNITS.iter().find(|(name, _)| *name == unit).filter(|_| digits(text).1 != 16 || unit != 'e');
    match unit {
        Some((_, shift)) => number(text.get(..text.len() - 1)?)?.checked_mul(1 << shift),
        None => number(text),
    }
}

/// The number in a file, which may be one in eights or sixteens.
pub(crate) fn number(text: &str) -> Option<u64> {
    let (digits, base) = digits(text);
    // It would take a sign.
    let plain = digits.bytes().all(|digit| digit.is_ascii_alphanumeric());
    u64::from_str_radix(digits, base).ok().filter(|_| plain)
}

fn digits(text: &str) -> (&str, u32) {
    let in_sixteens = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match (in_sixteens, text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if digits.starts_with(|first: char| first.is_ascii_digit()) => (digits, 8),
        _ => (text, 10),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resources(value: Value) -> LinuxResources {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        let table = [
            ("67108864", Some(64 << 20)),
            ("64M", Some(64 << 20)),
            ("64m", Some(64 << 20)),
            ("1G", Some(1 << 30)),
            ("1e", Some(1 << 60)),
            ("0", Some(0)),
            ("0x10", Some(16)),
            ("0x1e", Some(30)),
            ("0x1M", Some(1 << 20)),
            ("010", Some(8)),
        ];
        for (text, number) in table {
            assert_eq!(bytes(text), number, "{text}");
        }
        for none in ["", "max", "M", "-1", "+1", "0x", "09", "1.5G", "64MB", "99999999999T"] {
            assert_eq!(bytes(none), None, "{none}");
        }
    }

    #[test]
    fn file_counts_more_than_the_field() {
        let memory = |value: Value| memory_limit(&resources(value));
        assert_eq!(memory(json!({"memory": {"limit": 5}})), Some(5));
        assert_eq!(memory(json!({"memory": {"limit": 5}, "unified": {"memory.max": "1K\n"}})), Some(1024));
        assert_eq!(memory(json!({"memory": {"limit": 5}, "unified": {"memory.max": "max"}})), None);
        assert_eq!(memory(json!({"memory": {"limit": -1}})), None);
        let cpu = |value: Value| cpu_quota(&resources(value));
        assert_eq!(cpu(json!({"cpu": {"quota": 7}})), Some((7, PERIOD)));
        assert_eq!(cpu(json!({"unified": {"cpu.max": "400000 50000"}})), Some((400_000, 50_000)));
        assert_eq!(cpu(json!({"cpu": {"quota": 7, "period": 9}, "unified": {"cpu.max": "8"}})), Some((8, 9)));
        for none in ["max", "max 50000", "", "0", "7 0", "x"] {
            assert_eq!(cpu(json!({"cpu": {"quota": 7}, "unified": {"cpu.max": none}})), None, "{none}");
        }
    }
}

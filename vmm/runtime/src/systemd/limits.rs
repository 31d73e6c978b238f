//! Limits in systemd's words. What it has none for is only written.

use vmrun_spec::HostLimit;

use super::wire::{Property, Value};

/// systemd's word for no limit.
const NONE: u64 = u64::MAX;

const MICROSECONDS: u64 = 1_000_000;

/// The kernel's period, where none is given.
const PERIOD: u64 = 100_000;

/// What the limit is called there; for a quota that is two properties.
pub(super) fn properties(limit: &HostLimit) -> Vec<Property> {
    let value = limit.value.trim();
    let one = |name| number(value).map(|number| (name, Value::Number(number))).into_iter().collect();
    let set = |name| processors(value).map(|bits| (name, Value::Bytes(bits))).into_iter().collect();
    match limit.file.as_str() {
        "cpu.weight" => one("CPUWeight"),
        "cpu.max" => quota(value),
        "cpuset.cpus" => set("AllowedCPUs"),
        "cpuset.mems" => set("AllowedMemoryNodes"),
        "io.weight" => one("IOWeight"),
        "memory.max" => one("MemoryMax"),
        "memory.low" => one("MemoryLow"),
        "memory.min" => one("MemoryMin"),
        "memory.swap.max" => one("MemorySwapMax"),
        "pids.max" => one("TasksMax"),
        _ => Vec::new(),
    }
}

fn number(value: &str) -> Option<u64> {
    if value == "max" { Some(NONE) } else { value.parse().ok() }
}

/// `QUOTA [PERIOD]`: time for each second, in steps of a hundredth of it.
fn quota(value: &str) -> Vec<Property> {
    let mut words = value.split_ascii_whitespace();
    let Some(quota) = words.next().and_then(number) else { return Vec::new() };
    let given = words.next().and_then(|word| word.parse::<u64>().ok()).filter(|period| *period > 0);
    let step = MICROSECONDS / 100;
    let of_a_second = match quota {
        NONE => NONE,
        quota => {
            let exact = quota.saturating_mul(MICROSECONDS) / given.unwrap_or(PERIOD);
            exact.checked_next_multiple_of(step).unwrap_or(NONE)
        }
    };
    let period = given.map(|period| ("CPUQuotaPeriodUSec", Value::Number(period)));
    [("CPUQuotaPerSecUSec", Value::Number(of_a_second))].into_iter().chain(period).collect()
}

/// A bit for each, the first one the lowest of the first byte.
fn processors(list: &str) -> Option<Vec<u8>> {
    let numbers = vmrun_plan::online_processors(list).ok()?;
    let last = usize::try_from(*numbers.last()?).ok()?;
    let mut bits = vec![0u8; last / 8 + 1];
    for number in numbers {
        let at = usize::try_from(number / 8).ok()?;
        *bits.get_mut(at)? |= 1 << (number % 8);
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(file: &str, value: &str) -> Vec<Property> {
        properties(&HostLimit { file: file.to_owned(), value: value.to_owned(), ..HostLimit::default() })
    }

    #[test]
    fn quotas_are_rounded_up_to_whole_hundredths() {
        let number = |name, number| (name, Value::Number(number));
        assert_eq!(
            told("cpu.max", "50000 100000"),
            [number("CPUQuotaPerSecUSec", 500_000), number("CPUQuotaPeriodUSec", 100_000)]
        );
        assert_eq!(told("cpu.max", "33333"), [number("CPUQuotaPerSecUSec", 340_000)]);
        assert_eq!(told("cpu.max", "max"), [number("CPUQuotaPerSecUSec", NONE)]);
    }

    #[test]
    fn processors_are_bits_and_max_is_no_limit() {
        assert_eq!(told("cpuset.cpus", "0-1,9"), [("AllowedCPUs", Value::Bytes(vec![3, 2]))]);
        assert_eq!(told("cpuset.cpus", ""), []);
        assert_eq!(told("memory.swap.max", "max"), [("MemorySwapMax", Value::Number(NONE))]);
        assert_eq!(told("pids.max", "100"), [("TasksMax", Value::Number(100))]);
        assert_eq!(told("cpu.idle", "1"), []);
    }
}

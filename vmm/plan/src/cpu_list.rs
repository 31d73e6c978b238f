//! Lists of CPUs as `cpuset(7)` has them: `0-3,7`.

use std::collections::BTreeSet;

/// What the kernel's sets of CPUs have room for, here and in the guest.
const MOST_CPUS: u32 = 1024;

/// The numbers in `list`, which may be none.
pub(crate) fn parse(list: &str) -> Result<BTreeSet<u32>, String> {
    let mut numbers = BTreeSet::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
            return Err(format!("{part:?} is no CPU and no range of them"));
        };
        if first > last {
            return Err(format!("{part:?} ends before it begins"));
        }
        if last >= MOST_CPUS {
            return Err(format!("{part:?} goes beyond CPU {}", MOST_CPUS - 1));
        }
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_numbers_are_added_up() {
        let all = |list| parse(list).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(all("0-2,7"), [0, 1, 2, 7]);
        assert_eq!(all(" 1 , 2,"), [1, 2]);
        assert_eq!(all("3,0-1"), [0, 1, 3]);
        assert!(all("").is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for (bad, part) in
            [("2-1", "ends before"), ("0-1024", "beyond CPU 1023"), ("x", "no range"), ("-1", "no range")]
        {
            let problem = parse(bad).unwrap_err();
            assert!(problem.contains(part), "{bad:?} gives {problem:?}");
        }
    }
}

//! What a measurement was made on.

use std::fs;

use crate::report::Host;

impl Host {
    /// This machine.
    pub(crate) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            kernel: release.trim().to_owned(),
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_is_found_by_its_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: Some CPU @ 2: GHz\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2: GHz"));
        assert_eq!(field(text, "name"), None);
        assert!(Host::here().processors > 0);
    }
}

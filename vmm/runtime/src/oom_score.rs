//! How likely the kernel's OOM killer is to choose this process.

use std::io;

/// Its own, for this process and every thread that it has or will have.
const OWN: &str = "/proc/self/oom_score_adj";

/// Sets what is added to its badness. Less than it was takes `CAP_SYS_RESOURCE`.
pub(crate) fn set(score: i32) -> io::Result<()> {
    std::fs::write(OWN, score.to_string())
}

/// What it is now.
pub(crate) fn own() -> io::Result<i32> {
    std::fs::read_to_string(OWN)?.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_may_set_what_there_is() {
        set(own().unwrap()).unwrap();
    }
}

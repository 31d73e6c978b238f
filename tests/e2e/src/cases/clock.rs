//! What time it is in the guest.

use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::support::{Bundle, Run};

/// The guest's clock is set wrong instead of the host's, which others go by. That the host's is set, if to
/// what it shows, is what has them compared at once.
#[test]
fn clock_of_the_guest_follows_the_hosts() {
    let script = "date -s @1000000000 >/dev/null; echo set; until [ $(date +%s) -gt 1700000000 ]; do sleep 0.1; done; \
        date +%s";
    let bundle = Bundle::shell(script).capabilities(&["CAP_SYS_TIME"]);
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "set\n");
    let clock = ClockId::CLOCK_REALTIME;
    let before = clock_gettime(clock).unwrap().tv_sec();
    clock_settime(clock, clock_gettime(clock).unwrap()).unwrap();
    let outcome = started.finish();
    let seen: i64 = outcome.ok().strip_prefix("set\n").unwrap().trim().parse().unwrap();
    let after = clock_gettime(clock).unwrap().tv_sec();
    assert!((before - 1..=after + 1).contains(&seen), "{before} {seen} {after}");
}

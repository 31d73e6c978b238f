//! Standard streams.

use crate::support::{Bundle, Run, Runtime};

#[test]
fn stdout_and_stderr_come_apart() {
    Bundle::shell("echo out; echo err >&2; echo more").on_both(|outcome| {
        assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("out\nmore\n", "err\n"));
        outcome.exits(0);
    });
}

#[test]
fn stdin_reaches_the_program_and_ends() {
    let bundle = Bundle::shell("cat; echo end");
    for runtime in [Runtime::Crun, Runtime::Vmrun] {
        Run::of(&bundle).on(runtime).input("one\ntwo\n").finish().prints("one\ntwo\nend\n");
    }
}

//! Exit codes.

use serde_json::json;

use crate::support::Bundle;

#[test]
fn exit_code_is_the_programs() {
    for code in [0, 7, 255] {
        Bundle::shell(&format!("exit {code}")).on_both(|outcome| {
            outcome.exits(code);
        });
    }
}

#[test]
fn death_by_signal_is_128_and_the_signal() {
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        // A namespace's first process is not killed by signals from within.
        Bundle::shell(&format!("sh -c 'kill -{signal} $$'; exit $?")).on_both(|outcome| {
            outcome.exits(code);
        });
        let alone = Bundle::shell(&format!("kill -{signal} $$"))
            .set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "uts" }]));
        alone.on_both(|outcome| {
            outcome.exits(code);
        });
    }
}

#[test]
fn program_missing_exits_127() {
    let missing = Bundle::shell("").args(&["/no/such/program"]);
    missing.run().fails_with(127, &["cannot run", "/no/such/program"]);
    Bundle::shell("").args(&["nosuch"]).run().fails_with(127, &["cannot run", "nosuch", "PATH"]);
}

#[test]
fn program_not_executable_exits_126() {
    Bundle::shell("").args(&["/etc/passwd"]).run().fails_with(126, &["cannot run", "/etc/passwd"]);
    Bundle::shell("").args(&["/etc"]).run().fails_with(126, &["cannot run", "/etc"]);
}

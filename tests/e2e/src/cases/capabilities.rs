//! Capabilities, to the bit.

use serde_json::{Value, json};

use crate::support::{BOTH, Bundle};

const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const NET_BIND: u64 = 1 << 10;
const NET_RAW: u64 = 1 << 13;
const AUDIT_WRITE: u64 = 1 << 29;

/// CapInh, CapPrm, CapEff, CapBnd, CapAmb, as `/proc/PID/status` has them.
fn expect(capabilities: Option<Value>, user: u32, sets: [u64; 5]) {
    let mut bundle = Bundle::shell("")
        .args(&["grep", "^Cap", "/proc/self/status"])
        .set("/process/user", json!({ "uid": user, "gid": user }));
    bundle = match capabilities {
        Some(capabilities) => bundle.set("/process/capabilities", capabilities),
        None => bundle.remove("/process/capabilities"),
    };
    let names = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let expected: String =
        names.iter().zip(sets).map(|(name, set)| format!("{name}:\t{set:016x}\n")).collect();
    bundle.on_both(|outcome| {
        outcome.prints(&expected);
    });
}

#[test]
fn roots_capabilities_are_those_given() {
    let few = AUDIT_WRITE | KILL | NET_BIND;
    let names = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let given = json!({ "bounding": names, "effective": names, "permitted": names });
    expect(Some(given), 0, [0, few, few, few, 0]);
}

#[test]
fn each_set_is_its_own() {
    let given = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_NET_RAW", "CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    // execve makes effective what root is permitted.
    let (permitted, bounding) = (CHOWN | KILL | NET_RAW, CHOWN | KILL | NET_RAW | NET_BIND);
    expect(Some(given.clone()), 0, [NET_RAW | KILL, permitted, permitted, bounding, KILL]);
    // Everybody else keeps what is ambient.
    expect(Some(given), 1000, [NET_RAW | KILL, KILL, KILL, bounding, KILL]);
}

#[test]
fn other_users_keep_nothing_but_the_ambient_ones() {
    let names = json!(["CAP_CHOWN", "CAP_NET_RAW"]);
    let given = json!({ "bounding": names, "effective": names, "permitted": names });
    expect(Some(given), 1000, [0, 0, 0, CHOWN | NET_RAW, 0]);
}

#[test]
fn empty_sets_leave_nothing() {
    let none = json!([]);
    let given = json!({
        "bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none
    });
    expect(Some(given), 0, [0; 5]);
}

#[test]
fn no_capabilities_section_leaves_nothing() {
    expect(None, 0, [0; 5]);
}

#[test]
fn capabilities_decide_what_root_may_do() {
    let script = "touch /tmp/file && chown 7:7 /tmp/file && stat -c %u:%g /tmp/file";
    for runtime in BOTH {
        Bundle::shell(script).capabilities(&["CAP_CHOWN"]).run_on(runtime).prints("7:7\n");
        let outcome = Bundle::shell(script).capabilities(&["CAP_KILL"]).run_on(runtime);
        outcome.exits(1);
        assert!(outcome.err().contains("Operation not permitted"), "{outcome:?}");
    }
}

//! What a program's files cost, counted: requests to the file server, by kind. They do not depend on the machine.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Bundle, Run, Scratch, new_id, vmrun};

/// Each operation is done so often.
const TIMES: u64 = 200;
/// Requests that come once a second, for what the guest knows no longer.
const FEW: u64 = TIMES / 2;

/// Requests so far.
#[track_caller]
pub(super) fn requests(id: &str) -> BTreeMap<String, u64> {
    let event: Value = serde_json::from_str(&vmrun(&[], &["events", "--stats", id]).ok()).unwrap();
    serde_json::from_value(event["data"]["dev.vmrun.file_server"].clone()).unwrap()
}

#[test]
fn small_files_cost_the_requests_that_they_must() {
    let program = format!(
        r"
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def step(act):
    print('ready', flush=True)
    signal.sigwait([signal.SIGUSR1])
    for number in range({TIMES}):
        act(f'/data/{{number}}')
def make(name):
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC))
step(make)
fd = os.open('/data/written', os.O_CREAT | os.O_WRONLY)
step(lambda name: os.write(fd, b'x' * 100))
step(lambda name: os.stat('/data/written'))
step(lambda name: os.close(os.open('/data/written', os.O_RDONLY)))
step(os.unlink)
step(lambda name: None)
"
    );
    let scratch = Scratch::new();
    let bundle = Bundle::python(&program).bind(scratch.path(), "/data", &[]);
    let id = new_id();
    let started = Run::of(&bundle).id(&id).start();
    let mut said = String::new();
    let mut costs = Vec::new();
    for _ in 0..6 {
        said.push_str("ready\n");
        started.stdout.await_text(0, &said);
        costs.push(requests(&id));
        started.signal(Signal::SIGUSR1);
    }
    started.finish().prints(&said);
    let step = |number: usize, kind: &str| {
        let of = |number: usize| costs[number].get(kind).copied().unwrap_or(0);
        of(number + 1) - of(number)
    };
    let [create, write, stat, open, unlink] = [0, 1, 2, 3, 4];
    for (number, kind) in
        [(create, "create"), (create, "release"), (write, "write"), (open, "open"), (unlink, "unlink")]
    {
        // The program has some of its own to do between two steps.
        assert!((TIMES..TIMES + 5).contains(&step(number, kind)), "{number} {kind}: {costs:?}");
    }
    for (number, kind) in [
        (create, "lookup"),
        (create, "getattr"),
        (create, "flush"),
        (write, "getxattr"),
        (stat, "lookup"),
        (stat, "getattr"),
        (open, "lookup"),
        (open, "flush"),
        (unlink, "getattr"),
    ] {
        assert!(step(number, kind) < FEW, "{number} {kind}: {costs:?}");
    }
}

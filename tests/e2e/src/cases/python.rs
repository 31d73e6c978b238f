//! A program that uses much of what an operating system offers.

use serde_json::json;

use crate::support::{BOTH, Bundle, Run, Runtime};

const PROGRAM: &str = include_str!("../programs/everyday.py");

const EXPECTED: &str = "threads: 4950\nsubprocesses: [0, 1, 4, 9]\npipeline: 3\nTCP: 1048576\nTCP over IPv6: 5\n\
    UDP: b'datagram'\nUnix: b'local'\nmapping: 65536\nmemory: 209715200\nmultiprocessing: [0, 1, 4, 9, 16]\n\
    sqlite: 500500\ntemporary files: 100\nsignals: [10, 14]\nasyncio: 10\ntime: True\n";

#[test]
fn everyday_python_program_runs() {
    let bundle = Bundle::python(PROGRAM);
    for runtime in BOTH {
        let run = Run::of(&bundle).on(runtime);
        let run = if runtime == Runtime::Vmrun { run.options(&["--memory", "512"]) } else { run };
        run.finish().prints(EXPECTED);
    }
}

#[test]
fn everyday_python_program_runs_on_two_cpus_as_another_user() {
    let bundle = Bundle::python(PROGRAM)
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
        .set("/process/capabilities", json!({}));
    Run::of(&bundle).options(&["--memory", "512", "--vcpus", "2"]).finish().prints(EXPECTED);
}

//! `run --timeline` and `bench`: what is said of starts.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bundle, Run, Scratch, silent_kernel, vmrun};

/// The marks of a start, in their order.
const MARKS: [&str; 22] = [
    "begun",
    "arguments-parsed",
    "planned",
    "monitor-begun",
    "tree-built",
    "images-found",
    "machine-built",
    "guest-entered",
    "agent-begun",
    "agent-ready",
    "agent-heard",
    "container-ordered",
    "container-made",
    "container-created",
    "program-runs",
    "program-started",
    "program-ended",
    "end-heard",
    "output-drained",
    "monitor-ends",
    "monitor-reaped",
    "removed",
];

fn read(path: &std::path::Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn timeline_has_the_marks_of_host_and_guest_by_one_clock() {
    let scratch = Scratch::new();
    let file = scratch.path().join("timeline.json");
    let bundle = Bundle::shell("env");
    let outcome = Run::of(&bundle).options(&["--cold", "--timeline"]).option(&file).finish();
    // What asks the guest for its marks is not for the program.
    let environment = outcome.ok();
    assert!(!environment.contains("VMRUN"), "{environment}");
    let document = read(&file);
    let marks = document["timeline"]["marks"].as_array().unwrap();
    let at = |name: &str| {
        let mark = marks.iter().find(|mark| mark["name"] == name);
        mark.unwrap_or_else(|| panic!("no {name}: {marks:?}"))["at_ns"].as_u64().unwrap()
    };
    let times: Vec<u64> = MARKS.iter().map(|name| at(name)).collect();
    // The guest goes on while the host's processes do, so the answers to its marks may overtake.
    for pair in
        ["begun", "planned", "monitor-begun", "guest-entered", "agent-begun", "agent-ready", "agent-heard"]
            .windows(2)
            .chain(
                ["agent-heard", "container-ordered", "container-made", "container-created", "program-runs"]
                    .windows(2),
            )
            .chain(["program-runs", "program-ended", "end-heard", "monitor-ends", "removed"].windows(2))
    {
        assert!(at(pair[0]) <= at(pair[1]), "{pair:?}: {marks:?}");
    }
    let phases = document["timeline"]["phases"].as_array().unwrap();
    let sum: u64 = phases.iter().map(|phase| phase["duration_ns"].as_u64().unwrap()).sum();
    assert_eq!(sum, times.iter().max().unwrap() - times.iter().min().unwrap());
    // What viewers open.
    let events = document["traceEvents"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["ph"] == "X").count(), phases.len());
}

#[test]
fn timeline_of_a_start_that_fails_is_written_and_the_failure_told() {
    let scratch = Scratch::new();
    let file = scratch.path().join("timeline.json");
    let bundle = Bundle::shell("").args(&["/no/such/program"]);
    Run::of(&bundle)
        .options(&["--cold", "--timeline"])
        .option(&file)
        .finish()
        .fails_with(127, &["/no/such/program"]);
    assert!(
        read(&file)["timeline"]["marks"].as_array().unwrap().iter().any(|mark| mark["name"] == "agent-begun")
    );
    let nowhere = scratch.path().join("none/timeline.json");
    let outcome = Run::of(&bundle).option("--timeline").option(&nowhere).finish();
    outcome.fails_with(1, &["cannot make the timeline", "none/timeline.json", "check the path"]);
}

fn bench(words: &[&str]) -> crate::support::Outcome {
    vmrun(&[], words)
}

#[test]
fn bench_alternates_with_other_commands_and_writes_what_it_found() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (json_file, page) = (path("r.json"), path("r.html"));
    let said = bench(&[
        "bench",
        "boot",
        "--runs",
        "2",
        "--warmups",
        "0",
        "--vs",
        "true",
        "--vs",
        "sh -c 'echo why >&2; exit 3'",
        "--json",
        &json_file,
        "--html",
        &page,
    ])
    .ok();
    for part in ["guest kernel", "vmrun takes ", "sh was left out: ", "ended with code 3", "why"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let report = read(json_file.as_ref());
    assert_eq!(report["sides"][0]["seconds"].as_array().unwrap().len(), 2);
    assert_eq!(report["comparisons"].as_array().unwrap().len(), 1);
    assert!(report["comparisons"][0]["ratio"]["value"].as_f64().unwrap() > 1.0);
    // Counted, or said why not: nothing in between.
    let counted = &report["sides"][0]["figures"];
    for figure in [
        "system calls",
        "page faults",
        "bytes read",
        "VM exits",
        "VM exits: nested page fault",
        "guest instructions",
    ] {
        let value = counted[figure]["median"].as_f64();
        assert!(
            value.is_some_and(|value| value > 0.0) || report["missing"][figure].is_string(),
            "{figure}: {report}"
        );
    }
    assert_eq!(fs::read_to_string(&page).unwrap().matches("<svg").count(), 4);
    compares_with_a_baseline(&json_file, &report);
}

fn compares_with_a_baseline(file: &str, report: &Value) {
    let words = ["bench", "boot", "--runs", "1", "--warmups", "0", "--counted", "0", "--baseline", file];
    bench(&words).ok();
    let mut slow = report.clone();
    slow["sides"][0]["time"]["median"] = json!(0.000_001);
    fs::write(file, slow.to_string()).unwrap();
    let failed = bench(&[&words[..], &["--fail-if-slower", "50"]].concat());
    failed.exits(1);
    assert!(failed.err().starts_with("vmrun: error: slower than the baseline: vmrun: time"), "{failed:?}");
    slow["host"]["processors"] = json!(1000);
    fs::write(file, slow.to_string()).unwrap();
    let said = bench(&[&words[..], &["--fail-if-slower", "50"]].concat()).ok();
    assert!(said.contains("of another machine"), "{said}");
}

#[test]
fn bench_of_exec_and_density_leaves_nothing() {
    // A store that no other case's sandboxes are in.
    let scratch = Scratch::new();
    let root = scratch.directory("store");
    let in_it = ["--root", root.to_str().unwrap()];
    let said = vmrun(&in_it, &["bench", "exec", "--runs", "2", "--counted", "0"]).ok();
    assert!(said.contains("vmrun exec"), "{said}");
    let file = scratch.join("d.json");
    vmrun(&in_it, &["bench", "density", "-n", "2", "--json", file.to_str().unwrap()]).ok();
    let found = read(&file);
    assert_eq!(found["sandboxes"].as_array().unwrap().len(), 2);
    assert!(found["private"]["median"].as_f64().unwrap() > 0.0 && found["limited_by"].is_null(), "{found}");
    vmrun(&in_it, &["list", "-q"]).prints("");
}

#[test]
fn bench_of_a_kernel_that_is_none_says_what_vmrun_said() {
    let scratch = Scratch::new();
    let kernel = scratch.path().join("kernel");
    fs::write(&kernel, "no kernel").unwrap();
    let outcome = bench(&["bench", "boot", "--runs", "1", "--kernel", kernel.to_str().unwrap()]);
    outcome.fails_with(1, &["cannot measure", "ended with code 1; it said: ", "kernel"]);
    bench(&["bench", "boot", "--json", "/nowhere/x"]).fails_with(1, &["cannot make /nowhere/x"]);
}

#[test]
fn bench_of_a_kernel_that_never_reports_ends_with_what_that_has_printed() {
    let scratch = Scratch::new();
    let (kernel, root) = (scratch.path().join("kernel"), scratch.directory("store"));
    fs::write(&kernel, silent_kernel("up, and no further\n")).unwrap();
    let words = ["bench", "boot", "--runs", "1", "--limit", "4", "--kernel", kernel.to_str().unwrap()];
    let in_it = ["--root", root.to_str().unwrap()];
    let outcome = vmrun(&in_it, &words);
    outcome.fails_with(1, &["timed out after 4 s", "up, and no further", "--limit"]);
    vmrun(&in_it, &["list", "-q"]).prints("");
}

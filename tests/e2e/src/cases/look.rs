//! `ps`, `events` and `update`: a container's processes, figures and limits.

use serde_json::{Value, json};

use crate::support::{Bundle, Detached, Run, Scratch, end_of, vmrun, wait};

fn started(bundle: &Bundle) -> Detached {
    let container = Run::of(bundle).detach();
    container.started.stdout.await_text(0, "ready\n");
    container
}

#[track_caller]
fn end(container: &Detached) {
    container.verb("delete", &["--force"]).prints("");
    container.started.await_nothing_left();
}

#[test]
fn ps_shows_the_containers_processes_and_no_others() {
    let bundle = Bundle::shell("sleep 1001 & sleep 1002 & echo ready; wait");
    let container = started(&bundle);
    let table = container.verb("ps", &[]).ok();
    assert!(table.starts_with("UID "), "{table}");
    for command in ["sleep 1001", "sleep 1002", "sh -c sleep 1001"] {
        assert!(table.lines().any(|line| line.contains(command)), "no {command}: {table}");
    }
    assert_eq!(table.lines().count(), 4, "{table}");
    let pids: Vec<i32> = serde_json::from_str(&container.verb("ps", &["--format", "json"]).ok()).unwrap();
    assert_eq!(pids.len(), 3);
    let listed = container.verb("ps", &["-o", "pid=,comm="]).ok();
    assert_eq!(listed.lines().filter(|line| line.ends_with(" sleep")).count(), 2, "{listed}");
    container.verb("ps", &["-eL"]).fails_with(1, &["cannot list the processes of", "-L", "threads"]);
    container.verb("kill", &["KILL"]).prints("");
    container.await_status("stopped");
    assert_eq!(container.verb("ps", &[]).ok().lines().count(), 1);
    assert_eq!(container.verb("ps", &["--format", "json"]).ok(), "[]\n");
    container.delete();
}

fn data(container: &Detached) -> Value {
    let event: Value = serde_json::from_str(&container.verb("events", &["--stats"]).ok()).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(container.started.id)));
    event["data"].clone()
}

#[test]
fn events_tell_the_figures_of_the_container() {
    let bundle = Bundle::shell("sleep 1000 & echo ready; wait")
        .set("/linux/resources/memory", json!({ "limit": 64 << 20 }))
        .set("/linux/resources/pids", json!({ "limit": 40 }));
    let container = started(&bundle);
    let data = data(&container);
    assert_eq!(data["pids"], json!({ "current": 2, "limit": 40 }), "{data}");
    assert_eq!(data["memory"]["usage"]["limit"], json!(64 << 20), "{data}");
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    for of in ["cpu", "memory", "blkio"] {
        let psi = &data[of]["psi"];
        assert!(psi["some"]["total"].is_u64() && psi["full"]["avg10"].is_f64(), "{data}");
    }
    end(&container);
}

#[test]
fn events_come_until_the_end() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let container = started(&bundle);
    let root = container.started.store.to_str().unwrap().to_owned();
    let mut command = std::process::Command::new(&crate::support::place().vmrun);
    command.args(["--root", &root, "events", "--interval", "200ms", &container.started.id]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for _ in 0..3 {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "stats");
    }
    container.verb("kill", &["KILL"]).prints("");
    assert!(wait::end_of(&mut child, wait::LIMIT).unwrap().success());
    container.await_status("stopped");
    container.delete();
}

#[test]
fn logs_show_the_guests_console_until_the_end() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let container = Run::of(&bundle).options(&["--kernel-param", "loglevel=8"]).detach();
    container.started.stdout.await_text(0, "ready\n");
    assert!(container.verb("logs", &[]).ok().lines().count() > 10);
    let root = container.started.store.to_str().unwrap().to_owned();
    let mut command = std::process::Command::new(&crate::support::place().vmrun);
    command.args(["--root", &root, "logs", "-f", &container.started.id]);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    container.verb("kill", &["KILL"]).prints("");
    assert!(wait::end_of(&mut child, wait::LIMIT).unwrap().success());
    container.await_status("stopped");
    container.delete();
}

#[test]
fn specification_that_vmrun_writes_runs() {
    let scratch = Scratch::new();
    let at = scratch.path().to_str().unwrap();
    vmrun(&[], &["spec", "--bundle", at]).prints("");
    vmrun(&[], &["spec", "--bundle", at, "--rootless"])
        .fails_with(1, &["cannot write config.json", "exists", "; "]);
    let written: Value = serde_json::from_str(&scratch.text("config.json")).unwrap();
    let mut bundle = Bundle::shell("");
    for field in ["process", "mounts", "linux", "hostname"] {
        bundle = bundle.set(&format!("/{field}"), written[field].clone());
    }
    let bundle = bundle.set("/process/terminal", json!(false)).args(&["sh", "-c", "hostname"]);
    bundle.run().prints("vmrun\n");
}

#[test]
fn features_are_those_of_the_specification() {
    let features: Value = serde_json::from_str(&vmrun(&[], &["features"]).ok()).unwrap();
    assert!(features["ociVersionMax"].as_str().unwrap().starts_with("1."), "{features}");
    assert_eq!(features["linux"]["cgroup"]["v2"], json!(true));
    assert_eq!(features["linux"]["apparmor"]["enabled"], json!(false));
}

#[test]
fn network_namespace_is_taken_where_it_holds_only_loopback() {
    let namespaces = |path: &str| {
        let others = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
        let network = json!({ "type": "network", "path": path });
        others.into_iter().chain([network]).collect::<Value>()
    };
    let bundle = Bundle::shell("ip -o link | wc -l");
    let mut empty = std::process::Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
    let path = format!("/proc/{}/ns/net", empty.id());
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    wait::until("a namespace of its own", || (std::fs::read_link(&path).ok()? != ours).then_some(()));
    let outcome = bundle.set("/linux/namespaces", namespaces(&path)).run();
    empty.kill().unwrap();
    empty.wait().unwrap();
    outcome.prints("1\n");
    let missing = Bundle::shell("true").set("/linux/namespaces", namespaces("/no/such/namespace"));
    missing.run().fails_with(1, &["cannot run", "network namespace", "/no/such/namespace", "; "]);
}

#[test]
fn update_changes_the_limits_that_are_given() {
    let bundle = Bundle::shell("echo ready; sleep 1000")
        .set("/linux/resources/memory", json!({ "limit": 64 << 20 }))
        .set("/linux/resources/pids", json!({ "limit": 40 }));
    let (container, scratch) = (started(&bundle), Scratch::new());
    let limits = || {
        let files =
            ["memory.max", "pids.max", "cpu.max", "cpu.weight"].map(|name| format!("/sys/fs/cgroup/{name}"));
        let words: Vec<_> = ["cat"].into_iter().chain(files.iter().map(String::as_str)).collect();
        end_of(&mut container.exec(&[], &words)).ok()
    };
    let before = limits();
    assert!(before.starts_with("67108864\n40\n"), "{before}");
    container.verb("update", &["--pids-limit", "50"]).prints("");
    container
        .verb("update", &["--memory", "80M", "--cpu-quota", "50000", "--cpu-period", "100000"])
        .prints("");
    let after = limits();
    assert!(after.starts_with("83886080\n50\n50000 100000\n"), "{after}");
    let file =
        scratch.file("limits.json", json!({ "cpu": { "shares": 512 }, "pids": { "limit": 60 } }).to_string());
    container.verb("update", &["-r", file.to_str().unwrap()]).prints("");
    let last = limits();
    assert!(last.starts_with("83886080\n60\n50000 100000\n59\n"), "{last}");
    let beyond = json!({ "unified": { "cpu.max": "900000 100000", "memory.max": "1G" } });
    let beyond = scratch.file("beyond.json", beyond.to_string());
    let told = [
        "warning: ",
        "9 CPUs' time, but the machine has 1 CPU",
        "1024 MiB of memory, but the machine has 129 MiB",
    ];
    container.verb("update", &["-r", beyond.to_str().unwrap()]).prints_with_errors("", &told);
    assert!(limits().starts_with("1073741824\n60\n900000 100000\n"));
    let wrong = scratch.file("wrong.json", "{\"pids\": 7}");
    container.verb("update", &["-r", wrong.to_str().unwrap()]).fails_with(1, &["cannot update", "resources"]);
    container.verb("update", &["--cpu-rt-period", "1"]).fails_with(1, &["cannot update", "--cpu-rt-period"]);
    end(&container);
}

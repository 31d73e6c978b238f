//! Guests that flood, and guests that do not read.

use std::fs;

use super::network::{Background, Net, end, exec, run, sleeping};
use crate::support::{Bundle, Run, place, wait};

const FLOOD: &str = include_str!("../programs/flood.py");

/// Datagrams for a guest that does not take them: more than its queue and the tap's hold, for a second of a CPU. Says
/// how many hundredths of one it has taken.
const DATAGRAMS: &str = "python3 -I -S -c '
import socket, time
to_guest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sent = 0
while sent < 5000 or time.process_time() < 1:
    sent += 1
    try:
        to_guest.sendto(bytes(1400), (\"10.88.0.2\", 9))
    except OSError:
        pass
print(round(time.process_time() * 100))'";

/// What the neighbour of a flooding sandbox downloads at a time.
const MANY_BYTES: &str = "20000000";

/// What a process has of the host: descriptors, threads, MiB of addresses.
fn held(pid: i32) -> (usize, usize, u64) {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    (descriptors, threads, kib >> 10)
}

/// The hundredths of a second of CPUs that a process has taken so far.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    [11, 12].map(|field| fields[field].parse::<u64>().unwrap()).iter().sum()
}

/// Whether nothing has grown but by what the tasks of its own take: a flood is a thousand times that.
fn is_no_more(before: (usize, usize, u64), now: (usize, usize, u64)) -> bool {
    now.0 <= before.0 + 8 && now.1 <= before.1 + 2 && now.2 <= before.2 + 16
}

#[test]
fn guest_that_floods_or_does_not_read_has_no_more_of_the_host_and_others_their_share() {
    let net = Net::with_eth0();
    let bundle = net.joined_by(Bundle::python(FLOOD));
    let container = Run::of(&bundle).detach();
    let processes = [container.started.monitor(), container.started.machine()];
    let first = container.started.stdout.await_text(0, "round\n");
    let before = processes.map(held);
    let hold_no_more = || {
        let now = processes.map(held);
        let all = before.into_iter().zip(now).all(|(before, now)| is_no_more(before, now));
        assert!(all, "monitor and machine: {before:?}, then {now:?}");
    };

    neighbour_has_its_share(processes[1]);

    let second = container.started.stdout.await_text(first, "round\n");
    container.started.stdout.await_text(second, "round\n");
    hold_no_more();

    let ping = format!("{}/bin/busybox ping -c 1 -W 60 10.88.0.2", place().busybox.display());
    let reached = || assert!(net.far_shell(&ping).output().unwrap().status.success());
    reached();
    container.verb("pause", &[]).prints("");
    let send = || String::from_utf8(run(&mut net.far_shell(DATAGRAMS)).stdout).unwrap();
    send();
    hold_no_more();
    // All there is room for is there. Who goes on all the same takes as much of the CPU as who sends.
    let idle = processes.map(ticks);
    let sender: u64 = send().trim().parse().unwrap();
    let busy: u64 = processes.map(ticks).iter().sum::<u64>() - idle.iter().sum::<u64>();
    assert!(busy < sender / 4, "{busy} ticks, and {sender} of the sender's");
    hold_no_more();
    container.verb("resume", &[]).prints("");
    reached();
    end(&container);
    assert_eq!(net.traces(), "");
}

/// Has another sandbox download from its far end until its machine has had so many ticks, and compares how much CPU time the
/// flooding one got meanwhile.
#[track_caller]
fn neighbour_has_its_share(flooding: i32) {
    let net = Net::with_eth0();
    let busybox = format!("{}/bin/busybox", place().busybox.display());
    let server = format!("exec {busybox} nc -ll -p 81 -e head -c {MANY_BYTES} /dev/zero");
    let server = Background::start(&mut net.far_shell(&server));
    let bundle = net.bundle("echo ready; sleep 1000");
    let container = sleeping(&bundle);
    let machines = [container.started.machine(), flooding];
    // The server may not be there yet.
    let ask = "until got=$(nc 10.88.0.1 81 </dev/null | wc -c); [ $got != 0 ]; do sleep 0.1; done; echo $got";
    let download = || assert_eq!(exec(&container, ask), format!("{MANY_BYTES}\n"));
    download();
    let before = machines.map(ticks);
    let [own, floods] = wait::until("the neighbour's share", || {
        download();
        let now = machines.map(ticks);
        let had = [0, 1].map(|of| now[of] - before[of]);
        (had[0] >= 50).then_some(had)
    });
    // Alone on a CPU each would have half of it, less what the far end takes.
    assert!(own * 10 > floods, "{own} ticks, and {floods} of the flooding one's");
    drop(server);
    end(&container);
    assert_eq!(net.traces(), "");
}

//! What procps prints for the same processes.

use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn facts() -> Facts {
    Facts {
        users: Names::read("root:x:0:0\nlongername:x:1000:1000\n"),
        groups: Names::read("root:x:0:\nstaff:x:50:\n"),
        now: UNIX_EPOCH + Duration::from_secs(86_400 + 12 * 3600),
    }
}

fn processes() -> Vec<ProcessInfo> {
    let stat = |parent: &str, threads: &str| {
        format!("S {parent} 1 41 34816 41 4194560 5 0 6 0 7 8 0 0 20 0 {threads} 0 900 4096000 256 0")
    };
    let status = |uid: &str| {
        [("Uid", format!("{uid}\t{uid}\t{uid}\t{uid}")), ("Gid", "50\t50\t50\t50".to_owned())]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    };
    vec![
        ProcessInfo {
            pid: 41,
            parent: 3,
            cpu_ms: 61_000,
            elapsed_ms: 122_000,
            terminal: "pts/0".to_owned(),
            command: "sh -c \u{1b}[2J".to_owned(),
            name: "sh".to_owned(),
            stat: stat("3", "1"),
            status: status("0"),
            inner_pid: 1,
            ..ProcessInfo::default()
        },
        ProcessInfo {
            pid: 42,
            parent: 41,
            uid: 1000,
            elapsed_ms: 2000,
            terminal: "?".to_owned(),
            command: "sleep 1000".to_owned(),
            name: "sleep".to_owned(),
            stat: stat("41", "2"),
            status: status("1000"),
            memory_permille: 15,
            inner_pid: 7,
            ..ProcessInfo::default()
        },
    ]
}

fn lines(options: &str) -> Vec<String> {
    let words: Vec<_> = options.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let text = table_with(&processes(), &words, &facts()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn refused(options: &str) -> Refusal {
    let words: Vec<_> = options.split(' ').map(str::to_owned).collect();
    table_with(&processes(), &words, &facts()).unwrap_err()
}

#[test]
fn without_options_it_is_the_full_format() {
    let lines = lines("");
    assert_eq!(lines[0], "UID          PID    PPID  C STIME TTY          TIME CMD");
    assert!(lines[1].starts_with("root          41       3 50 "), "{}", lines[1]);
    assert!(lines[1].ends_with(" pts/0    00:01:01 sh -c ?[2J"), "{}", lines[1]);
    assert!(lines[2].starts_with("longern+      42      41  0 "), "{}", lines[2]);
    assert_eq!(lines.len(), 3);
}

#[test]
fn formats_have_the_headers_of_procps() {
    for (options, header) in [
        ("-e", "    PID TTY          TIME CMD"),
        ("-e -x", "    PID TTY      STAT   TIME COMMAND"),
        ("ax", "    PID TTY      STAT   TIME COMMAND"),
        ("aux", "USER         PID %CPU %MEM    VSZ   RSS TTY      STAT  START   TIME COMMAND"),
        ("-aux", "USER         PID %CPU %MEM    VSZ   RSS TTY      STAT  START   TIME COMMAND"),
        ("-el", "F S   UID     PID    PPID  C PRI  NI ADDR    SZ WCHAN  TTY          TIME CMD"),
        ("-ej", "    PID    PGID     SID TTY          TIME CMD"),
        ("-eo pid,comm", "    PID COMMAND"),
        ("-o pid,comm", "    PID COMMAND"),
        ("-opid -o user=WHO", "    PID WHO"),
        ("--format pid,ppid,stat,args", "    PID    PPID STAT COMMAND"),
        ("-O ni", "    PID  NI S TTY          TIME COMMAND"),
    ] {
        assert_eq!(lines(options)[0], header, "{options}");
        assert_eq!(lines(options).len(), 3, "{options}");
    }
}

#[test]
fn columns_are_cut_from_what_the_guest_tells() {
    assert_eq!(lines("-o pid=,user=,comm= -p 42"), ["     42 longern+ sleep"]);
    assert_eq!(
        lines("o pid=,stat=,vsz=,rss=,pmem= 42"),
        ["     42 Sl+    4000  1024  1.5"].map(|line| line.replace("Sl+ ", "Sl  "))
    );
    assert_eq!(lines("-o pid=,pri=,ni=,nlwp=,group=,uid= h 41"), ["     41  19   0    1 staff        0"]);
    assert_eq!(lines("-o pid=,etime=,time= -q 41"), ["     41       02:02 00:01:01"]);
    assert_eq!(lines("n -o user= -p42"), ["1000"]);
}

#[test]
fn selections_are_united_and_can_be_turned_round() {
    for (options, pids) in [
        ("-o pid= -p 42,41", &["41", "42"][..]),
        ("-o pid= -u longername", &["42"]),
        ("-o pid= -u root -p 42", &["41", "42"]),
        ("-o pid= -N -u root", &["42"]),
        ("-o pid= -C sleep", &["42"]),
        ("-o pid= --ppid 41", &["42"]),
        ("-o pid= -t pts/0", &["41"]),
        ("-o pid= -p 7", &[]),
        ("-eo pid= --sort -pid", &["42", "41"]),
        ("-eo pid= --sort=-time,pid", &["41", "42"]),
    ] {
        let found: Vec<_> = lines(options).iter().map(|line| line.trim().to_owned()).collect();
        assert_eq!(found, pids, "{options}");
    }
}

#[test]
fn without_processes_there_is_the_header() {
    let text = table_with(&[], &[], &facts()).unwrap();
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn options_that_cannot_be_carried_out_are_named() {
    for (options, option) in [
        ("-eL", "-L"),
        ("-o nonsense", "nonsense"),
        ("--forest", "--forest"),
        ("-p x", "-p"),
        ("-u nobody9", "nobody9"),
    ] {
        assert_eq!(refused(options).option, option, "{options}");
    }
}

//! Terminals.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::support::{Bundle, Run, Runtime, Scratch, Terminal, vmrun, wait};

/// crun does not give our terminal's size to the container's.
const BOTH: [Runtime; 2] = [Runtime::Runc, Runtime::Vmrun];

fn on_terminal(script: &str) -> Bundle {
    Bundle::shell(script).set("/process/terminal", json!(true))
}

#[test]
fn streams_are_a_terminal_of_the_users_size() {
    for bundle in Bundle::shells("test -t 0 && test -t 1 && test -t 2 && tty && stty size") {
        let bundle = bundle.set("/process/terminal", json!(true));
        for runtime in BOTH {
            let mut terminal = Terminal::new(41, 123);
            let outcome = Run::of(&bundle).on(runtime).start_on(&mut terminal).finish();
            // The console is one of the container's own pseudo-terminals.
            let out = outcome.ok();
            assert!(out.starts_with("/dev/pts/0\r\n") || out.starts_with("/dev/console\r\n"), "{outcome:?}");
            assert!(out.ends_with("\r\n41 123\r\n"), "{outcome:?}");
        }
    }
}

#[test]
fn program_leads_its_session_on_the_terminal() {
    // Session, process group and foreground group are the program's own.
    let bundle = on_terminal("awk '{ print ($6 == 1), ($7 != 0) }' /proc/1/stat; echo text >/dev/tty");
    for runtime in BOTH {
        let mut terminal = Terminal::new(24, 80);
        let outcome = Run::of(&bundle).on(runtime).start_on(&mut terminal).finish();
        assert_eq!(outcome.ok(), "1 1\r\ntext\r\n", "{outcome:?}");
    }
}

#[test]
fn resize_reaches_the_program() {
    let bundle = on_terminal("trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done");
    for runtime in BOTH {
        let mut terminal = Terminal::new(24, 80);
        let started = Run::of(&bundle).on(runtime).start_on(&mut terminal);
        started.stdout.await_text(0, "ready");
        terminal.resize(50, 132);
        let outcome = started.finish();
        assert_eq!(outcome.out(), "ready\r\n50 132\r\n", "{outcome:?}");
        outcome.exits(5);
    }
}

#[test]
fn resize_during_a_pause_reaches_the_program_after_it() {
    let bundle = on_terminal("trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done");
    let mut terminal = Terminal::new(24, 80);
    let started = Run::of(&bundle).start_on(&mut terminal);
    started.stdout.await_text(0, "ready");
    vmrun(&[], &["pause", &started.id]).prints("");
    terminal.resize(50, 132);
    vmrun(&[], &["resume", &started.id]).prints("");
    let outcome = started.finish();
    assert_eq!(outcome.out(), "ready\r\n50 132\r\n", "{outcome:?}");
    outcome.exits(5);
}

#[test]
fn control_c_reaches_the_program() {
    let bundle = on_terminal("trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done");
    for runtime in BOTH {
        let mut terminal = Terminal::new(24, 80);
        let started = Run::of(&bundle).on(runtime).start_on(&mut terminal);
        started.stdout.await_text(0, "ready");
        terminal.types("\x03");
        let outcome = started.finish();
        assert_eq!(outcome.out(), "ready\r\n^Ccaught\r\n", "{outcome:?}");
        outcome.exits(3);
    }
}

#[test]
fn what_is_typed_is_echoed_edited_and_ended() {
    let bundle = on_terminal("echo ready; cat; echo end");
    for runtime in BOTH {
        let mut terminal = Terminal::new(24, 80);
        let started = Run::of(&bundle).on(runtime).start_on(&mut terminal);
        let ready = started.stdout.await_text(0, "ready\r\n");
        terminal.types("hellp\x7fo\n");
        started.stdout.await_text(ready, "\r\nhello\r\n");
        terminal.types("\x04");
        let outcome = started.finish();
        assert!(outcome.ok().ends_with("hello\r\nend\r\n"), "{outcome:?}");
    }
}

#[test]
fn users_terminal_is_as_before_afterwards() {
    for (script, code) in [("true", 0), ("stty raw -echo; exit 2", 2), ("kill -9 $$; exit 1", 1)] {
        let mut terminal = Terminal::new(24, 80);
        let before = terminal.settings();
        let bundle = on_terminal(script);
        Run::of(&bundle).start_on(&mut terminal).finish().exits(code);
        assert_eq!(terminal.settings(), before, "{script}");
    }
    let mut terminal = Terminal::new(24, 80);
    let before = terminal.settings();
    let missing = Bundle::shell("").args(&["/none"]).set("/process/terminal", json!(true));
    Run::of(&missing).start_on(&mut terminal).finish().exits(127);
    assert_eq!(terminal.settings(), before);
}

#[test]
fn output_of_a_terminal_is_complete() {
    let bundle = on_terminal("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i + 1)); done");
    let mut terminal = Terminal::new(24, 80);
    let outcome = Run::of(&bundle).start_on(&mut terminal).finish();
    let expected: String = (0..3000).map(|number| format!("line {number}\r\n")).collect();
    assert!(outcome.out() == expected, "{} bytes of {}", outcome.stdout.len(), expected.len());
}

#[test]
fn console_socket_gets_the_terminal_of_a_detached_container() {
    let bundle = on_terminal("stty size; read word; echo got $word; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done")
        .set("/process/consoleSize", json!({ "height": 30, "width": 90 }));
    let scratch = Scratch::new();
    let path = scratch.join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let detached = Run::of(&bundle).option("--console-socket").option(&path).detach();
    let (mut terminal, output) = Terminal::receive(&listener);
    let sized = output.await_text(0, "30 90\r\n");
    terminal.types("word\n");
    output.await_text(sized, "got word\r\n");
    output.await_text(sized, "ready\r\n");
    terminal.resize(44, 55);
    output.await_text(sized, "44 55\r\n");
    detached.await_status("stopped");
    detached.delete();
}

#[test]
fn options_that_contradict_the_terminal_are_refused() {
    let bundle = on_terminal("true");
    Run::of(&bundle).option("--detach").finish().fails_with(1, &["cannot run", "--console-socket"]);
    let plain = Bundle::shell("true");
    Run::of(&plain)
        .options(&["--console-socket", "/tmp/x"])
        .finish()
        .fails_with(1, &["cannot run", "cannot use console socket", "; "]);
    Run::of(&bundle)
        .options(&["--console-socket", "/tmp/x"])
        .finish()
        .fails_with(1, &["cannot run", "cannot use console socket"]);
    Run::of(&bundle)
        .options(&["--detach", "--console-socket", "/nowhere/x"])
        .finish()
        .fails_with(1, &["cannot run", "/nowhere/x"]);
}

#[test]
fn terminal_without_a_user_still_shows_its_output() {
    // A pipe has no size and no mode.
    let bundle = on_terminal("test -t 1 && echo shown");
    let outcome = Run::of(&bundle).on(Runtime::Vmrun).input("").finish();
    assert_eq!(outcome.out(), "shown\r\n", "{outcome:?}");
    outcome.exits(0);
}

#[test]
fn size_of_the_configuration_is_for_those_who_have_none() {
    let bundle = on_terminal("stty size").set("/process/consoleSize", json!({ "height": 33, "width": 99 }));
    let outcome = Run::of(&bundle).finish();
    assert_eq!(outcome.out(), "33 99\r\n", "{outcome:?}");
    let _: Value = serde_json::from_str(&bundle.config()).unwrap();
}

#[test]
fn interactive_shell_has_job_control() {
    let bundle = on_terminal("").args(&["sh", "-i"]);
    let mut terminal = Terminal::new(24, 80);
    let started = Run::of(&bundle).start_on(&mut terminal);
    started.stdout.await_text(0, "# ");
    terminal.types("sh -c 'echo going; cat'\n");
    started.stdout.await_text(0, "\r\ngoing\r\n");
    terminal.types("\x1a");
    let stopped = started.stdout.await_text(0, "Stopped");
    terminal.types("fg\n");
    let back = started.stdout.await_text(stopped, "\r\nsh -c");
    // Only what is in the foreground can read, and answer.
    terminal.types("again\n");
    let echoed = started.stdout.await_text(back, "again\r\n");
    started.stdout.await_text(echoed, "again\r\n");
    terminal.types("\x03");
    started.stdout.await_text(echoed, "^C");
    terminal.types("exit 8\n");
    let outcome = started.finish();
    assert!(!outcome.out().contains("job control turned off"), "{outcome:?}");
    outcome.exits(8);
}

#[test]
fn terminal_that_nobody_had_open_for_a_while_goes_on() {
    let script =
        "tty=$(tty); exec <&- >&- 2>&-; sleep 0.5; exec <>$tty >&0 2>&0; echo back; read x; echo got $x";
    let bundle = on_terminal(script);
    let mut terminal = Terminal::new(24, 80);
    let started = Run::of(&bundle).start_on(&mut terminal);
    started.stdout.await_text(0, "back\r\n");
    terminal.types("word\n");
    let outcome = started.finish();
    assert!(outcome.ok().ends_with("got word\r\n"), "{outcome:?}");
}

#[test]
fn terminal_whose_other_end_is_closed_hangs_up() {
    let script = "trap 'echo HUP >/data/end; exit 7' HUP; echo ready; while :; do sleep 0.05; done";
    for runtime in [Runtime::Crun, Runtime::Runc, Runtime::Vmrun] {
        let scratch = Scratch::new();
        let bundle = on_terminal(script).bind(scratch.path(), "/data", &[]);
        let path = scratch.join("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let run = Run::of(&bundle).on(runtime).store(&scratch.join("store"));
        let detached = run.option("--console-socket").option(&path).detach();
        Terminal::receive_and_hang_up(&listener, "ready");
        wait::until("SIGHUP", || fs::read_to_string(scratch.join("end")).ok().filter(|text| text == "HUP\n"));
        detached.end().prints("");
    }
}

//! Memory that the guest has free goes back to the host.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::support::{Bundle, Run, Scratch, wait};

const PROGRAM: &str = include_str!("../programs/memory.py");

/// What the program takes and frees, MiB.
const TAKEN: u64 = 500;

/// What a process has of the host's memory, MiB.
fn memory_of(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// The program on a machine with room for it.
fn run<'b>(bundle: &'b Bundle, templates: &Path) -> Run<'b> {
    Run::of(bundle).options(&["--memory", "800", "--templates"]).option(templates)
}

#[test]
fn what_a_program_frees_is_the_hosts_again() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    let bundle = Bundle::python(PROGRAM);
    // Booted, with a template made of it; from that template.
    for warm in [false, true] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let started = run(&bundle, &templates).option("--debug").stdin(reader).start();
        let mut end = started.stdout.await_text(0, "begun\n");
        let mut tell = |word: &str| {
            writer.write_all(format!("{word}\n").as_bytes()).unwrap();
            end = started.stdout.await_text(end, &format!("{word} done\n"));
        };
        let machine = started.machine();
        // Also once more: what has been the host's is the guest's again.
        for _ in 0..2 {
            tell("take");
            let taken = memory_of(machine);
            assert!(taken > TAKEN, "{taken} MiB with what the program takes");
            tell("free");
            wait::until_or("the host to have 95 % of it again", || {
                let left = memory_of(machine);
                (left <= taken - TAKEN * 95 / 100)
                    .then_some(())
                    .ok_or_else(|| format!("{left} of {taken} MiB are left"))
            });
        }
        drop(writer);
        let outcome = started.finish();
        assert_eq!(outcome.exits(0).err().contains("machine restored"), warm, "{}", outcome.err());
        assert!(outcome.out().ends_with("ended\n"), "{}", outcome.out());
    }
}

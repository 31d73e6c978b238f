//! Documents tell the truth about the tree, and nothing names a machine.

use std::collections::BTreeSet;
use std::path::Path;

use crate::checkout::{TextFile, files, read, top};

/// Names of hosts that only a machine's own set-up may hold.
const HOSTS: &[&str] = &[
    "artifactory",
    "deb.debian.org",
    "files.pythonhosted.org",
    "index.crates.io",
    "pypi.org",
    "registry.npmjs.org",
    "security.debian.org",
    "snapshot.debian.org",
    "static.crates.io",
];

/// Beginnings of paths that exist on somebody's machine only.
const MACHINE_PATHS: &[&str] = &["/Users/", "/root/.", "/work/"];

/// The only file that may spell them.
const SELF: &str = "tests/architecture/src/documents.rs";

fn documents() -> Vec<TextFile> {
    let documents: Vec<_> = files().into_iter().filter(|file| file.has_extension("md")).collect();
    assert!(documents.len() > 5, "there are documents");
    documents
}

/// The parts between back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

/// The targets of Markdown links into the tree, without their anchors.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .filter_map(|target| target.split('#').next())
}

/// Lines of code blocks: what a reader copies.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").skip(1).step_by(2).flat_map(str::lines).map(str::trim)
}

/// The path that a quoted text names, if it is one: its first part stands at the
/// top of the tree.
fn tree_path<'a>(quoted: &'a str, roots: &BTreeSet<String>) -> Option<&'a str> {
    let word = quoted.split_whitespace().next()?.trim_end_matches([':', ',', '.']);
    let (root, _) = word.split_once('/')?;
    let literal = !word.contains(['*', '<', '>', '{', '$', '…', '=']);
    (literal && roots.contains(root)).then_some(word)
}

fn roots() -> BTreeSet<String> {
    let names = std::fs::read_dir(top()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name != "target").collect()
}

#[test]
fn paths_in_documents_exist() {
    let roots = roots();
    for document in documents() {
        let folder = Path::new(&document.path).parent().unwrap().to_owned();
        for link in links(&document.text) {
            let exists = top().join(&folder).join(link).exists();
            assert!(exists, "{}: links to {link}, which does not exist", document.path);
        }
        for path in quoted(&document.text).chain(commands(&document.text)) {
            if let Some(path) = tree_path(path, &roots) {
                let exists = top().join(path).exists() || top().join(&folder).join(path).exists();
                assert!(exists, "{}: names {path}, which does not exist", document.path);
            }
        }
    }
}

#[test]
fn make_targets_in_documents_exist() {
    let makefile = read("Makefile");
    let exists = |target: &str| makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
    for document in documents() {
        for text in quoted(&document.text).chain(commands(&document.text)) {
            let Some(target) = text.strip_prefix("make ") else { continue };
            let target = target.split_whitespace().next().unwrap_or_default();
            assert!(exists(target), "{}: make {target}: the Makefile has no such target", document.path);
        }
    }
}

#[test]
fn scripts_of_the_makefile_exist() {
    for script in read("Makefile").lines().filter_map(|line| line.strip_prefix("\t@")) {
        let script = script.split_whitespace().next().unwrap_or_default();
        if script.contains('/') {
            assert!(top().join(script).is_file(), "Makefile: {script} does not exist");
        }
    }
}

#[test]
fn nothing_names_a_registry_host_or_a_machine() {
    let top = top();
    let own = top.to_str().unwrap();
    for file in files().iter().filter(|file| file.path != SELF) {
        for (number, line) in file.text.lines().enumerate() {
            let bad = HOSTS.iter().chain(MACHINE_PATHS).copied().find(|bad| line.contains(bad));
            let bad = bad.or_else(|| (own.len() > 4 && line.contains(own)).then_some(own));
            assert!(bad.is_none(), "{}:{}: names {}", file.path, number + 1, bad.unwrap_or_default());
        }
    }
}

#[test]
fn prose_and_blocks_are_told_apart() {
    let text = "see `a/b` and [c](d/e#f), [g](https://h)\n```sh\nmake x\n```\n`i`";
    assert_eq!(quoted(text).collect::<Vec<_>>(), ["a/b", "i"]);
    assert_eq!(links(text).collect::<Vec<_>>(), ["d/e"]);
    assert!(commands(text).any(|line| line == "make x"));
    let roots = BTreeSet::from(["a".to_owned()]);
    assert_eq!(tree_path("a/b --flag", &roots), Some("a/b"));
    assert_eq!(tree_path("x/y", &roots), None);
    assert_eq!(tree_path("a/*.rs", &roots), None);
}

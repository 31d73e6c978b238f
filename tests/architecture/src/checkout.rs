//! What the rules read: the checkout's files and cargo's view of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// Folders that are nobody's source.
const SKIPPED: [&str; 2] = [".git", "target"];

/// Top of the checkout.
pub(crate) fn top() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

/// A text file of the checkout.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Path from the top.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl TextFile {
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }

    pub(crate) fn is_shell(&self) -> bool {
        let head = self.text.lines().next().unwrap_or_default();
        head.starts_with("#!") && head.ends_with("sh") || head.starts_with("# shellcheck shell=")
    }
}

/// Every text file of the checkout, by path.
pub(crate) fn files() -> Vec<TextFile> {
    let mut files = Vec::new();
    collect(&top(), &top(), &mut files);
    files.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(files.len() > 50, "the checkout has more files than {}", files.len());
    files
}

fn collect(top: &Path, directory: &Path, files: &mut Vec<TextFile>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            collect(top, &path, files);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            files.push(TextFile { path, text });
        }
    }
}

/// A file that must be there.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A crate of the workspace, as `cargo metadata` tells of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) license: Option<String>,
    /// Empty when it can never be published.
    pub(crate) publish: Option<Vec<String>>,
    pub(crate) dependencies: Vec<Dependency>,
    manifest_path: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or nothing for an ordinary one.
    pub(crate) kind: Option<String>,
    /// Where it lies, when it is one of ours.
    path: Option<PathBuf>,
}

impl Package {
    /// Its folder, from the top.
    pub(crate) fn folder(&self) -> String {
        let folder = self.manifest_path.parent().unwrap();
        folder.strip_prefix(top()).unwrap().to_str().unwrap().to_owned()
    }

    /// Tests and benches stand above the layers.
    pub(crate) fn is_a_test(&self) -> bool {
        let folder = self.folder();
        folder.starts_with("tests/") || folder.starts_with("benches")
    }
}

impl Dependency {
    pub(crate) fn is_ours(&self) -> bool {
        self.path.is_some()
    }
}

/// The workspace's crates.
pub(crate) fn packages() -> Vec<Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(top())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).unwrap();
    metadata.packages
}

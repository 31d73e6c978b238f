//! The pid file: there with its content or not at all.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::LaunchError;

/// A pid file that was just written; removed again unless it is kept.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: Option<PathBuf>,
}

impl PidFile {
    pub(crate) fn write(path: &Path, pid: i32) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::PidFile { path: path.to_owned(), source };
        let mut draft_name = std::ffi::OsString::from(".");
        draft_name.push(path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?);
        draft_name.push(format!(".{pid}"));
        let draft = path.with_file_name(draft_name);
        let written = fs::File::create(&draft)
            .and_then(|mut file| write!(file, "{pid}"))
            .and_then(|()| fs::rename(&draft, path));
        written.map_err(|error| {
            let _ = fs::remove_file(&draft);
            failed(error)
        })?;
        Ok(Self { path: Some(path.to_owned()) })
    }

    pub(crate) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // Whoever asked for it may have removed it.
            let _ = fs::remove_file(path);
        }
    }
}

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
        let mut file = create_new(&draft).map_err(failed)?;
        let written = write!(file, "{pid}").and_then(|()| fs::rename(&draft, path));
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

/// The draft's name can be guessed, and the directory may be others' as well: what is there is
/// never written to, be it a link or a file. One that a killed verb has left is replaced.
fn create_new(draft: &Path) -> io::Result<fs::File> {
    match fs::File::create_new(draft) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(draft)?;
            fs::File::create_new(draft)
        }
        made => made,
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn draft_follows_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("pid"), directory.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, directory.path().join(".pid.42")).unwrap();
        PidFile::write(&path, 42).unwrap().keep();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "42");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }
}

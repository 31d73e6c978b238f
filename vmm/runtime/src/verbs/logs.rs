//! `vmrun logs`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use vmrun_plan::CONSOLE_LOG;

use crate::error::Error;
use crate::store::{Store, StoreError};

/// How long the console's file is left alone when there is nothing new in it.
const PAUSE: Duration = Duration::from_millis(200);

/// Copies the guest's console to `to`, with `follow` until the container has ended.
///
/// # Errors
/// There is no such container, or its console cannot be read. A reader that has
/// left is no error.
pub fn logs(store: &Store, id: &str, follow: bool, to: &mut impl Write) -> Result<(), Error> {
    let (_, entry, state) = super::find_with_state(store, id)?;
    let path = entry.directory().join(CONSOLE_LOG);
    let mut log = match File::open(&path) {
        // The machine has not come so far.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(StoreError::io("read", &path))?,
    };
    loop {
        // Whatever was written before its end is there when the end is known.
        let lives = state.monitor_lives();
        let mut text = Vec::new();
        log.read_to_end(&mut text).map_err(StoreError::io("read", &path))?;
        if to.write_all(&text).and_then(|()| to.flush()).is_err() || !follow || !lives {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

//! `vmrun list`.

use crate::error::Error;
use crate::store::Store;
use crate::verbs::OciState;

/// All containers, by id.
///
/// # Errors
/// The store cannot be read. A container that vanishes meanwhile is left out.
pub fn list(store: &Store) -> Result<Vec<OciState>, Error> {
    let mut found = Vec::new();
    for id in store.ids()? {
        let Ok(entry) = store.open(&id) else { continue };
        if let Ok(Some(state)) = entry.read() {
            found.push(OciState { owner: entry.owner(), ..OciState::of(&state) });
        }
    }
    Ok(found)
}

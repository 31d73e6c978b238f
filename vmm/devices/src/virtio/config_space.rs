//! The device-specific configuration space (virtio 1.2, §2.5).

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the content and its generation, whenever they change.
type Publisher = Box<dyn Fn(&[u8], u32) + Send>;

/// Bytes that the driver reads, and how often they have changed.
///
/// The device changes them from any of its threads; the transport shows them to the driver. A driver
/// that reads while they change may see some fields of before and some of after: it is told of
/// the change behind it, and reads again.
pub struct ConfigSpace {
    state: Mutex<State>,
}

struct State {
    bytes: Vec<u8>,
    generation: u32,
    publisher: Option<Publisher>,
}

impl std::fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("ConfigSpace")
            .field("bytes", &state.bytes)
            .field("generation", &state.generation)
            .finish_non_exhaustive()
    }
}

impl ConfigSpace {
    /// A space with this content; it keeps its length.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { state: Mutex::new(State { bytes: bytes.into(), generation: 0, publisher: None }) }
    }

    /// Replaces `bytes` from `at` on, and publishes that unless they were the same before. What does
    /// not fit into the space is left out.
    pub fn set(&self, at: usize, bytes: &[u8]) {
        let mut state = self.lock();
        let Some(place) = state.bytes.get_mut(at..) else { return };
        let length = place.len().min(bytes.len());
        let (place, bytes) = (&mut place[..length], &bytes[..length]);
        if place != bytes {
            place.copy_from_slice(bytes);
            state.generation = state.generation.wrapping_add(1);
            state.publish();
        }
    }

    /// The content.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// From now on each change goes to `publisher`, and the content at once.
    pub(crate) fn publish_to(&self, publisher: impl Fn(&[u8], u32) + Send + 'static) {
        let mut state = self.lock();
        state.publisher = Some(Box::new(publisher));
        state.publish();
    }

    /// From now on changes reach nobody.
    pub(crate) fn withdraw(&self) {
        self.lock().publisher = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(&self) {
        if let Some(publisher) = &self.publisher {
            publisher(&self.bytes, self.generation);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn change_is_published_with_its_generation_and_what_is_none_is_not() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        let space = ConfigSpace::new([1, 2, 3]);
        space.set(0, &[9]);
        space.publish_to(move |bytes, generation| notes.lock().unwrap().push((bytes.to_vec(), generation)));
        space.set(1, &[2, 3]);
        space.set(2, &[7, 8]);
        space.set(9, &[7]);
        space.withdraw();
        space.set(0, &[0]);
        assert_eq!(*seen.lock().unwrap(), [(vec![9, 2, 3], 1), (vec![9, 2, 7], 2)]);
        assert_eq!(space.bytes(), [0, 2, 7]);
    }
}

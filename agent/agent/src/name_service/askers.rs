//! Who has asked what.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Questions that are open at a time.
const MAX_OPEN: usize = 512;

/// Whom an answer goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// Whoever has sent a datagram from there.
    Datagram { door: usize, from: SocketAddr },
    /// A connection.
    Client(u64),
}

/// The open questions, by numbers that grow.
#[derive(Debug, Default)]
pub(super) struct Askers {
    open: BTreeMap<u64, Asker>,
    last: u64,
}

impl Askers {
    /// The number of one more question, and whose question is forgotten for it.
    pub(super) fn add(&mut self, asker: Asker) -> (u64, Option<Asker>) {
        let forgotten = if self.open.len() >= MAX_OPEN { self.open.pop_first() } else { None };
        self.last += 1;
        self.open.insert(self.last, asker);
        (self.last, forgotten.map(|(_, asker)| asker))
    }

    /// All questions are forgotten. Their numbers are not used again: late answers must not be taken for
    /// those to others.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    /// The question is answered.
    pub(super) fn take(&mut self, id: u64) -> Option<Asker> {
        self.open.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_is_answered_once() {
        let mut askers = Askers::default();
        let (first, _) = askers.add(Asker::Client(7));
        let (second, _) = askers.add(Asker::Client(8));
        assert_eq!(askers.take(second), Some(Asker::Client(8)));
        assert_eq!(askers.take(second), None);
        assert_eq!(askers.take(first), Some(Asker::Client(7)));
    }

    #[test]
    fn numbers_of_forgotten_questions_are_not_used_again() {
        let mut askers = Askers::default();
        let (first, _) = askers.add(Asker::Client(7));
        askers.clear();
        assert_eq!(askers.take(first), None);
        assert_ne!(askers.add(Asker::Client(8)).0, first);
    }

    #[test]
    fn oldest_question_is_forgotten_for_one_too_many() {
        let mut askers = Askers::default();
        for client in 0..MAX_OPEN as u64 {
            assert_eq!(askers.add(Asker::Client(client)).1, None);
        }
        let (last, forgotten) = askers.add(Asker::Client(9999));
        assert_eq!(forgotten, Some(Asker::Client(0)));
        assert_eq!(askers.take(1), None);
        assert_eq!(askers.take(last), Some(Asker::Client(9999)));
    }
}

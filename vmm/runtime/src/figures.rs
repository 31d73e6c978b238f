//! What a sandbox counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmrun_proto::ContainerFigures;

/// A container's figures, and those of its machine's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// What the agent tells.
    #[serde(flatten)]
    pub container: ContainerFigures,
    /// What the network cards have counted; the guest has no say in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cards: Vec<CardFigures>,
    /// What the file server has counted: requests by their kinds, those that there were.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, u64>,
}

/// What a network card has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CardFigures {
    /// Its interface.
    pub name: String,
    /// Where it is plugged in.
    pub slot: u8,
    /// Its counters, by their names.
    pub counters: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_without_cards_are_those_that_an_older_monitor_sends() {
        let container = ContainerFigures { pids: 3, memory_limit_bytes: Some(7), ..Default::default() };
        let figures = Figures { container: container.clone(), ..Figures::default() };
        let text = serde_json::to_value(&container).unwrap();
        assert_eq!(serde_json::to_value(&figures).unwrap(), text);
        assert_eq!(serde_json::from_value::<Figures>(text).unwrap(), figures);
        let cards = vec![CardFigures { name: "eth0".to_owned(), slot: 1, counters: BTreeMap::new() }];
        let files = BTreeMap::from([("lookup".to_owned(), 2)]);
        let figures = Figures { cards, files, ..figures };
        let text = serde_json::to_value(&figures).unwrap();
        assert_eq!(serde_json::from_value::<Figures>(text.clone()).unwrap(), figures);
        assert_eq!(serde_json::from_value::<ContainerFigures>(text).unwrap(), container);
    }
}

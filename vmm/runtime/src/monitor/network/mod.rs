//! The network of the container's namespace, in the guest.
//!
//! ```text
//!   namespace ─dump─▶ plan (pure) ─┬▶ a tap for each interface, joined to it ─▶ slots of the machine
//!        │                         └▶ description ─▶ agent
//!        └─news─▶ follower: the same anew
//! ```
//!
//! Where the sandbox stands alone, passt is behind its only card instead, and nothing changes.

mod addresses;
mod alone;
mod answers;
mod attached;
mod carried;
mod dump;
mod error;
mod families;
mod filters;
mod follower;
mod hold;
mod lifetimes;
mod links;
mod machine;
mod mirror;
mod names;
mod namespace_settings;
mod netfilter;
mod news;
mod own_taps;
mod passt;
mod plan;
mod redirect;
mod retries;
mod routes;
mod rules;
mod settings;
mod slots;
mod sweep;
mod tap;

pub(crate) use alone::{Alone, ConnectError};
pub(crate) use attached::{Attached, Lost};
pub(crate) use error::NetworkError;
pub(crate) use follower::Follower;
pub(crate) use machine::Cards;
pub(crate) use mirror::Mirror;
pub(crate) use names::ResolvConf;
pub(crate) use news::News;
pub(crate) use passt::PasstError;
pub(crate) use slots::Slots;
pub(crate) use sweep::sweep;

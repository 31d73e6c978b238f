//! Containers on the host: the store, the lifecycle, the monitor process and
//! the client of the agent in the guest.
//!
//! ```text
//!   vmrun run ──spawns──▶ vmrun __monitor ──owns──▶ Machine, stdio relays
//!    (launch)  ◀─socket─   (monitor)      ◀─vsock─▶ agent
//!                              ▲ control.sock
//!   vmrun kill … (verbs) ──────┘
//! ```
//!
//! Lock order: the store's root, then one container's directory. Nobody holds
//! either while waiting for a guest.

mod agent_client;
mod assets;
mod control;
mod error;
mod fds;
mod hooks;
mod id;
mod launch;
mod monitor;
mod pages;
mod process;
mod signals;
mod status;
mod stdio;
mod store;
pub mod timeline;
mod timestamp;
mod verbs;

pub use assets::{AssetError, AssetOptions, Embedded};
pub use error::{Error, chain};
pub use id::{ContainerId, IdError};
pub use launch::{Console, RunOptions, run};
pub use monitor::{MonitorFds, monitor_main};
pub use status::Status;
pub use store::{Store, StoreError};
pub use timestamp::now as timestamp;
pub use verbs::{DeleteOptions, KillTarget, OciState, SignalError, delete, kill, list, parse_signal, state};
pub use vmrun_machine::MappedPages;
pub use vmrun_plan::SPEC_VERSION;

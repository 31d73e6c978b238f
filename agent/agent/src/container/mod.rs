//! Making containers and processes in them.

mod adapt;
mod cgroup;
mod copy_up;
mod destinations;
mod dev;
mod devices;
mod explain;
mod figures;
mod identity;
mod inside;
mod limits;
mod make;
mod members;
mod memory_events;
mod notify;
mod processes;
mod program;
mod seccomp;
mod settings;
mod shared_mounts;
mod start_hooks;
mod tmpfs;
mod trace;
mod user_namespace;
mod working_directory;

pub(crate) use adapt::cgroup_path;
pub(crate) use cgroup::Cgroup;
pub(crate) use explain::{ErrorLine, explain};
pub(crate) use figures::figures;
pub(crate) use identity::host_user;
pub(crate) use inside::run_if_asked as run_inside_if_asked;
pub(crate) use make::{Kind, Order, notify_start, start_maker};
pub(crate) use members::Members;
pub(crate) use memory_events::MemoryEvents;
pub(crate) use notify::NOTIFY_SOCKET;
pub(crate) use processes::describe as describe_processes;

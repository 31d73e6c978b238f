//! Making containers and processes in them.

mod adapt;
mod cgroup;
mod copy_up;
mod create;
mod delegation;
mod destinations;
mod dev;
mod devices;
mod figures;
mod identity;
mod inside;
mod limits;
mod limits_of_cgroup;
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
mod swap;
mod tmpfs;
mod user_namespace;
mod working_directory;

pub(crate) use adapt::cgroup_path;
pub(crate) use cgroup::Cgroup;
pub(crate) use figures::figures;
pub(crate) use identity::host_user;
pub(crate) use make::{Kind, Order, start_maker};
pub(crate) use members::Members;
pub(crate) use memory_events::MemoryEvents;
pub(crate) use notify::NOTIFY_SOCKET;
pub(crate) use processes::describe as describe_processes;

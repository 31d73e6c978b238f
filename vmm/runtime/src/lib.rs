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
mod exec;
mod fds;
mod figures;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod hooks;
mod host_cgroup;
mod host_settings;
mod id;
mod launch;
pub mod log;
mod machine;
mod monitor;
mod mount_attributes;
mod oom_score;
mod pages;
mod policy;
mod process;
mod processors;
mod read_only;
mod signals;
mod status;
mod stdio;
mod store;
mod systemd;
mod templates;
mod timeline;
mod timestamp;
mod user_namespace;
mod verbs;

pub use assets::{AssetError, AssetOptions, Embedded};
pub use error::{Error, chain};
pub use exec::{ExecOptions, ProcessSource, exec, exec_main};
pub use fds::keep_from_children;
pub use figures::{CardFigures, Figures};
pub use hooks::HookError;
pub use host_cgroup::{HostCgroupError, oom_main};
pub use id::{ContainerId, IdError};
pub use launch::{Console, LaunchMode, LaunchOptions, launch, refuse_sockets};
pub use log::{Log, LogFormat};
pub use monitor::{MonitorFds, monitor_main};
pub use policy::PolicyError;
pub use signals::Interruption;
pub use status::{Act, Status};
pub use store::{Store, StoreError};
pub use systemd::SystemdError;
pub use templates::{
    BuildOptions, ShapeInfo, TemplateError, TemplateInfo, TemplatePlace, Templates, build as build_template,
    default_directory as default_templates, host_kernel,
};
pub use verbs::{
    DeleteOptions, Happening, Happenings, KillTarget, Limits, LimitsError, OciState, SandboxFigures,
    SignalError, SpecError, delete, figures, happenings, kill, list, logs, parse_signal, pause, processes,
    resume, sandbox_figures, start, state, update, write_spec,
};
pub use vmrun_machine::MappedPages;
pub use vmrun_plan::{MOUNT_OPTIONS, NetworkChoice, ProcessChanges, SPEC_VERSION, published_port};
pub use vmrun_proto::{
    ContainerFigures, DeviceFigures, InterfaceFigures, PacketFigures, PressureFigures, PressureLine,
    ProcessInfo,
};
pub use vmrun_spec::PublishedPort;

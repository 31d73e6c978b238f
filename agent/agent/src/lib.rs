//! PID 1 of the guest: makes OCI containers and carries their stdio.
//!
//! One process, one thread, one epoll loop. Nothing in the loop waits; what
//! must wait happens in short-lived children:
//!
//! ```text
//!   agent (PID 1) --fork--> maker --clone--> container init
//!      |  ^                   |                 |
//!      |  +--- Report socket -+-----------------+
//!      |        (failures, pid, terminal; its end of file = execve succeeded)
//!      +-- epoll: control connections, listener, SIGCHLD, stdio relays, reports
//! ```
//!
//! The maker clones a sibling of itself: the container's init is a child of the
//! agent, and the maker takes every change to its own process to the grave.

mod boot;
mod clock;
mod connection;
mod container;
mod descriptors;
mod free_memory;
mod generation;
mod host_sockets;
mod late_device;
mod log;
mod marks;
mod name_service;
mod network;
mod removal;
mod report;
mod server;
mod stdio;
mod sys;

use std::fmt::Display;
use std::os::fd::OwnedFd;

/// Boots the guest and serves the host; never returns.
pub fn run_as_init() -> ! {
    log::install_panic_hook();
    marks::begin();
    if let Err(error) = boot::prepare_stdio() {
        die(&format_args!("cannot open /dev/null for the standard streams: {error}"));
    }
    match boot::boot() {
        Ok(links) => serve(links.listener, links.control),
        Err(error) => die(&error),
    }
}

/// Serves the host over a listening socket and an established control
/// connection, both of any stream type; never returns.
pub fn serve(listener: OwnedFd, control: OwnedFd) -> ! {
    if let Err(error) = descriptors::raise_limit() {
        log::warn(format_args!("cannot raise the limit of descriptors: {error}"));
    }
    let end = server::Server::new(listener, control).and_then(server::Server::run);
    match end {
        Ok(never) => match never {},
        Err(error) => die(&error),
    }
}

fn die(error: &dyn Display) -> ! {
    log::warn(format_args!("the agent cannot go on: {error}"));
    sys::exit_now(1)
}

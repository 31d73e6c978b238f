//! The process that becomes the program, from its first instruction to its wait for the start.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::setsid;
use oci_spec::runtime::{Linux, Spec};
use rustix::fs::Mode;
use rustix::process::umask;
use rustix::system::{setdomainname, sethostname};
use vmrun_proto::{ErrorKind, ErrorReply, Stage};

use super::mounts::is_open_at_first;
use super::namespaces::Namespaces;
use super::nodes::Nodes;
use super::paths::{self, Settings};
use super::{Creation, attributes, console, root, user, words};
use crate::container::inside;
use crate::container::make::says_readonly;
use crate::{report, sys};

/// The process.
pub(super) struct Init<'a> {
    pub(super) creation: Creation<'a>,
    pub(super) namespaces: Namespaces,
    /// The maker's ear. A file, since a filter of the container's need not allow calls for sockets.
    pub(super) link: File,
}

impl Init<'_> {
    /// Becomes the program, or says why it cannot and ends.
    pub(super) fn run(mut self) -> ! {
        // The link is open until this is reported: what the maker has to say comes second.
        let Err(error) = self.become_program();
        report::send_failure(error.kind, error.stage, &error.message);
        sys::exit_now(1)
    }

    fn become_program(&mut self) -> Result<std::convert::Infallible, ErrorReply> {
        let failed = |message: String| ErrorReply { kind: ErrorKind::Failed, stage: Stage::Create, message };
        self.set_up().map_err(failed)?;
        self.creation.program.prepare()?;
        let gone = || failed("the maker of the process is gone".to_owned());
        self.link.write_all(&[1]).map_err(|_| gone())?;
        if self.creation.joins {
            self.link.read_exact(&mut [0]).map_err(|_| gone())?;
        } else if !report::wait_for_start() {
            // Nobody is left to be told.
            sys::exit_now(1);
        }
        Err(self.creation.program.execute())
    }

    fn set_up(&mut self) -> Result<(), String> {
        let spec = self.creation.spec;
        let process = spec.process().as_ref().ok_or("the configuration has no process")?;
        let linux = spec.linux().as_ref().ok_or("the configuration has no linux section")?;
        setsid().map_err(|error| format!("cannot make a session: {}", words(error)))?;
        if self.creation.joins {
            attributes::affinity_in_the_cgroup(process)?;
        }
        attributes::set_priorities(process)?;
        let settings = Settings::open(linux)?;
        self.namespaces.enter()?;
        if !self.creation.joins {
            self.set_names(spec)?;
            self.raise_loopback()?;
        }
        if process.no_new_privileges() == Some(true) {
            nix::sys::prctl::set_no_new_privs()
                .map_err(|error| format!("process.noNewPrivileges: cannot set it: {}", words(error)))?;
        }
        if self.creation.joins {
            self.set_up_console()?;
        } else {
            self.enter_root(spec, linux, settings)?;
        }
        attributes::set_personality(spec)?;
        if let Some(mask) = process.user().umask() {
            umask(Mode::from_raw_mode(mask));
        }
        attributes::set_limits(process)?;
        user::become_user(process, process.capabilities().as_ref())
    }

    /// Of a namespace that is joined the names stay.
    fn set_names(&self, spec: &Spec) -> Result<(), String> {
        if !self.namespaces.makes(CloneFlags::CLONE_NEWUTS) {
            return Ok(());
        }
        if let Some(name) = spec.hostname() {
            sethostname(name.as_bytes())
                .map_err(|error| format!("hostname: cannot set it: {}", words(error)))?;
        }
        if let Some(name) = spec.domainname() {
            setdomainname(name.as_bytes())
                .map_err(|error| format!("domainname: cannot set it: {}", words(error)))?;
        }
        Ok(())
    }

    /// A new network namespace has a loopback interface that is down.
    fn raise_loopback(&self) -> Result<(), String> {
        if !self.namespaces.makes(CloneFlags::CLONE_NEWNET) {
            return Ok(());
        }
        sys::loopback_up().map_err(|error| format!("cannot bring loopback up: {}", words(error)))
    }

    fn enter_root(&mut self, spec: &Spec, linux: &Linux, settings: Settings) -> Result<(), String> {
        if !self.namespaces.has(CloneFlags::CLONE_NEWNS) {
            return Err("linux.namespaces: the container has no mount namespace".to_owned());
        }
        let creation = &self.creation;
        let nodes = if self.namespaces.have_user() { Nodes::Bound } else { Nodes::Made };
        let root = root::prepare(spec, creation, nodes)?;
        root::enter(&root)?;
        drop(root);
        inside::run(&creation.tasks)?;
        root::finish_propagation(linux)?;
        let null = paths::reopen_null()?;
        settings.apply(linux)?;
        drop(settings);
        self.set_up_console()?;
        if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true) {
            close_root()?;
        }
        paths::make_readonly(linux)?;
        paths::hide(linux, &null)?;
        close_tmpfs(spec)
    }

    fn set_up_console(&mut self) -> Result<(), String> {
        let Some(socket) = self.creation.console.take() else { return Ok(()) };
        console::set_up(&socket, !self.creation.joins)
    }
}

/// What is to be read-only and was writable until all that is in it was made: `/dev`, and every tmpfs. One
/// that another mount hides stays as it is.
fn close_tmpfs(spec: &Spec) -> Result<(), String> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for (index, mount) in mounts.iter().enumerate() {
        let place = mount.destination();
        let is_hidden = mounts.iter().skip(index + 1).any(|later| later.destination() == place);
        if is_hidden || !says_readonly(mount) || !is_open_at_first(mount) {
            continue;
        }
        inside::remount_readonly(place)
            .map_err(|error| format!("cannot make {} read-only: {}", place.display(), words(error)))?;
    }
    Ok(())
}

fn close_root() -> Result<(), String> {
    inside::remount_readonly(Path::new("/"))
        .map_err(|error| format!("root.readonly: cannot make it read-only: {}", words(error)))
}

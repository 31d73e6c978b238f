//! `vmrun exec`.

use std::path::{Component, Path, PathBuf};

use clap::{ArgAction, Args};
use vmrun_runtime::{Error, ExecOptions, ProcessChanges, ProcessSource, Store};

/// Run one more process in a container
///
/// The exit code is the process's (128 + n when signal n ended it), 127 when the
/// program does not exist, 126 when it cannot be executed, and 255 when the
/// process could not be made.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Name of the container
    id: String,

    /// Program and its arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "process"
    )]
    command: Vec<String>,

    /// File with the process as JSON, instead of the container's own with the changes below, which
    /// then have no effect
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,

    /// Return when the process runs
    #[arg(short, long)]
    detach: bool,

    /// File for the pid of the process that stands for it
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Run it on a terminal
    #[arg(short, long)]
    tty: bool,

    /// Unix socket that gets the master end of its terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,

    /// Unix socket that gets a descriptor of the process that stands for it
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,

    /// User and group
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    user: Option<(u32, Option<u32>)>,

    /// One more group; may be repeated
    #[arg(short = 'g', long, value_name = "GID", action = ArgAction::Append)]
    additional_gids: Vec<u32>,

    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// One more environment variable; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", action = ArgAction::Append)]
    env: Vec<String>,

    /// One more capability; may be repeated
    #[arg(short, long, value_name = "CAP_NAME", action = ArgAction::Append)]
    cap: Vec<String>,

    /// Never get new privileges
    #[arg(long)]
    no_new_privs: bool,

    /// In a paused container, wait and run when it goes on
    #[arg(long)]
    ignore_paused: bool,

    /// Not supported but for 0: descriptors cannot enter a virtual machine
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    preserve_fds: u32,

    /// Run it in a cgroup below the container's, which is there already
    #[arg(long, value_name = "PATH", action = ArgAction::Append)]
    cgroup: Vec<String>,

    /// Not supported: the guest kernel has no AppArmor
    #[arg(long, value_name = "PROFILE", hide = true)]
    apparmor: Option<String>,

    /// Not supported: the guest kernel has no SELinux
    #[arg(long, value_name = "LABEL", hide = true)]
    process_label: Option<String>,
}

impl ExecArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot run a process in {:?}", self.id)
    }
}

/// `UID` or `UID:GID`; names are the engine's to look up.
fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}

/// A path below the container's cgroup. `CONTROLLER:PATH` is for cgroup v1.
fn cgroup(text: &str) -> Result<PathBuf, Error> {
    if text.contains(':') {
        let why = "cgroup v2, which the guest has, knows no paths for single controllers";
        return Err(Error::Option { option: "--cgroup", why });
    }
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if !path.pop() => return Err(Error::SubCgroup { path: text.to_owned() }),
            _ => {}
        }
    }
    Ok(path)
}

pub(crate) fn exec(store: &Store, args: Box<ExecArgs>) -> Result<u8, Error> {
    refuse_what_has_no_meaning(&args)?;
    let args = *args;
    let cgroup = args.cgroup.first().map(|path| cgroup(path)).transpose()?;
    let process = match args.process {
        Some(file) => ProcessSource::File(file),
        None => ProcessSource::Changes(Box::new(ProcessChanges {
            args: args.command,
            cwd: args.cwd,
            user: args.user,
            additional_gids: args.additional_gids,
            env: args.env,
            capabilities: args.cap,
            no_new_privileges: args.no_new_privs,
            terminal: args.tty,
        })),
    };
    let options = ExecOptions {
        id: args.id,
        process,
        terminal: args.tty,
        detach: args.detach,
        pid_file: args.pid_file,
        console_socket: args.console_socket,
        pidfd_socket: args.pidfd_socket,
        ignore_paused: args.ignore_paused,
        cgroup,
    };
    vmrun_runtime::exec(store, &options)
}

/// What confines nothing can be had.
fn is_a_profile(name: Option<&str>) -> bool {
    !matches!(name, None | Some("" | "unconfined"))
}

fn refuse_what_has_no_meaning(args: &ExecArgs) -> Result<(), Error> {
    let table = [
        (
            args.preserve_fds > 0,
            "--preserve-fds",
            "file descriptors cannot enter a virtual machine; give the program files in a volume instead",
        ),
        (args.cgroup.len() > 1, "--cgroup", "cgroup v2, which the guest has, has one for all controllers"),
        (
            is_a_profile(args.apparmor.as_deref()),
            "--apparmor",
            "the guest kernel has no such security module",
        ),
        (
            is_a_profile(args.process_label.as_deref()),
            "--process-label",
            "the guest kernel has no such security module",
        ),
    ];
    match table.into_iter().find(|(given, ..)| *given) {
        Some((_, option, why)) => Err(Error::Option { option, why }),
        None => Ok(()),
    }
}

//! Options that every verb has.

use std::path::PathBuf;

use clap::ValueEnum;
use vmrun_runtime::{Log, LogFormat, TemplatePlace};

/// Options that stand before or behind any verb.
#[derive(Debug, clap::Args)]
pub(crate) struct Globals {
    /// Directory that remembers the containers
    /// [default: /run/vmrun, or $XDG_RUNTIME_DIR/vmrun without root]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    /// File for errors and, with --debug, for each step [default: standard error]
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Format of its lines
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormatName,

    /// Tell each step in the log, and the causes of an error one a line
    #[arg(long, global = true)]
    pub(crate) debug: bool,

    /// Have systemd make the cgroup: linux.cgroupsPath is SLICE:PREFIX:NAME
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,

    /// Boot the guest, where a template of such a machine would do, and make none
    #[arg(long, global = true)]
    cold: bool,

    /// Directory of the templates that starts go on from
    /// [default: /var/cache/vmrun/templates, or ~/.cache/vmrun/templates without root]
    #[arg(long, global = true, value_name = "DIR", env = "VMRUN_TEMPLATES", hide_env_values = true)]
    templates: Option<PathBuf>,

    /// Taken for runc's sake: there is no checkpointing that could need it
    #[arg(long, global = true, value_name = "PATH", hide = true)]
    criu: Option<PathBuf>,

    /// As with runc: `true`, `false` or `auto`. The same here: the cgroup is left out
    /// where the user may not make it.
    /// Only in front of the verb: `spec` has an option of this name
    #[arg(long, value_name = "BOOL", default_value = "auto")]
    pub(crate) rootless: Rootless,
}

impl Globals {
    /// Those that another `vmrun` needs to do the same.
    pub(crate) fn for_another(&self) -> Vec<String> {
        let root =
            self.root.iter().flat_map(|root| ["--root".to_owned(), root.to_string_lossy().into_owned()]);
        let templates = self.templates.iter();
        let templates =
            templates.flat_map(|path| ["--templates".to_owned(), path.to_string_lossy().into_owned()]);
        let flags = [(self.systemd_cgroup, "--systemd-cgroup"), (self.cold, "--cold")];
        let flags = flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag.to_owned());
        root.chain(templates).chain(flags).collect()
    }

    /// Where templates are, unless the guest is to boot.
    pub(crate) fn templates(&self) -> Option<TemplatePlace> {
        if self.cold { None } else { self.templates_place() }
    }

    /// Where they are. The processes of a container work in other directories.
    pub(crate) fn templates_place(&self) -> Option<TemplatePlace> {
        let given = self.templates.clone().filter(|path| !path.as_os_str().is_empty());
        let given = given.map(|path| std::path::absolute(&path).unwrap_or(path));
        let default = || Some(TemplatePlace { path: vmrun_runtime::default_templates()?, named: false });
        given.map(|path| TemplatePlace { path, named: true }).or_else(default)
    }

    /// Where errors and steps are written to.
    pub(crate) fn log(&self) -> Log {
        let format = match self.log_format {
            LogFormatName::Text => LogFormat::Text,
            LogFormatName::Json => LogFormat::Json,
        };
        // Empty is runc's default: standard error. The processes of a container work in other directories.
        let path = self.log.clone().filter(|path| !path.as_os_str().is_empty());
        let path = path.map(|path| std::path::absolute(&path).unwrap_or(path));
        Log { path, format, debug: self.debug }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormatName {
    Text,
    Json,
}

/// All of them mean the same: nothing but accounting depends on the host's cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rootless {
    True,
    False,
    Auto,
}

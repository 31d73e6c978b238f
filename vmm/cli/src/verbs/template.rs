//! `vmrun template`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Local, SecondsFormat};
use clap::{ArgAction, Args, Subcommand};
use serde::Serialize;
use vmrun_runtime::{AssetOptions, BuildOptions, Error, TemplateInfo, Templates};

use crate::embedded::embedded;
use crate::globals::Globals;

/// Look after the templates that starts go on from
///
/// The first start of a machine of some size, kernel and kernel parameters saves it where the guest has booted. Later ones of
/// the same go on from there, unless --cold says otherwise.
#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List them, the one that was used last first
    List(ListArgs),
    /// Make one ahead, unless it is there, and print its name
    Build(BuildArgs),
    /// Remove some; sandboxes that come from them go on
    Remove(RemoveArgs),
    /// Remove what is of no use: those of another vmrun or kernel, damaged ones, and drafts that nobody writes any more
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only the names
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// Number of vCPUs [default: 1]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Memory [default: that of a container without a limit]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Guest kernel, ELF vmlinux or bzImage [default: the one inside vmrun]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Boot image [default: the one inside vmrun]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// Directory with `vmlinux` and `initramfs.cpio` to boot instead
    #[arg(long, value_name = "DIR", env = "VMRUN_ASSETS", hide = true)]
    assets: Option<PathBuf>,
    /// One more kernel parameter; may be repeated
    #[arg(long, value_name = "PARAM", action = ArgAction::Append)]
    kernel_param: Vec<String>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Their names
    #[arg(required_unless_present = "all", value_name = "NAME")]
    names: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Keep at most so much of the rest, of those that were used last
    #[arg(long, value_name = "MIB")]
    keep: Option<u64>,
}

/// A template as JSON has it.
#[derive(Debug, Serialize)]
struct Shown<'t> {
    name: &'t str,
    bytes: u64,
    made: String,
    used: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mib: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<&'t str>,
    /// Whether this vmrun can use it on this host.
    usable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'t str>,
}

impl TemplateArgs {
    pub(crate) fn act(&self) -> String {
        match &self.what {
            What::List(_) => "cannot list the templates",
            What::Build(_) => "cannot make a template",
            What::Remove(_) => "cannot remove templates",
            What::Prune(_) => "cannot prune the templates",
        }
        .to_owned()
    }
}

pub(crate) fn template(args: &TemplateArgs, globals: &Globals) -> Result<u8, Error> {
    let directory = globals.templates_place().ok_or(Error::NoTemplates)?.path;
    match &args.what {
        What::List(args) => list(&directory, args)?,
        What::Build(args) => build(&directory, args)?,
        What::Remove(args) => remove(&directory, args)?,
        What::Prune(args) => prune(&directory, args)?,
    }
    Ok(0)
}

fn all(directory: &Path) -> Result<(Option<Templates>, Vec<TemplateInfo>), Error> {
    let templates = Templates::open(directory)?;
    let program = Path::new("/proc/self/exe");
    let list =
        templates.as_ref().map(|templates| templates.list(&vmrun_runtime::host_kernel(), Some(program)));
    Ok((templates, list.transpose()?.unwrap_or_default()))
}

fn list(directory: &Path, args: &ListArgs) -> Result<(), Error> {
    let (_, found) = all(directory)?;
    let text = if args.quiet {
        found.iter().map(|info| format!("{}\n", info.name)).collect()
    } else if args.json {
        super::json(&found.iter().map(shown).collect::<Vec<_>>())
    } else {
        table(&found)
    };
    super::print(&text);
    Ok(())
}

fn build(directory: &Path, args: &BuildArgs) -> Result<(), Error> {
    let options = BuildOptions {
        vcpus: args.vcpus,
        memory_mib: args.memory,
        assets: AssetOptions {
            kernel: args.kernel.clone(),
            initramfs: args.initramfs.clone(),
            directory: args.assets.clone(),
        },
        kernel_params: args.kernel_param.clone(),
    };
    let name = vmrun_runtime::build_template(directory, &options, embedded())?;
    super::print(&format!("{name}\n"));
    Ok(())
}

fn remove(directory: &Path, args: &RemoveArgs) -> Result<(), Error> {
    let (templates, found) = all(directory)?;
    let names = if args.all { found.into_iter().map(|info| info.name).collect() } else { args.names.clone() };
    for name in names {
        let removed = templates.as_ref().map_or(Ok(false), |templates| templates.remove(&name))?;
        if !removed && !args.all {
            return Err(Error::NoTemplate(name));
        }
    }
    Ok(())
}

fn prune(directory: &Path, args: &PruneArgs) -> Result<(), Error> {
    let (Some(templates), found) = all(directory)? else { return Ok(()) };
    let useless = found.iter().filter(|info| !is_usable(info));
    let mut removed: Vec<String> = useless.map(|info| info.name.clone()).collect();
    for name in &removed {
        templates.remove(name)?;
    }
    removed.extend(templates.prune(args.keep.map_or(u64::MAX, |mib| mib.saturating_mul(1 << 20)))?);
    super::print(&removed.iter().map(|name| format!("{name}\n")).collect::<String>());
    Ok(())
}

fn is_usable(info: &TemplateInfo) -> bool {
    info.shape.as_ref().is_ok_and(|shape| shape.is_current)
}

fn shown(info: &TemplateInfo) -> Shown<'_> {
    let shape = info.shape.as_ref().ok();
    Shown {
        name: &info.name,
        bytes: info.bytes,
        made: time(info.made),
        used: time(info.used),
        vcpus: shape.map(|shape| shape.vcpus),
        memory_mib: shape.map(|shape| shape.memory_mib),
        kernel: shape.map(|shape| shape.kernel.as_str()),
        usable: is_usable(info),
        problem: info.shape.as_ref().err().map(String::as_str),
    }
}

fn time(at: SystemTime) -> String {
    DateTime::<Local>::from(at).to_rfc3339_opts(SecondsFormat::Secs, false)
}

fn table(found: &[TemplateInfo]) -> String {
    let mut rows =
        vec![["NAME", "VCPUS", "MEMORY", "KERNEL", "ON DISK", "LAST USED", "USABLE"].map(str::to_owned)];
    rows.extend(found.iter().map(|info| {
        let shown = shown(info);
        let number = |number: Option<String>, unit: &str| {
            number.map_or_else(|| "-".to_owned(), |number| number + unit)
        };
        [
            info.name.clone(),
            number(shown.vcpus.map(|count| count.to_string()), ""),
            number(shown.memory_mib.map(|mib| mib.to_string()), " MiB"),
            shown.kernel.unwrap_or("-").to_owned(),
            format!("{} MiB", info.bytes.div_ceil(1 << 20)),
            shown.used,
            match (&info.shape, shown.usable) {
                (Err(problem), _) => format!("no: {problem}"),
                (Ok(_), true) => "yes".to_owned(),
                (Ok(_), false) => "no: of another vmrun or host kernel".to_owned(),
            },
        ]
    }));
    super::aligned(&rows)
}

//! A template that is made ahead: a machine that boots, is saved, and ends.

use std::os::fd::AsFd;
use std::path::Path;

use vmrun_machine::{BootImages, Built, DeviceError, MachineState};
use vmrun_plan::{Options, SHARE_DIR};
use vmrun_spec::{Image, MachineSpec};

use super::{Draft, Shape, TemplateError, Templates, checkpoint};
use crate::assets::{self, AssetOptions, Embedded};
use crate::error::Error;

/// Which machine.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Its size in vCPUs; 1 if nothing is said.
    pub vcpus: Option<u32>,
    /// Its size in MiB; that of a bundle without a limit if nothing is said.
    pub memory_mib: Option<u32>,
    /// Kernel and boot image.
    pub assets: AssetOptions,
    /// Extra kernel parameters.
    pub kernel_params: Vec<String>,
}

/// Makes the template of such a machine in `directory`, and gives its name: of one that is there already, too.
///
/// # Errors
/// The machine does not boot, or what is saved of it cannot be kept.
pub fn build(directory: &Path, options: &BuildOptions, embedded: Embedded) -> Result<String, Error> {
    let work = std::env::temp_dir().join(format!("vmrun-template-{}", std::process::id()));
    let failed = |act, path: &Path| {
        let path = path.to_owned();
        move |source| TemplateError::Io { act, path, source }
    };
    std::fs::create_dir(&work).map_err(failed("make", &work))?;
    let made = build_in(&work, directory, options, embedded);
    // Nothing is in it but what is named here.
    let _ = std::fs::remove_file(work.join(vmrun_plan::CONSOLE_LOG));
    let _ = std::fs::remove_dir(work.join(SHARE_DIR));
    let removed = std::fs::remove_dir(&work).map_err(failed("remove", &work));
    made.and_then(|name| Ok(removed.map(|()| name)?))
}

fn build_in(
    work: &Path,
    directory: &Path,
    options: &BuildOptions,
    embedded: Embedded,
) -> Result<String, Error> {
    let (kernel, initramfs) = assets::choose(&options.assets, embedded)?;
    let spec = vmrun_plan::bare_machine(&machine_options(work, options, kernel, initramfs))?;
    let io = |source| TemplateError::Io { act: "prepare", path: work.to_owned(), source };
    let shape = Shape::of(&spec).map_err(io)?;
    let name = shape.name();
    let templates = Templates::make(directory)?;
    if matches!(templates.find(&shape), Ok(Some(_))) {
        return Ok(name);
    }
    templates.remove(&name)?;
    let draft = Draft::begin(templates, shape)?;
    std::fs::create_dir(work.join(SHARE_DIR)).map_err(io)?;
    std::env::set_current_dir(work).map_err(io)?;
    let state = save(&spec, &draft, embedded);
    // It is about to be removed, and nothing more is named from here.
    std::env::set_current_dir("/").map_err(io)?;
    draft.publish(state?)?;
    Ok(name)
}

fn machine_options(work: &Path, options: &BuildOptions, kernel: Image, initramfs: Image) -> Options {
    Options {
        id: String::new(),
        directory: work.to_owned(),
        vcpus: options.vcpus,
        memory_mib: options.memory_mib,
        kernel,
        initramfs,
        kernel_params: options.kernel_params.clone(),
        systemd_cgroup: false,
        notify: false,
        user_network: None,
        timeline: false,
        console_size: None,
    }
}

/// Boots the machine to its checkpoint and saves it there.
fn save(spec: &MachineSpec, draft: &Draft, embedded: Embedded) -> Result<MachineState, Error> {
    let kernel = assets::load(assets::KERNEL, &spec.kernel, embedded.kernel)?;
    let initramfs = assets::load(assets::INITRAMFS, &spec.initramfs, embedded.initramfs)?;
    let kernel_pages = checkpoint::kernel_pages(spec, embedded);
    let images = BootImages { kernel: &kernel, kernel_pages, initramfs: &initramfs };
    let built = Built::new(&checkpoint::stopping(spec), images, None);
    let mut machine = built.and_then(checkpoint::start).map_err(TemplateError::Machine)?;
    let ended = machine.ended_fd().try_clone_to_owned();
    let ended = ended.map_err(|source| TemplateError::Machine(DeviceError::Event(source).into()))?;
    let saved = checkpoint::save(&mut machine, draft, kernel_pages, &[ended.as_fd()]);
    let end = machine.end().map_or_else(|| "is late".to_owned(), |end| format!("has ended: {end}"));
    machine.stop();
    saved?.ok_or_else(|| TemplateError::NoCheckpoint(end).into())
}

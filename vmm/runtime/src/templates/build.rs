//! A template that is made ahead: a machine that boots, is saved, and ends.

use std::path::Path;

use vmrun_machine::MachineState;
use vmrun_plan::{CONSOLE_LOG, Options, SHARE_DIR, VSOCK_SOCKET};
use vmrun_spec::{Image, MachineSpec};

use super::{Draft, Shape, StartKind, TemplateError, Templates, checkpoint};
use crate::assets::{self, AssetOptions, Embedded};
use crate::error::Error;
use crate::machine::{self, Begin};

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
    let (kernel, initramfs) = assets::choose(&options.assets, embedded)?;
    let spec = |work: &Path| vmrun_plan::bare_machine(&machine_options(work, options, &kernel, &initramfs));
    let shape = Shape::of(&spec(directory)?, embedded);
    let shape = shape.map_err(|source| TemplateError::Io {
        act: "look at",
        path: "/proc/self/exe".into(),
        source,
    })?;
    let name = shape.name();
    let templates = Templates::make(directory)?;
    if matches!(templates.find(&shape, StartKind::Alone), Ok(Some(_))) {
        return Ok(name);
    }
    templates.remove(&name)?;
    let draft = Draft::begin(templates, shape)?;
    // The machine's own files are beside the template's: whatever ends this, they are swept with it.
    let work = draft.path();
    let failed = |source| TemplateError::Io { act: "prepare the machine in", path: work.clone(), source };
    std::fs::create_dir(work.join(SHARE_DIR)).map_err(failed)?;
    std::env::set_current_dir(&work).map_err(failed)?;
    let state = save(&spec(&work)?, &draft, embedded);
    std::env::set_current_dir("/").map_err(failed)?;
    let state = state?;
    std::fs::remove_file(work.join(CONSOLE_LOG)).map_err(failed)?;
    std::fs::remove_file(work.join(VSOCK_SOCKET)).map_err(failed)?;
    std::fs::remove_dir(work.join(SHARE_DIR)).map_err(failed)?;
    draft.publish(state)?;
    Ok(name)
}

fn machine_options(work: &Path, options: &BuildOptions, kernel: &Image, initramfs: &Image) -> Options {
    Options {
        id: String::new(),
        directory: work.to_owned(),
        vcpus: options.vcpus,
        memory_mib: options.memory_mib,
        kernel: kernel.clone(),
        initramfs: initramfs.clone(),
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
    let (state, saved) = checkpoint::files(draft)?;
    let begin = Begin::Boot(Some(saved));
    let machine =
        machine::start(spec, embedded, Path::new(SHARE_DIR), begin, None).map_err(TemplateError::Machine)?;
    let saved = checkpoint::save(&machine, draft, &state, &[]);
    let end = machine.end().map_or_else(|| "is late".to_owned(), |end| format!("has ended: {end}"));
    machine.stop();
    saved?.ok_or_else(|| TemplateError::NoCheckpoint(end).into())
}

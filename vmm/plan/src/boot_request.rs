//! What a configuration asks to boot.
//!
//! | | 1st | 2nd |
//! |---|---|---|
//! | kernel | `dev.vmrun.kernel` | `vm.kernel.path` |
//! | boot image | `dev.vmrun.initrd` | `vm.kernel.initrd` |
//! | parameters | | `vm.kernel.parameters` |
//!
//! Whether it gets that is for the host's policy to say, which whoever starts the machine knows.

use std::path::{Path, PathBuf};

use crate::Bundle;
use crate::validate::PlanError;

/// Annotation with the path of a kernel.
pub(crate) const KERNEL_ANNOTATION: &str = "dev.vmrun.kernel";

/// Annotation with the path of a boot image.
pub(crate) const INITRD_ANNOTATION: &str = "dev.vmrun.initrd";

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked<T> {
    /// The field that asks.
    pub field: String,
    /// For what.
    pub value: T,
}

/// All that a configuration asks to boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootRequest {
    /// A kernel, by its absolute path on the host.
    pub kernel: Option<Asked<PathBuf>>,
    /// A boot image, likewise.
    pub initrd: Option<Asked<PathBuf>>,
    /// Kernel parameters, each without a blank.
    pub parameters: Vec<Asked<String>>,
}

/// Finds what `bundle` asks for.
///
/// # Errors
/// A [`PlanError`] that names the field whose path is relative, or whose parameter is none.
pub fn boot_request(bundle: &Bundle) -> Result<BootRequest, PlanError> {
    let section = bundle.vm.kernel.as_ref();
    let initrd = section.and_then(|kernel| kernel.initrd.as_deref());
    Ok(BootRequest {
        kernel: path(
            bundle,
            KERNEL_ANNOTATION,
            "vm.kernel.path",
            section.map(|kernel| kernel.path.as_path()),
        )?,
        initrd: path(bundle, INITRD_ANNOTATION, "vm.kernel.initrd", initrd)?,
        parameters: section.map_or(Ok(Vec::new()), |kernel| parameters(&kernel.parameters))?,
    })
}

fn path(
    bundle: &Bundle,
    annotation: &str,
    field: &str,
    section: Option<&Path>,
) -> Result<Option<Asked<PathBuf>>, PlanError> {
    let annotated = bundle.spec.annotations().as_ref().and_then(|annotations| annotations.get(annotation));
    let asked = match annotated {
        Some(path) => {
            Some(Asked { field: format!("annotations[{annotation:?}]"), value: PathBuf::from(path) })
        }
        None => section.map(|path| Asked { field: field.to_owned(), value: path.to_owned() }),
    };
    match asked {
        Some(Asked { field, value }) if !value.is_absolute() => {
            Err(PlanError::invalid(field, format!("{} is not an absolute path", value.display())))
        }
        asked => Ok(asked),
    }
}

fn parameters(given: &[String]) -> Result<Vec<Asked<String>>, PlanError> {
    let check = |(index, value): (usize, &String)| {
        let field = format!("vm.kernel.parameters[{index}]");
        // With a blank it would be two, and the second one unseen.
        if value.is_empty() || value.contains(|c: char| !c.is_ascii_graphic() || c == '"') {
            return Err(PlanError::invalid(field, format!("{value:?} is not one kernel parameter")));
        }
        Ok(Asked { field, value: value.clone() })
    };
    given.iter().enumerate().map(check).collect()
}

//! What becomes of memory that the guest has free, as an annotation says.

use crate::Bundle;
use crate::validate::PlanError;

/// Annotation with what becomes of it.
pub(crate) const FREE_MEMORY_ANNOTATION: &str = "dev.vmrun.memory.free";

/// As without the annotation: it goes back to the host.
const RETURNED: &str = "returned";
/// The machine keeps it: who takes it again waits for nobody.
const KEPT: &str = "kept";

/// Whether the machine keeps it.
pub(crate) fn is_kept(bundle: &Bundle) -> Result<bool, PlanError> {
    let annotations = bundle.spec.annotations().as_ref();
    match annotations.and_then(|annotations| annotations.get(FREE_MEMORY_ANNOTATION)).map(String::as_str) {
        None | Some(RETURNED) => Ok(false),
        Some(KEPT) => Ok(true),
        Some(other) => Err(PlanError::invalid(
            format!("annotations[{FREE_MEMORY_ANNOTATION:?}]"),
            format!("{other:?} is not known; there are {RETURNED:?} and {KEPT:?}"),
        )),
    }
}

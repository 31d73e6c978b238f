//! How long the guest may keep what it knows of volumes, as an annotation says.

use crate::Bundle;
use crate::validate::PlanError;

/// Annotation with what the guest may keep of volumes.
pub(crate) const VOLUME_CACHE_ANNOTATION: &str = "dev.vmrun.volume.cache";

/// Nothing: what others change is seen at once.
const NONE: &str = "none";
/// As without the annotation: what others change is seen within a second.
const SECOND: &str = "second";

/// Whether the guest keeps nothing.
pub(crate) fn is_off(bundle: &Bundle) -> Result<bool, PlanError> {
    let annotations = bundle.spec.annotations().as_ref();
    match annotations.and_then(|annotations| annotations.get(VOLUME_CACHE_ANNOTATION)).map(String::as_str) {
        None | Some(SECOND) => Ok(false),
        Some(NONE) => Ok(true),
        Some(other) => Err(PlanError::invalid(
            format!("annotations[{VOLUME_CACHE_ANNOTATION:?}]"),
            format!("{other:?} is not known; there are {NONE:?} and {SECOND:?}"),
        )),
    }
}

//! The root file system on a disk, as annotations say.

use std::path::PathBuf;

use crate::validate::PlanError;
use crate::{Bundle, file_systems};

/// Annotation with the image that the root file system is on.
pub(crate) const IMAGE_ANNOTATION: &str = "dev.vmrun.rootfs.image";

/// Annotation with its type.
pub(crate) const TYPE_ANNOTATION: &str = "dev.vmrun.rootfs.type";

/// Annotation with where what the container changes of it goes.
pub(crate) const WRITABLE_ANNOTATION: &str = "dev.vmrun.rootfs.writable";

/// Into the machine's memory, as without the annotation.
const MEMORY: &str = "memory";
/// Nowhere: nothing can be changed.
const NONE: &str = "none";
/// Onto an ext4 image, whose path follows.
const DISK: &str = "disk:";

/// A root file system on an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RootImage {
    pub(crate) image: PathBuf,
    pub(crate) typ: String,
    pub(crate) changes: Changes,
}

/// Where changes go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    Memory,
    Nowhere,
    /// To the ext4 image that has this path.
    Disk(PathBuf),
}

/// What the bundle asks for; nothing where its root file system is the directory that it names.
pub(crate) fn root_image(bundle: &Bundle) -> Result<Option<RootImage>, PlanError> {
    let given = |key: &str| bundle.spec.annotations().as_ref()?.get(key).map(String::as_str);
    let invalid = |key: &str, problem: String| PlanError::invalid(format!("annotations[{key:?}]"), problem);
    let Some(image) = given(IMAGE_ANNOTATION) else {
        let alone = [TYPE_ANNOTATION, WRITABLE_ANNOTATION].into_iter().find(|key| given(key).is_some());
        return match alone {
            None => Ok(None),
            Some(key) => Err(invalid(
                key,
                format!("means nothing without {IMAGE_ANNOTATION}; add that, or leave this out"),
            )),
        };
    };
    let typ = given(TYPE_ANNOTATION).unwrap_or_default();
    if file_systems::on_disk(typ).is_none() {
        let problem =
            format!("{typ:?} is not a supported image type; use erofs, ext2, ext3, ext4 or squashfs");
        return Err(invalid(TYPE_ANNOTATION, problem));
    }
    let changes = match given(WRITABLE_ANNOTATION) {
        None | Some(MEMORY) => Changes::Memory,
        Some(NONE) => Changes::Nowhere,
        Some(other) => match other.strip_prefix(DISK).filter(|path| !path.is_empty()) {
            Some(path) => Changes::Disk(bundle.dir.join(path)),
            None => {
                let problem =
                    format!("{other:?} is not known; there are {MEMORY:?}, {NONE:?} and \"{DISK}PATH\"");
                return Err(invalid(WRITABLE_ANNOTATION, problem));
            }
        },
    };
    Ok(Some(RootImage { image: bundle.dir.join(image), typ: typ.to_owned(), changes }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bundle;

    fn asked(annotations: &[(&str, &str)]) -> Result<Option<RootImage>, String> {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let config = json!({ "ociVersion": "1.0.2", "annotations": annotations }).to_string();
        let spec = bundle::parse(config.as_bytes()).unwrap().spec;
        let (dir, vm) = (PathBuf::from("/bundle"), crate::vm::VmSection::default());
        let rootfs = dir.join("rootfs");
        root_image(&Bundle { dir, rootfs, spec, vm, ignored_capabilities: Vec::new() })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn image_has_a_type_and_a_place_for_changes() {
        let image = |writable: Option<&str>| {
            let mut annotations = vec![(IMAGE_ANNOTATION, "root.img"), (TYPE_ANNOTATION, "erofs")];
            annotations.extend(writable.map(|writable| (WRITABLE_ANNOTATION, writable)));
            asked(&annotations).unwrap().unwrap()
        };
        let memory = image(None);
        assert_eq!((memory.image.to_str(), &*memory.typ), (Some("/bundle/root.img"), "erofs"));
        assert_eq!((memory.changes, image(Some("none")).changes), (Changes::Memory, Changes::Nowhere));
        assert_eq!(image(Some("disk:/srv/upper.img")).changes, Changes::Disk("/srv/upper.img".into()));
        assert_eq!(asked(&[]), Ok(None));
    }

    #[test]
    fn what_is_half_said_is_refused_by_annotation() {
        let image = (IMAGE_ANNOTATION, "/root.img");
        for (annotations, why) in [
            (vec![image], "rootfs.type\"]: \"\" is not a supported image type"),
            (vec![image, (TYPE_ANNOTATION, "xfs")], "\"xfs\" is not a supported image type; use erofs"),
            (vec![(TYPE_ANNOTATION, "ext4")], "means nothing without dev.vmrun.rootfs.image"),
            (
                vec![image, (TYPE_ANNOTATION, "ext4"), (WRITABLE_ANNOTATION, "disk:")],
                "\"disk:\" is not known",
            ),
        ] {
            let error = asked(&annotations).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

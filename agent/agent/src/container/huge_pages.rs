//! Limits of huge pages of a size that this kernel does not have.
//!
//! Engines limit every size that the host has, most of them to nothing. A machine of the same processors has
//! fewer: where it cannot hand out a page of a size, any limit of them holds.

use std::borrow::Cow;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

const CONTROLLER: &str = "hugetlb.";

/// Those that a processor of this architecture has. Of another one there is no limit, here as on a host.
const SIZES: &[&str] = &["2MB", "1GB"];

/// The limits without those of pages that the cgroup in `directory` does not count.
pub(crate) fn that_can_be_limited<'a>(
    resources: &'a LinuxResources,
    directory: &Path,
) -> Cow<'a, LinuxResources> {
    let mut files = resources.unified().iter().flatten();
    if resources.hugepage_limits().is_none() && !files.any(|(name, _)| name.starts_with(CONTROLLER)) {
        return Cow::Borrowed(resources);
    }
    let is_absent = |size: &&&str| !directory.join(format!("{CONTROLLER}{size}.max")).exists();
    let absent: Vec<_> = SIZES.iter().filter(is_absent).collect();
    let mut resources = resources.clone();
    if let Some(mut limits) = resources.hugepage_limits().clone() {
        limits.retain(|limit| !absent.iter().any(|size| **size == limit.page_size()));
        resources.set_hugepage_limits(Some(limits));
    }
    if let Some(mut files) = resources.unified().clone() {
        files.retain(|name, _| !absent.iter().any(|size| name.starts_with(&format!("{CONTROLLER}{size}."))));
        resources.set_unified(Some(files));
    }
    Cow::Owned(resources)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_that_there_are_not_are_dropped_and_unknown_ones_kept() {
        let cgroup = tempfile::tempdir().unwrap();
        std::fs::write(cgroup.path().join("hugetlb.2MB.max"), "max").unwrap();
        let limits = json!([
            { "pageSize": "2MB", "limit": 4_194_304 },
            { "pageSize": "1GB", "limit": 0 },
            { "pageSize": "3MB", "limit": 0 },
        ]);
        let files = json!({ "hugetlb.1GB.max": "0", "hugetlb.1GB.rsvd.max": "0", "hugetlb.2MB.max": "0", "pids.max": "5" });
        let resources: LinuxResources =
            serde_json::from_value(json!({ "hugepageLimits": limits, "unified": files })).unwrap();
        let value = serde_json::to_value(that_can_be_limited(&resources, cgroup.path())).unwrap();
        let kept = value["hugepageLimits"].as_array().unwrap();
        let sizes: Vec<_> = kept.iter().map(|limit| limit["pageSize"].as_str().unwrap()).collect();
        assert_eq!(sizes, ["2MB", "3MB"]);
        assert_eq!(value["unified"], json!({ "hugetlb.2MB.max": "0", "pids.max": "5" }));
    }
}

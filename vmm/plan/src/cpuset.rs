//! `linux.resources.cpu.cpus`, or the same of `unified`: the host's processors that a container may run on.
//!
//! The monitor and all its threads run on them. The guest's are numbered from 0: as many of them
//! as the list has are the container's.

use std::borrow::Cow;
use std::collections::BTreeSet;

use oci_spec::runtime::LinuxResources;

use crate::validate::PlanError;
use crate::{cpu_list, unified};

const FIELD: &str = "linux.resources.cpu.cpus";

/// The processors that `resources` names; none for no such limit.
///
/// # Errors
/// One of them is not among those that are `online`.
pub fn processors(
    resources: Option<&LinuxResources>,
    online: &BTreeSet<u32>,
) -> Result<BTreeSet<u32>, PlanError> {
    let Some((field, list)) = list_of(resources) else { return Ok(BTreeSet::new()) };
    let wanted = cpu_list::parse(list).map_err(|problem| PlanError::invalid(&*field, problem))?;
    match wanted.difference(online).next() {
        Some(missing) => {
            let has: Vec<_> = online.iter().map(u32::to_string).collect();
            let problem = format!("{missing} is no processor of this host, which has {}", has.join(","));
            Err(PlanError::invalid(field, problem))
        }
        None => Ok(wanted),
    }
}

/// The same limits as the guest applies them, for a machine with so many CPUs.
pub fn in_the_guest(resources: &LinuxResources, wanted: &BTreeSet<u32>, vcpus: u8) -> LinuxResources {
    let mut resources = resources.clone();
    if wanted.is_empty() {
        return resources;
    }
    let last = wanted.len().min(vcpus.into()).saturating_sub(1);
    let list = if last == 0 { "0".to_owned() } else { format!("0-{last}") };
    if let Some(mut cpu) = resources.cpu().clone().filter(|cpu| cpu.cpus().is_some()) {
        cpu.set_cpus(Some(list.clone()));
        resources.set_cpu(Some(cpu));
    }
    if let Some(mut files) = resources.unified().clone() {
        files.entry(unified::CPUS.to_owned()).and_modify(|value| *value = list);
        resources.set_unified(Some(files));
    }
    resources
}

/// The field that counts, and its list.
fn list_of(resources: Option<&LinuxResources>) -> Option<(Cow<'static, str>, &str)> {
    let resources = resources?;
    let in_unified =
        || unified::file(resources, unified::CPUS).map(|list| (unified::field(unified::CPUS).into(), list));
    let own = resources.cpu().as_ref().and_then(|cpu| cpu.cpus().as_deref()).map(|list| (FIELD.into(), list));
    let given = |(_, list): &(_, &str)| !list.trim().is_empty();
    in_unified().filter(given).or(own.filter(given))
}

/// Whether [`processors`] has to know those that are online.
pub fn names_processors(resources: Option<&LinuxResources>) -> bool {
    list_of(resources).is_some()
}

/// What the kernel's list of those that are online says.
///
/// # Errors
/// What is wrong with it.
pub fn online_processors(list: &str) -> Result<BTreeSet<u32>, String> {
    cpu_list::parse(list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resources(cpus: &str) -> LinuxResources {
        serde_json::from_value(json!({ "cpu": { "cpus": cpus, "shares": 7 } })).unwrap()
    }

    fn guest_list(cpus: &str, vcpus: u8) -> String {
        let resources = resources(cpus);
        let wanted = processors(Some(&resources), &(0..8).collect()).unwrap();
        in_the_guest(&resources, &wanted, vcpus).cpu().as_ref().unwrap().cpus().clone().unwrap_or_default()
    }

    #[test]
    fn guest_numbers_its_own_from_zero() {
        assert_eq!(guest_list("5", 1), "0");
        assert_eq!(guest_list("2,4-6", 4), "0-3");
        assert_eq!(guest_list("2,4-6", 2), "0-1");
        assert_eq!(guest_list("", 2), "");
    }

    #[test]
    fn file_of_unified_is_the_same_limit_and_counts_more() {
        let resources =
            json!({ "cpu": { "cpus": "1" }, "unified": { "cpuset.cpus": "2-3\n", "cpu.idle": "1" } });
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let wanted = processors(Some(&resources), &(0..8).collect()).unwrap();
        assert_eq!(wanted, [2, 3].into());
        let guests = serde_json::to_value(in_the_guest(&resources, &wanted, 2)).unwrap();
        let expected =
            json!({ "cpu": { "cpus": "0-1" }, "unified": { "cpuset.cpus": "0-1", "cpu.idle": "1" } });
        assert_eq!((&guests["cpu"], &guests["unified"]), (&expected["cpu"], &expected["unified"]));
        let error = processors(Some(&resources), &[0].into()).unwrap_err().to_string();
        assert!(error.contains("linux.resources.unified[\"cpuset.cpus\"]: 2 is no processor"), "{error}");
    }

    #[test]
    fn processor_that_the_host_does_not_have_is_refused() {
        let error = processors(Some(&resources("1-2")), &(0..2).collect()).unwrap_err().to_string();
        assert!(
            error.contains("linux.resources.cpu.cpus: 2 is no processor") && error.contains("has 0,1"),
            "{error}"
        );
    }
}

//! Rules of netfilter: those of the namespace on the host, made again in the guest.
//!
//! ```text
//!   description ─▶ steps (pure) ─▶ one transaction, all or nothing ─▶ what is left over is removed
//! ```
//!
//! Each rule bears its number on the host in its userdata, and only such ones are ever removed: what the
//! container has made itself stays.

mod steps;

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use vmrun_netlink::Netlink;
use vmrun_netlink::attributes::attribute;
use vmrun_netlink::netfilter::{Kind, Packet, Told};
use vmrun_proto::netfilter::{Table, tagged};

use steps::{RULE_CHAIN, RULE_HANDLE, RULE_TABLE, RULE_USERDATA, Step};

/// A rule of the host's: family, table, chain, and its number on the host.
type Place = (u8, String, String, u64);

/// The numbers that the host's rules have in the guest.
type There = BTreeMap<Place, u64>;

/// Goes from one set of rules to the other in the namespace of this thread as far as it can; says what
/// failed, and what there is now.
pub(super) fn follow(old: &[Table], new: &[Table]) -> (Vec<Table>, Result<(), String>) {
    if old == new {
        return (new.to_vec(), Ok(()));
    }
    let failed =
        |error: io::Error| format!("cannot change the netfilter rules: {}", super::apply::words(&error));
    let opened = Netlink::open_netfilter().and_then(|mut netlink| {
        let there = if old.is_empty() { There::new() } else { read(&mut netlink)? };
        Ok((netlink, there))
    });
    let (mut netlink, mut there) = match opened {
        Ok(opened) => opened,
        Err(error) => return (old.to_vec(), Err(failed(error))),
    };
    let mut reached = new.to_vec();
    let mut failures = Vec::new();
    loop {
        let steps = steps::changes(old, &reached, &there);
        let results = netlink.transact(steps.iter().map(|step| (step.packet.clone(), step.flags)).collect());
        let results = match results {
            Ok(results) => results,
            Err(error) => return (old.to_vec(), Err(failed(error))),
        };
        let refused: Vec<(&Step, io::Error)> =
            steps.iter().zip(results).filter_map(|(step, result)| Some((step, result.err()?))).collect();
        if refused.is_empty() {
            break;
        }
        for (step, error) in refused {
            let failure = format!("cannot {}: {}", step.what, why(&error));
            // Without one rule the others work; without anything else they do not.
            let Some(place) = &step.rule else { return (old.to_vec(), Err(failure)) };
            let wanted = forget(&mut reached, place);
            let known = there.remove(place).is_some();
            if !wanted && !known {
                // The next transaction would be the same.
                return (old.to_vec(), Err(failure));
            }
            // One that is to go may have been removed by the container meanwhile.
            let is_gone = !wanted && error.raw_os_error() == Some(Errno::ENOENT as i32);
            if !is_gone && failures.last() != Some(&failure) {
                failures.push(failure);
            }
        }
    }
    failures.extend(tidy(&mut netlink, old, &reached));
    (reached, if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) })
}

/// Removes what rules have been taken from and nobody uses; says what failed.
fn tidy(netlink: &mut Netlink, old: &[Table], new: &[Table]) -> Vec<String> {
    let mut failures = Vec::new();
    for step in steps::removals(old, new) {
        let result = netlink.transact(vec![(step.packet, step.flags)]);
        let Some(error) = result.and_then(|results| results.into_iter().collect::<io::Result<()>>()).err()
        else {
            continue;
        };
        // The container uses it, or has removed it.
        if !matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EBUSY | Errno::ENOENT)) {
            failures.push(format!("cannot {}: {}", step.what, why(&error)));
        }
    }
    failures
}

/// Finds the host's rules.
fn read(netlink: &mut Netlink) -> io::Result<There> {
    let answers = netlink.dump(&Packet::get(Kind::Rule, 0, &[]))?;
    let places = answers.iter().filter_map(|answer| {
        let told = Told::read(answer.body())?;
        let find = |kind| attribute(told.attributes, kind);
        let number = tagged(find(RULE_USERDATA)?.value())?;
        let place = (told.family, find(RULE_TABLE)?.text(), find(RULE_CHAIN)?.text(), number);
        Some((place, find(RULE_HANDLE)?.long()?))
    });
    Ok(places.collect())
}

/// Takes a rule out of the description; whether it was in it.
fn forget(tables: &mut [Table], (family, table, chain, handle): &Place) -> bool {
    let table = tables.iter_mut().find(|one| one.family == *family && one.name == *table);
    let chain = table.and_then(|table| table.chains.iter_mut().find(|one| one.name == *chain));
    let Some(chain) = chain else { return false };
    let before = chain.rules.len();
    chain.rules.retain(|rule| rule.handle != *handle);
    chain.rules.len() < before
}

fn why(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => {
            "the guest's kernel does not know all of that".to_owned()
        }
        _ => super::apply::words(error),
    }
}

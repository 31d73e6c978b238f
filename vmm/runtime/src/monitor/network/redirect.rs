//! Frames that an interface receives are sent through another one: a `matchall` filter with a
//! `mirred` action on its ingress, as `tc filter add dev A ingress matchall action mirred egress
//! redirect dev B` makes it.
//!
//! The filter is known by its handle. That of an interface which outlives the sandbox is taken away
//! at the sandbox's end, or, if the monitor was killed, by whoever comes next.

use std::io;

use vmrun_netlink::core::{NLM_F_CREATE, NLM_F_EXCL};
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterMatchAllOption, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption,
};
use vmrun_netlink::{Change, Netlink};

use super::filters::{self, Filter, is_ours, message};

const INGRESS_KIND: &str = "ingress";
const QDISC: TcHandle = TcHandle { major: u16::MAX, minor: 0 };

/// Steps that may fail, as messages call them.
pub(super) const QDISC_STEP: &str = "qdisc ingress";
pub(super) const FILTER_STEP: &str = "filter matchall, action mirred";

/// The step that failed, and why.
pub(super) type Failure = (&'static str, io::Error);

/// A redirection that this process has set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    /// The interface whose frames it takes.
    index: u32,
    /// The interface had no queue for them before.
    made_qdisc: bool,
}

/// What is there of vmrun's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earlier {
    /// Nothing.
    None,
    /// It sends to an interface that is there.
    Live,
    /// It sends to one that has gone.
    Stale,
}

/// What the kernel is to change so that what `from` receives is led out through `to`.
pub(super) fn steps(from: u32, to: u32) -> io::Result<[Change; 2]> {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Ok([
        (RouteNetlinkMessage::NewQueueDiscipline(qdisc(from)?), flags),
        (RouteNetlinkMessage::NewTrafficFilter(filter(from, to)?), flags),
    ])
}

/// Does those steps.
pub(super) fn make(netlink: &mut Netlink, from: u32, to: u32) -> Result<Redirect, Failure> {
    let steps = steps(from, to).map_err(|error| ("its number", error))?;
    let said = netlink.change_all(steps.into()).map_err(|error| (FILTER_STEP, error))?;
    let said = <[_; 2]>::try_from(said).map_err(|_| (FILTER_STEP, io::ErrorKind::InvalidData.into()))?;
    made(netlink, from, said)
}

/// What has come of those steps at `from`. The word of an error is what it was about.
pub(super) fn made(netlink: &mut Netlink, from: u32, said: [io::Result<()>; 2]) -> Result<Redirect, Failure> {
    let [qdisc, filter] = said;
    let made_qdisc = match qdisc {
        // Of ingress or clsact: one does as well as the other.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => false,
        Err(error) => return Err((QDISC_STEP, error)),
        Ok(()) => true,
    };
    let redirect = Redirect { index: from, made_qdisc };
    match filter {
        Ok(()) => Ok(redirect),
        // Somebody's of vmrun's is there, and stays.
        Err(error) if !made_qdisc => Err((FILTER_STEP, error)),
        Err(error) => {
            redirect.remove(netlink);
            Err((FILTER_STEP, error))
        }
    }
}

impl Redirect {
    /// The same, in the place of one whose queue may have stayed.
    pub(super) fn instead_of(self, earlier: Self) -> Self {
        Self { made_qdisc: self.made_qdisc || earlier.made_qdisc, ..self }
    }

    /// Takes it away, as far as it is still there: with its interface it is gone.
    pub(super) fn remove(self, netlink: &mut Netlink) {
        let is_alone = filters::all(netlink, self.index).is_ok_and(|filters| filters.iter().all(is_ours));
        let with_queue = self.made_qdisc && is_alone && remove_qdisc(netlink, self.index).is_ok();
        if !with_queue {
            Filter::ALL.iter().for_each(|filter| filter.remove(netlink, self.index));
        }
    }
}

/// Whether what `from` receives is still led out through `to`, by what is at `from`.
pub(super) fn leads(filters: &[TcMessage], to: u32) -> bool {
    filters.iter().any(|filter| Filter::Redirection.is(filter) && target(filter) == Some(to))
}

/// Takes away what this process has just set up at `from`, of which it does not know how far it has come.
pub(super) fn undo(netlink: &mut Netlink, from: u32, to: u32) {
    if filters::all(netlink, from).is_ok_and(|filters| leads(&filters, to)) {
        clean(netlink, from);
    }
}

/// What an earlier vmrun has left at an interface, or another one uses.
pub(super) fn earlier(netlink: &mut Netlink, index: u32) -> io::Result<Earlier> {
    let filters = filters::all(netlink, index)?;
    Ok(match filters.iter().find(|filter| Filter::Redirection.is(filter)) {
        None => Earlier::None,
        // The kernel forgets the target that goes.
        Some(filter) if target(filter).is_none_or(|target| target == 0) => Earlier::Stale,
        Some(_) => Earlier::Live,
    })
}

/// Takes away what an earlier vmrun has left, with the queue where nobody else has anything there.
pub(super) fn clean(netlink: &mut Netlink, index: u32) {
    Redirect { index, made_qdisc: true }.remove(netlink);
}

/// The queue of what an interface receives.
fn qdisc(index: u32) -> io::Result<TcMessage> {
    let mut qdisc = message(index)?;
    qdisc.header.handle = QDISC;
    qdisc.header.parent = TcHandle::INGRESS;
    qdisc.attributes = vec![TcAttribute::Kind(INGRESS_KIND.to_owned())];
    Ok(qdisc)
}

/// Fails for one that serves what is sent, too (`clsact`): that is somebody else's.
fn remove_qdisc(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.change(RouteNetlinkMessage::DelQueueDiscipline(qdisc(index)?), 0)
}

fn filter(from: u32, to: u32) -> io::Result<TcMessage> {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    let mut filter = Filter::Redirection.at(from)?;
    let options = vec![TcOption::MatchAll(TcFilterMatchAllOption::Action(vec![action]))];
    filter.attributes.push(TcAttribute::Options(options));
    Ok(filter)
}

fn target(filter: &TcMessage) -> Option<u32> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let actions = options.flatten().filter_map(|option| match option {
        TcOption::MatchAll(TcFilterMatchAllOption::Action(actions)) => Some(actions),
        _ => None,
    });
    let parts = actions.flatten().flat_map(|action| &action.attributes).filter_map(|part| match part {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    parts.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use vmrun_netlink::core::Emitable;

    use super::*;

    #[test]
    fn queue_that_was_made_once_stays_vmruns() {
        let redirect = |made_qdisc| Redirect { index: 3, made_qdisc };
        for (earlier, again) in [(true, false), (true, true), (false, true)] {
            assert_eq!(redirect(again).instead_of(redirect(earlier)), redirect(true));
        }
        assert_eq!(redirect(false).instead_of(redirect(false)), redirect(false));
    }

    #[test]
    fn filter_is_recognised_and_its_target_read() {
        let filter = filter(3, 9).unwrap();
        assert!(is_ours(&filter));
        assert_eq!(target(&filter), Some(9));
        let filters = std::slice::from_ref(&filter);
        assert!(leads(filters, 9) && !leads(filters, 8) && !leads(&[], 9));
        // The order of the fields is the kernel's: family, interface, handle, parent, priority and protocol.
        let mut bytes = vec![0; filter.buffer_len()];
        filter.emit(&mut bytes);
        assert_eq!(&bytes[..8], &[0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(&bytes[8..20], &[b'n', b'r', b'm', b'v', 0xf2, 0xff, 0xff, 0xff, 0, 3, 0xff, 0xff]);
        assert!(!is_ours(&message(3).unwrap()));
    }
}

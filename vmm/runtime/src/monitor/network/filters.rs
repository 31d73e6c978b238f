//! vmrun's filters of what an interface receives: how they are told from others', and taken away.

use std::io;

use vmrun_netlink::Netlink;
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::tc::{TcAttribute, TcFilterBpf, TcFilterMatchAll, TcHandle, TcMessage};

/// `vmrn`: which filters are vmrun's.
const HANDLE: u32 = u32::from_be_bytes(*b"vmrn");
/// Behind all filters that somebody else may have put there.
const LAST_PRIORITY: u32 = 0xffff;
/// `ETH_P_ALL`, in the order of the network.
const ALL_PROTOCOLS: u32 = 0x0300;

const INGRESS: TcHandle = TcHandle { major: TcHandle::INGRESS.major, minor: TcHandle::MIN_INGRESS };

/// A filter of vmrun's, in the order in which frames come to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// What the host's network stack has: see [`super::answers`].
    Answers,
    /// All else: see [`super::redirect`].
    Redirection,
}

impl Filter {
    pub(super) const ALL: [Self; 2] = [Self::Answers, Self::Redirection];

    fn priority(self) -> u32 {
        match self {
            Self::Answers => LAST_PRIORITY - 1,
            Self::Redirection => LAST_PRIORITY,
        }
    }

    fn kind(self) -> TcAttribute {
        let kind = match self {
            Self::Answers => TcFilterBpf::KIND,
            Self::Redirection => TcFilterMatchAll::KIND,
        };
        TcAttribute::Kind(kind.to_owned())
    }

    /// The message that names it at an interface.
    pub(super) fn at(self, interface: u32) -> io::Result<TcMessage> {
        let mut filter = message(interface)?;
        filter.header.parent = INGRESS;
        filter.header.handle = TcHandle::from(HANDLE);
        filter.header.info = (self.priority() << 16) | ALL_PROTOCOLS;
        filter.attributes = vec![self.kind()];
        Ok(filter)
    }

    /// Whether it is this one.
    pub(super) fn is(self, filter: &TcMessage) -> bool {
        let header = &filter.header;
        filter.attributes.contains(&self.kind())
            && header.handle == TcHandle::from(HANDLE)
            && header.info >> 16 == self.priority()
    }

    /// Takes it away; where there is none, nothing happens.
    pub(super) fn remove(self, netlink: &mut Netlink, interface: u32) {
        if let Ok(filter) = self.at(interface) {
            let _ = netlink.change(RouteNetlinkMessage::DelTrafficFilter(filter), 0);
        }
    }
}

/// Whether it is one of vmrun's.
pub(super) fn is_ours(filter: &TcMessage) -> bool {
    Filter::ALL.iter().any(|ours| ours.is(filter))
}

/// A message about an interface.
pub(super) fn message(interface: u32) -> io::Result<TcMessage> {
    Ok(TcMessage::with_index(i32::try_from(interface).map_err(io::Error::other)?))
}

/// All filters of what an interface receives; those that cannot be read count as somebody else's.
pub(super) fn all(netlink: &mut Netlink, interface: u32) -> io::Result<Vec<TcMessage>> {
    let mut asked = message(interface)?;
    asked.header.parent = INGRESS;
    let told = match netlink.dump(&RouteNetlinkMessage::GetTrafficFilter(asked)) {
        // Without a queue there are none.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP)) =>
        {
            return Ok(Vec::new());
        }
        told => told?,
    };
    let filters = told.iter().filter_map(|answer| match answer.message() {
        Ok(RouteNetlinkMessage::NewTrafficFilter(filter)) => Some(filter),
        Ok(_) => None,
        Err(_) => Some(TcMessage::default()),
    });
    // A classifier's head comes as a filter without a handle.
    Ok(filters.filter(|filter| filter.header.index == 0 || u32::from(filter.header.handle) != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_told_from_each_other_and_from_others() {
        let [answers, redirection] = Filter::ALL.map(|filter| filter.at(3).unwrap());
        assert!(Filter::Answers.is(&answers) && !Filter::Answers.is(&redirection));
        assert!(Filter::Redirection.is(&redirection) && !Filter::Redirection.is(&answers));
        assert_eq!(answers.header.info >> 16, 0xfffe);
        assert!(is_ours(&answers) && is_ours(&redirection) && !is_ours(&message(3).unwrap()));
    }
}

//! What can go wrong with a namespace's network, and what helps.

use std::io;
use std::net::IpAddr;

use super::{redirect, tap};

/// The right to make interfaces.
const NO_RIGHT: &str = "it takes CAP_NET_ADMIN in the user namespace that owns the network namespace";

/// Why the container cannot have the network of its namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The kernel does not tell what is there.
    #[error("cannot read the container's network namespace")]
    Read(#[source] io::Error),
    /// Nor which rules there are.
    #[error("cannot read the netfilter rules of the container's network namespace")]
    Rules(#[source] io::Error),
    /// There are rules that are not carried.
    #[error(
        "cannot bring the iptables-legacy rules of the container's network namespace into the guest (tables {tables})"
    )]
    Legacy {
        /// Which tables there are.
        tables: String,
    },
    /// Nobody may see whether there are any.
    #[error("cannot see whether the container's network namespace has iptables-legacy rules")]
    Hidden(#[source] io::Error),
    /// Something cannot be carried.
    #[error("cannot bring {what} of the container's network namespace into the guest: {why}")]
    Unfit {
        /// Interface, route, or rule.
        what: String,
        /// Why.
        why: String,
    },
    /// There is no tap to be had.
    #[error("cannot make a tap for {interface} in the container's network namespace ({step})")]
    Tap {
        /// For which interface.
        interface: String,
        /// Which call failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Frames cannot be led to the tap.
    #[error("cannot join {interface} of the container's network namespace to its tap ({step})")]
    Join {
        /// Which interface.
        interface: String,
        /// Which step failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Name servers in the namespace do not hear from those that they ask.
    #[error(
        "the name server {server} of the container's network namespace does not hear through {interface} what it asks others ({step})"
    )]
    Answers {
        /// Which one.
        server: IpAddr,
        /// Through which interface.
        interface: String,
        /// Which step failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Some multicast groups are not heard.
    #[error(
        "{interface} of the container's network namespace does not take the frames of all multicast groups"
    )]
    Groups {
        /// Which interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// Another sandbox has it.
    #[error("the interface {interface} of the container's network namespace is in another sandbox already")]
    Taken {
        /// Which interface.
        interface: String,
    },
    /// The machine does not take the state of the link.
    #[error("cannot tell the guest whether the cable of {interface} is in: {cause}")]
    Cable {
        /// Of which interface.
        interface: String,
        /// Why.
        cause: String,
    },
    /// The machine does not take the card.
    #[error("cannot plug the network card for {interface} into the machine: {cause}")]
    Plug {
        /// For which interface.
        interface: String,
        /// Why.
        cause: String,
    },
}

impl NetworkError {
    /// What the user can do.
    pub(crate) fn next_step(&self) -> Option<&'static str> {
        Some(match self {
            Self::Read(source) | Self::Rules(source) => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => NO_RIGHT,
                _ => "try again; if it stays so, see whether `ip address` and `nft list ruleset` work there",
            },
            Self::Plug { .. } | Self::Cable { .. } => {
                "try again; console.log in the container's directory has what its machine said"
            }
            Self::Legacy { .. } => {
                "have what makes them use iptables-nft, as Debian's alternatives for iptables do by default"
            }
            Self::Hidden(_) => {
                "the guest has none of them; let this user read /proc/net/ip_tables_names there, or see that there are none"
            }
            Self::Groups { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "it takes CAP_NET_RAW in the user namespace that owns the network namespace"
                }
                _ => return None,
            },
            Self::Unfit { .. } => "take it out of the namespace, or give the container another network",
            Self::Taken { .. } => "give each sandbox a network namespace of its own",
            Self::Answers { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "names of the engine's own networks are known all the same; for others it takes CAP_BPF and CAP_NET_ADMIN on the host, or a name server that is not on loopback"
                }
                Some(libc::ENOENT | libc::EOPNOTSUPP) => "load the host's kernel module cls_bpf",
                _ => return None,
            },
            Self::Tap { step, source, .. } => return tap_step(step, source),
            Self::Join { step, source, .. } => return join_step(step, source),
        })
    }
}

fn tap_step(step: &str, source: &io::Error) -> Option<&'static str> {
    Some(match source.raw_os_error()? {
        libc::EPERM | libc::EACCES if step == tap::OPEN => {
            "let this user read and write /dev/net/tun, and the devices of its cgroup have it (10:200)"
        }
        libc::EPERM => NO_RIGHT,
        libc::ENOENT | libc::ENODEV | libc::ENXIO if step == tap::OPEN => {
            "load the host's kernel module tun (`modprobe tun`)"
        }
        libc::ENOTTY | libc::EINVAL | libc::EISDIR if step == tap::OPEN || step == tap::ATTACH => {
            "it is another file than the device of the kernel module tun: make it anew with `mknod /dev/net/tun c 10 200`"
        }
        _ => return None,
    })
}

fn join_step(step: &str, source: &io::Error) -> Option<&'static str> {
    Some(match source.raw_os_error()? {
        libc::EPERM | libc::EACCES => NO_RIGHT,
        libc::ENOENT | libc::EOPNOTSUPP if step == redirect::QDISC_STEP => {
            "load the host's kernel module sch_ingress (`modprobe sch_ingress`)"
        }
        libc::ENOENT | libc::EOPNOTSUPP => {
            "load the host's kernel modules cls_matchall and act_mirred (`modprobe -a cls_matchall act_mirred`)"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(step: &'static str, errno: i32) -> NetworkError {
        let source = io::Error::from_raw_os_error(errno);
        NetworkError::Tap { interface: "eth0".to_owned(), step, source }
    }

    fn join(step: &'static str, errno: i32) -> NetworkError {
        let source = io::Error::from_raw_os_error(errno);
        NetworkError::Join { interface: "eth0".to_owned(), step, source }
    }

    #[test]
    fn what_the_host_lacks_is_named_with_the_interface() {
        for (error, words) in [
            (tap(tap::OPEN, libc::ENOENT), "modprobe tun"),
            (tap(tap::OPEN, libc::ENODEV), "modprobe tun"),
            (tap(tap::OPEN, libc::EACCES), "read and write /dev/net/tun"),
            (tap(tap::OPEN, libc::EPERM), "devices of its cgroup"),
            (tap(tap::ATTACH, libc::EPERM), "CAP_NET_ADMIN"),
            (tap(tap::ATTACH, libc::ENOTTY), "mknod /dev/net/tun c 10 200"),
            (join(redirect::QDISC_STEP, libc::ENOENT), "module sch_ingress"),
            (join(redirect::QDISC_STEP, libc::EPERM), "CAP_NET_ADMIN"),
            (join(redirect::FILTER_STEP, libc::ENOENT), "cls_matchall and act_mirred"),
            (join(redirect::FILTER_STEP, libc::EOPNOTSUPP), "cls_matchall and act_mirred"),
        ] {
            assert!(error.to_string().contains("eth0 "), "{error}");
            let step = error.next_step();
            assert!(step.is_some_and(|step| step.contains(words)), "{error}: {step:?}");
        }
        for (errno, words) in [(libc::EPERM, "CAP_NET_ADMIN"), (libc::EMFILE, "try again")] {
            let source = || io::Error::from_raw_os_error(errno);
            for error in [NetworkError::Read(source()), NetworkError::Rules(source())] {
                assert!(error.next_step().is_some_and(|step| step.contains(words)), "{error}");
            }
        }
        assert_eq!(tap(tap::ATTACH, libc::EBUSY).next_step(), None);
        assert_eq!(join(redirect::FILTER_STEP, libc::EBUSY).next_step(), None);
    }
}

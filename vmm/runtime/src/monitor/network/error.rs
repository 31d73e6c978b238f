//! What can go wrong with a namespace's network, and what helps.

use std::io;

/// Why the container cannot have the network of its namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The kernel does not tell what is there.
    #[error("cannot read the container's network namespace")]
    Read(#[source] io::Error),
    /// Something cannot be carried.
    #[error("cannot bring {what} of the container's network namespace into the guest: {why}")]
    Unfit {
        /// Interface or route.
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
    /// Another sandbox has it.
    #[error("the interface {interface} of the container's network namespace is in another sandbox already")]
    Taken {
        /// Which interface.
        interface: String,
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
            Self::Read(_) | Self::Plug { .. } => return None,
            Self::Unfit { .. } => "take it out of the namespace, or give the container another network",
            Self::Taken { .. } => "give each sandbox a network namespace of its own",
            Self::Tap { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "it takes CAP_NET_ADMIN in the user namespace that owns the network namespace, and /dev/net/tun"
                }
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                    "load the host's kernel module tun (`modprobe tun`)"
                }
                _ => return None,
            },
            Self::Join { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "it takes CAP_NET_ADMIN in the user namespace that owns the network namespace"
                }
                Some(libc::ENOENT | libc::EOPNOTSUPP) => {
                    "load the host's kernel modules sch_ingress, cls_matchall and act_mirred"
                }
                _ => return None,
            },
        })
    }
}

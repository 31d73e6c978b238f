//! What a monitor that was killed has left at interfaces that outlive it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};
use vmrun_netlink::Netlink;
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::link::LinkMessage;

use super::redirect::{self, Earlier};

/// Takes it away in the namespace at this path. Where there is none any more, there is nothing.
pub(crate) fn sweep(namespace: &Path) -> io::Result<()> {
    let namespace = match File::open(namespace) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    // A thread enters it, and takes the namespace with it when it ends.
    let sweeper = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        sweep_here()
    })?;
    sweeper.join().map_err(|_| io::Error::from(io::ErrorKind::Other))?
}

fn sweep_here() -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    for answer in netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        let Ok(RouteNetlinkMessage::NewLink(link)) = answer.message() else { continue };
        let index = link.header.index;
        if redirect::earlier(&mut netlink, index)? == Earlier::Stale {
            redirect::clean(&mut netlink, index);
        }
    }
    Ok(())
}

//! What nf_tables holds, as the kernel tells it.

use std::io;

use vmrun_netlink::attributes::{Writer, attribute};
use vmrun_netlink::netfilter::{Kind, Packet, Told};
use vmrun_netlink::{Answer, Netlink};

use super::plan::{ELEMENTS_SET, ELEMENTS_TABLE, SET_NAME, SET_TABLE};

/// How often it is begun anew when there was a change meanwhile.
const MOST_TRIES: usize = 8;

/// All families.
const ANY: u8 = 0;

/// What was told, in this order: tables, chains, flow tables, objects, sets, their elements, rules.
pub(super) type Dump = Vec<(Kind, Vec<u8>)>;

/// Reads all of it, as it is at one moment.
pub(super) fn read(netlink: &mut Netlink) -> io::Result<Dump> {
    for _ in 0..MOST_TRIES {
        let dump = match read_once(netlink) {
            // A set has gone before its elements were asked for.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            dump => dump?,
        };
        let mut generations =
            dump.iter().filter_map(|(_, body)| Told::read(body)).map(|told| told.generation);
        let first = generations.next();
        if generations.all(|generation| Some(generation) == first) {
            return Ok(dump);
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "they change all the time"))
}

fn read_once(netlink: &mut Netlink) -> io::Result<Dump> {
    let mut dump = Dump::new();
    let tables = match netlink.dump(&Packet::get(Kind::Table, ANY, &[])) {
        // The kernel has no nf_tables.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            return Ok(dump);
        }
        tables => tables?,
    };
    add(&mut dump, Kind::Table, tables);
    if dump.is_empty() {
        return Ok(dump);
    }
    for kind in [Kind::Chain, Kind::FlowTable, Kind::Object, Kind::Set] {
        let answers = netlink.dump(&Packet::get(kind, ANY, &[]))?;
        let elements = if kind == Kind::Set { elements(netlink, &answers)? } else { Vec::new() };
        add(&mut dump, kind, answers);
        add(&mut dump, Kind::Elements, elements);
    }
    add(&mut dump, Kind::Rule, netlink.dump(&Packet::get(Kind::Rule, ANY, &[]))?);
    Ok(dump)
}

fn elements(netlink: &mut Netlink, sets: &[Answer]) -> io::Result<Vec<Answer>> {
    let mut elements = Vec::new();
    for told in sets.iter().filter_map(|answer| Told::read(answer.body())) {
        let text = |kind| attribute(told.attributes, kind).map(|found| found.text()).unwrap_or_default();
        let of = Writer::default().text(ELEMENTS_TABLE, &text(SET_TABLE)).text(ELEMENTS_SET, &text(SET_NAME));
        elements.extend(netlink.dump(&Packet::get(Kind::Elements, told.family, &of.finish()))?);
    }
    Ok(elements)
}

fn add(dump: &mut Dump, kind: Kind, answers: Vec<Answer>) {
    dump.extend(answers.into_iter().map(|answer| (kind, answer.into_body())));
}

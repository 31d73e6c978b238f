//! What rules are made of: `NFTA_LIST_ELEM`s of a name and data. They load into registers, compare
//! those, and decide.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vmrun_netlink::attributes::{Attribute, Writer, attribute, attributes};

/// `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `_DATA`.
const ITEM: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;

/// `NFTA_META_DREG`, `_KEY`; and `NFT_META_*`.
const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;
const INTERFACES: [(u32, u32); 2] = [(4, 6), (5, 7)];
const PROTOCOL_OF_IP: u32 = 16;

/// `NFTA_PAYLOAD_*`; the header of IP is the base 1.
const PAYLOAD_REGISTER: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const HEADER_OF_IP: u32 = 1;

/// `NFTA_CMP_SREG`, `_OP`, `_DATA`, and in it `NFTA_DATA_VALUE`; `NFT_CMP_EQ`, `_NEQ`.
const COMPARE_REGISTER: u16 = 1;
const COMPARE_HOW: u16 = 2;
const COMPARE_DATA: u16 = 3;
const VALUE: u16 = 1;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

/// Kinds of tables (`NFPROTO_*`).
const IPV4: u8 = 2;

/// Where a set's name and number are, by the expression (`NFTA_LOOKUP_*`, `NFTA_DYNSET_*`, `NFTA_OBJREF_*`).
const SETS: [(&str, u16, u16); 3] = [("lookup", 1, 4), ("dynset", 1, 2), ("objref", 4, 5)];

/// What is only a figure, by the expression: how much has passed (`NFTA_COUNTER_*`, `NFTA_QUOTA_CONSUMED`,
/// `NFTA_LAST_*`).
const FIGURES: [(&str, &[u16]); 3] = [("counter", &[1, 2]), ("quota", &[4]), ("last", &[1, 2])];

/// Number of loopback, in any namespace.
const LOOPBACK: u32 = 1;

/// Of an interface's name, as registers have it.
const NAME_BYTES: usize = 16;

/// A rule's expressions as the guest gets them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rewritten {
    pub(super) list: Writer,
    /// What extensions of iptables want to know: the protocol that the rule is about, or all but which.
    pub(super) protocol: Option<(u8, bool)>,
    /// The sets without names that it uses, by their names on the host.
    pub(super) sets: Vec<String>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Expression<'b> {
    name: String,
    data: &'b [u8],
}

impl Expression<'_> {
    fn number(&self, kind: u16) -> Option<u32> {
        attribute(self.data, kind).and_then(|found| found.number())
    }

    /// What it compares the register with, and how.
    fn compares(&self, register: Option<u32>) -> Option<(u32, &[u8])> {
        (self.name == "cmp" && register.is_some() && self.number(COMPARE_REGISTER) == register)
            .then_some(())?;
        Some((
            self.number(COMPARE_HOW)?,
            attribute(attribute(self.data, COMPARE_DATA)?.value(), VALUE)?.value(),
        ))
    }

    /// What it loads of the header of IP, and to which register.
    fn loads_header(&self) -> Option<(u32, u32, Option<u32>)> {
        (self.name == "payload" && self.number(PAYLOAD_BASE) == Some(HEADER_OF_IP)).then_some(())?;
        Some((self.number(PAYLOAD_OFFSET)?, self.number(PAYLOAD_LENGTH)?, self.number(PAYLOAD_REGISTER)))
    }
}

fn expression(item: Attribute<'_>) -> Expression<'_> {
    let text = attribute(item.value(), NAME).map(|name| name.text()).unwrap_or_default();
    Expression {
        name: text,
        data: attribute(item.value(), DATA).map(|data| data.value()).unwrap_or_default(),
    }
}

/// Rewrites the expressions of a rule. None where it serves only one of the name servers. `own` knows
/// the sets that are a rule's alone: what they are called, and their numbers.
pub(super) fn rewrite(
    family: u8,
    list: &[u8],
    names: &BTreeMap<u32, String>,
    servers: &[IpAddr],
    own: &dyn Fn(&str) -> Option<(String, u32)>,
) -> Result<Option<Rewritten>, &'static str> {
    let expressions: Vec<_> = attributes(list).map(expression).collect();
    let pairs = || expressions.iter().zip(expressions.iter().skip(1));
    if pairs().any(|(load, compare)| is_about_server(load, compare, servers)) {
        return Ok(None);
    }
    let mut rewritten = Rewritten {
        protocol: pairs().find_map(|(load, compare)| protocol(family, load, compare)),
        ..Rewritten::default()
    };
    let mut rest = &expressions[..];
    while let [one, after @ ..] = rest {
        rest = after;
        let data = match interface_key(one) {
            Some(key) => {
                let compare = after.first().ok_or(BY_NUMBER)?;
                let (how, value) = compare.compares(one.number(META_REGISTER)).ok_or(BY_NUMBER)?;
                let index = value.try_into().map(u32::from_ne_bytes).map_err(|_| BY_NUMBER)?;
                if index == LOOPBACK {
                    Writer::default().copy_all(one.data)
                } else {
                    let name = names.get(&index).ok_or("it compares with an interface that is not there")?;
                    let register = one.number(META_REGISTER).unwrap_or_default();
                    let load = Writer::default().number(META_REGISTER, register).number(META_KEY, key);
                    rewritten.push("meta", load);
                    rest = after.get(1..).unwrap_or_default();
                    rewritten.push("cmp", compare_name(register, how, name));
                    continue;
                }
            }
            None => rewritten.rename_set(one, own).unwrap_or_else(|| without_figures(&one.name, one.data)),
        };
        rewritten.push(&one.name, data);
    }
    Ok(Some(rewritten))
}

const BY_NUMBER: &str = "it compares the numbers of interfaces with a set's, and the guest has others";

/// The key that loads the name of an interface, of one that loads its number.
fn interface_key(one: &Expression<'_>) -> Option<u32> {
    let key = (one.name == "meta").then(|| one.number(META_KEY))??;
    INTERFACES.iter().find(|(number, _)| *number == key).map(|(_, name)| *name)
}

fn compare_name(register: u32, how: u32, name: &str) -> Writer {
    let mut value = name.as_bytes().to_vec();
    value.resize(NAME_BYTES, 0);
    Writer::default()
        .number(COMPARE_REGISTER, register)
        .number(COMPARE_HOW, how)
        .nest(COMPARE_DATA, Writer::default().put(VALUE, &value))
}

/// Whether a rule is only for packets to one of the name servers or from there.
fn is_about_server(load: &Expression<'_>, compare: &Expression<'_>, servers: &[IpAddr]) -> bool {
    let Some((offset, length, register)) = load.loads_header() else { return false };
    let Some((EQUAL, value)) = compare.compares(register) else { return false };
    servers.iter().any(|server| match server {
        IpAddr::V4(address) => length == 4 && matches!(offset, 12 | 16) && value == address.octets(),
        IpAddr::V6(address) => length == 16 && matches!(offset, 8 | 24) && value == address.octets(),
    })
}

/// The protocol of IP that both are about.
fn protocol(family: u8, load: &Expression<'_>, compare: &Expression<'_>) -> Option<(u8, bool)> {
    let register = match load.loads_header() {
        Some((9, 1, register)) if family == IPV4 => register,
        None if load.name == "meta" && load.number(META_KEY) == Some(PROTOCOL_OF_IP) => {
            load.number(META_REGISTER)
        }
        _ => return None,
    };
    match compare.compares(register)? {
        (how @ (EQUAL | UNEQUAL), [protocol]) => Some((*protocol, how == UNEQUAL)),
        _ => None,
    }
}

impl Rewritten {
    fn push(&mut self, name: &str, data: Writer) {
        let item = Writer::default().text(NAME, name).nest(DATA, data);
        self.list = std::mem::take(&mut self.list).nest(ITEM, item);
    }

    /// Has it refer to the set that comes with it.
    fn rename_set(
        &mut self,
        one: &Expression<'_>,
        own: &dyn Fn(&str) -> Option<(String, u32)>,
    ) -> Option<Writer> {
        let (_, name_at, id_at) = SETS.iter().find(|(name, ..)| *name == one.name)?;
        let old = attribute(one.data, *name_at)?.text();
        let (name, id) = own(&old)?;
        self.sets.push(old);
        let others = attributes(one.data).filter(|other| other.kind != *name_at && other.kind != *id_at);
        let data = others.fold(Writer::default(), |writer, other| writer.copy(other));
        Some(data.text(*name_at, &name).number(*id_at, id))
    }
}

/// The data of an expression that has counted nothing yet.
pub(super) fn without_figures(name: &str, data: &[u8]) -> Writer {
    let figures = FIGURES.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, figures)| figures);
    attributes(data)
        .filter(|one| !figures.contains(&one.kind))
        .fold(Writer::default(), |writer, one| writer.copy(one))
}

/// The same, name and data.
pub(super) fn expression_without_figures(item: &[u8]) -> Writer {
    let name = attribute(item, NAME).map(|name| name.text()).unwrap_or_default();
    let data = attribute(item, DATA).map(|data| data.value()).unwrap_or_default();
    Writer::default().text(NAME, &name).nest(DATA, without_figures(&name, data))
}

/// The same of a list.
pub(super) fn all_without_figures(list: &[u8]) -> Writer {
    attributes(list).fold(Writer::default(), |writer, item| {
        writer.nest(item.kind, expression_without_figures(item.value()))
    })
}

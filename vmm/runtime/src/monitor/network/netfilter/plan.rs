//! From what nf_tables holds to what the guest gets: a pure function.
//!
//! What one kernel tells, another one takes. Left out are numbers that are the host's, and figures; what
//! is a number of the host's in a rule becomes a name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vmrun_netlink::attributes::{Attribute, Writer, attribute, attributes};
use vmrun_netlink::netfilter::{Kind, Told};
use vmrun_proto::netfilter::{Attributes, Chain, Element, Object, PacketRule, Set, Table, tag};

use super::dump::Dump;
use super::expressions::{self, Rewritten};
use super::{Listing, UnfitRule};

/// `NFTA_TABLE_*`. Flags: that it sleeps stays, that it is somebody's who is on the host does not.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USERDATA: u16 = 6;
const TABLE_DORMANT: u32 = 1;

/// `NFTA_CHAIN_*`.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const CHAIN_USERDATA: u16 = 12;
const ACCEPT: u32 = 1;

/// `NFTA_RULE_*` and `NFTA_RULE_COMPAT_*`.
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMPAT: u16 = 5;
const RULE_USERDATA: u16 = 7;
const COMPAT_PROTOCOL: u16 = 1;
const COMPAT_FLAGS: u16 = 2;
const COMPAT_INVERTED: u32 = 2;
const MOST_USERDATA: usize = 256;

/// `NFTA_SET_*`; those that are neither told to another kernel nor written by us are not here.
pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_ID: u16 = 10;
const SET_HANDLE: u16 = 16;
const SET_KEPT: [u16; 14] = [SET_TABLE, SET_FLAGS, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18];
const ANONYMOUS: u32 = 1;
/// Packets put elements in.
const DYNAMIC: u32 = 0x20;

/// `NFTA_SET_ELEM_LIST_*` and `NFTA_SET_ELEM_*`.
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_EXPIRES: u16 = 5;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_EXPRESSIONS: u16 = 11;

/// `NFTA_OBJ_*`, of which those of flow tables are the first two.
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const OBJECT_USERDATA: u16 = 8;
const COUNTER: u32 = 1;
const QUOTA: u32 = 2;
const FLOW_TABLE_HOOK: u16 = 3;
const FLOW_TABLE_FLAGS: u16 = 7;

/// Sets that are a rule's alone, by the table's place and their names.
type Anonymous = BTreeMap<(usize, String), Set>;

/// Plans the guest's rules.
pub(super) fn plan(dump: &Dump, names: &BTreeMap<u32, String>, servers: &[IpAddr]) -> Listing {
    let mut listing = Listing::default();
    let mut anonymous = Anonymous::new();
    for (kind, body) in dump {
        let Some(told) = Told::read(body) else { continue };
        if *kind == Kind::Table {
            listing.tables.push(table(told));
            continue;
        }
        // Each kind has its table in the first place.
        let of = text(told.attributes, CHAIN_TABLE);
        let Some(at) = listing.tables.iter().position(|one| one.family == told.family && one.name == of)
        else {
            continue;
        };
        let Some(table) = listing.tables.get_mut(at) else { continue };
        match kind {
            Kind::Table => {}
            Kind::Chain => table.chains.push(chain(told.attributes)),
            Kind::FlowTable => table.objects.push(flow_table(told.attributes)),
            Kind::Object => table.objects.push(object(told.attributes)),
            Kind::Set => {
                let name = text(told.attributes, SET_NAME);
                let flags = number(told.attributes, SET_FLAGS);
                let set = set(told.attributes, &name, flags & ANONYMOUS != 0);
                if flags & ANONYMOUS != 0 {
                    anonymous.insert((at, name), set);
                } else {
                    table.sets.push(set);
                }
            }
            Kind::Elements => {
                let name = text(told.attributes, ELEMENTS_SET);
                let named = table.sets.iter_mut().find(|set| set.name == name);
                if let Some(set) = named.or_else(|| anonymous.get_mut(&(at, name)))
                    && number(&set.attributes.0, SET_FLAGS) & DYNAMIC == 0
                {
                    set.elements.extend(elements(told.attributes));
                }
            }
            Kind::Rule => {
                let own = |name: &str| anonymous.get(&(at, name.to_owned()));
                let rewritten = expressions::rewrite(
                    told.family,
                    attribute(told.attributes, RULE_EXPRESSIONS).map(|list| list.value()).unwrap_or_default(),
                    names,
                    servers,
                    &|name| own(name).map(|set| (set.name.clone(), set.id)),
                );
                add_rule(table, told.attributes, rewritten, &own, &mut listing.unfit);
            }
        }
    }
    listing.tables.retain(does_something);
    listing
}

/// What decides on nothing need not be there.
fn does_something(table: &Table) -> bool {
    table
        .chains
        .iter()
        .any(|chain| !chain.rules.is_empty() || chain.policy.is_some_and(|policy| policy != ACCEPT))
}

fn table(told: Told<'_>) -> Table {
    let flags = number(told.attributes, TABLE_FLAGS) & TABLE_DORMANT;
    let attributes = kept(told.attributes, &[TABLE_NAME, TABLE_USERDATA]).number(TABLE_FLAGS, flags);
    Table {
        family: told.family,
        name: text(told.attributes, TABLE_NAME),
        attributes: Attributes(attributes.finish()),
        ..Table::default()
    }
}

fn chain(told: &[u8]) -> Chain {
    let attributes = kept(told, &[CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_TYPE, CHAIN_USERDATA]);
    Chain {
        name: text(told, CHAIN_NAME),
        attributes: Attributes(attributes.finish()),
        policy: attribute(told, CHAIN_POLICY).and_then(|policy| policy.number()),
        rules: Vec::new(),
    }
}

fn flow_table(told: &[u8]) -> Object {
    let attributes = kept(told, &[OBJECT_TABLE, OBJECT_NAME, FLOW_TABLE_HOOK, FLOW_TABLE_FLAGS]);
    Object { name: text(told, OBJECT_NAME), kind: None, attributes: Attributes(attributes.finish()) }
}

fn object(told: &[u8]) -> Object {
    let kind = number(told, OBJECT_TYPE);
    let mut attributes = kept(told, &[OBJECT_TABLE, OBJECT_NAME, OBJECT_TYPE, OBJECT_USERDATA]);
    if let Some(data) = attribute(told, OBJECT_DATA) {
        attributes = attributes.nest(
            OBJECT_DATA,
            match kind {
                COUNTER => expressions::without_figures("counter", data.value()),
                QUOTA => expressions::without_figures("quota", data.value()),
                _ => Writer::default().copy_all(data.value()),
            },
        );
    }
    Object { name: text(told, OBJECT_NAME), kind: Some(kind), attributes: Attributes(attributes.finish()) }
}

/// The guest names those that have no name of their own.
fn set(told: &[u8], name: &str, anonymous: bool) -> Set {
    let name = if anonymous {
        format!("{}%d", name.trim_end_matches(|c: char| c.is_ascii_digit()))
    } else {
        name.into()
    };
    let handle = attribute(told, SET_HANDLE).and_then(|handle| handle.long()).unwrap_or_default();
    let [.., a, b, c, d] = handle.to_be_bytes();
    let id = u32::from_be_bytes([a, b, c, d]);
    let attributes = kept(told, &SET_KEPT).text(SET_NAME, &name).number(SET_ID, id);
    Set { name, id, attributes: Attributes(attributes.finish()), elements: Vec::new() }
}

fn elements(told: &[u8]) -> impl Iterator<Item = Element> {
    let list = attribute(told, ELEMENTS).map(|list| list.value()).unwrap_or_default();
    attributes(list).map(|element| {
        let cleaned = attributes(element.value()).filter(|one| one.kind != ELEMENT_EXPIRES).fold(
            Writer::default(),
            |writer, one| match one.kind {
                ELEMENT_EXPRESSION => {
                    writer.nest(one.kind, expressions::expression_without_figures(one.value()))
                }
                ELEMENT_EXPRESSIONS => writer.nest(one.kind, expressions::all_without_figures(one.value())),
                _ => writer.copy(one),
            },
        );
        Element {
            attributes: Attributes(cleaned.finish()),
            expires_ms: attribute(element.value(), ELEMENT_EXPIRES).and_then(|left| left.long()),
        }
    })
}

fn add_rule<'s>(
    table: &mut Table,
    told: &[u8],
    rewritten: Result<Option<Rewritten>, &'static str>,
    own: &dyn Fn(&str) -> Option<&'s Set>,
    unfit: &mut Vec<UnfitRule>,
) {
    let in_ = text(told, RULE_CHAIN);
    let handle = attribute(told, RULE_HANDLE).and_then(|handle| handle.long()).unwrap_or_default();
    let Rewritten { list, protocol, sets } = match rewritten {
        Ok(Some(rewritten)) => rewritten,
        // It serves a name server.
        Ok(None) => return,
        Err(why) => {
            let rule = format!("the netfilter rule {handle} in {} {in_}", table.name);
            unfit.push(UnfitRule { rule, why });
            return;
        }
    };
    let mut attributes = kept(told, &[RULE_TABLE, RULE_CHAIN]).nest(RULE_EXPRESSIONS, list);
    if let Some((protocol, inverted)) = protocol {
        let compat = Writer::default()
            .number(COMPAT_PROTOCOL, protocol.into())
            .number(COMPAT_FLAGS, if inverted { COMPAT_INVERTED } else { 0 });
        attributes = attributes.nest(RULE_COMPAT, compat);
    }
    let userdata = attribute(told, RULE_USERDATA).map(|data| data.value()).unwrap_or_default();
    let tagged = [userdata, &tag(handle)].concat();
    // A comment of that length is not worth that the rule could not be found again.
    let tagged = if tagged.len() > MOST_USERDATA { tag(handle).to_vec() } else { tagged };
    attributes = attributes.put(RULE_USERDATA, &tagged);
    let rule = PacketRule {
        handle,
        attributes: Attributes(attributes.finish()),
        sets: sets.iter().filter_map(|name| own(name)).cloned().collect(),
    };
    if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == in_) {
        chain.rules.push(rule);
    }
}

/// Those of the kinds `kinds`, as they are.
fn kept(told: &[u8], kinds: &[u16]) -> Writer {
    attributes(told)
        .filter(|one: &Attribute<'_>| kinds.contains(&one.kind))
        .fold(Writer::default(), |writer, one| writer.copy(one))
}

fn text(told: &[u8], kind: u16) -> String {
    attribute(told, kind).map(|found| found.text()).unwrap_or_default()
}

fn number(told: &[u8], kind: u16) -> u32 {
    attribute(told, kind).and_then(|found| found.number()).unwrap_or_default()
}

//! What is to be done to come from one set of rules to another: a pure function of both, and of where the
//! host's rules are.

use vmrun_netlink::attributes::{Writer, attribute, attributes};
use vmrun_netlink::core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_NONREC};
use vmrun_netlink::netfilter::{Kind, Packet};
use vmrun_proto::netfilter::{Chain, Element, Object, PacketRule, Set, Table};

use super::{Place, There};

/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_*`, `NFTA_SET_*`, `NFTA_OBJ_*`; each begins with the table.
const TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_POLICY: u16 = 5;
const SET_NAME: u16 = 2;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;

/// `NFTA_RULE_*`.
pub(super) const RULE_TABLE: u16 = TABLE;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_POSITION: u16 = 6;
pub(super) const RULE_USERDATA: u16 = 7;

/// `NFTA_SET_ELEM_LIST_*`, `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_EXPIRATION`.
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENTS_SET_ID: u16 = 4;
const ITEM: u16 = 1;
const EXPIRES: u16 = 5;

/// `NFTA_EXPR_NAME`, `_DATA`; extensions of iptables have their name in the data, as the first of them.
const NAME: u16 = 1;
const DATA: u16 = 2;

/// An attribute that holds others has 64 KiB at most.
const MOST_BYTES: usize = 32 << 10;

/// One message.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) packet: Packet,
    pub(super) flags: u16,
    /// For errors: the verb and what it is done to.
    pub(super) what: String,
    /// The rule that it makes.
    pub(super) rule: Option<Place>,
}

/// What is done at once. Rules go before what they refer to, and come after that.
pub(super) fn changes(old: &[Table], new: &[Table], there: &There) -> Vec<Step> {
    let mut steps = Steps::default();
    for before in old {
        steps.remove_rules(before, of(new, before), there);
    }
    for before in old {
        if let Some(table) = of(new, before) {
            steps.remove_for_others(before, table);
        }
    }
    let nothing = Table::default();
    for table in new {
        steps.make(table, of(old, table).unwrap_or(&nothing));
    }
    for table in new {
        let before = of(old, table).unwrap_or(&nothing);
        for set in &table.sets {
            let had = before.sets.iter().find(|had| had.name == set.name && had.attributes == set.attributes);
            steps.change_set(table, set, had);
        }
        for chain in &table.chains {
            steps.add_rules(table, chain, kept(before, chain), there);
        }
    }
    steps.0
}

/// What is removed afterwards, each thing for itself, unless the container has come to use it.
pub(super) fn removals(old: &[Table], new: &[Table]) -> Vec<Step> {
    let mut steps = Steps::default();
    let nothing = Table::default();
    for before in old {
        let table = of(new, before);
        let now = table.unwrap_or(&nothing);
        for chain in before.chains.iter().filter(|chain| !now.chains.iter().any(|one| one.name == chain.name))
        {
            steps.remove_chain(before, chain);
        }
        for set in before.sets.iter().filter(|set| !now.sets.iter().any(|one| one.name == set.name)) {
            steps.remove_set(before, set);
        }
        for object in
            before.objects.iter().filter(|object| !now.objects.iter().any(|one| is_same(one, object)))
        {
            steps.remove_object(before, object);
        }
        if table.is_none() {
            let name = Writer::default().text(TABLE, &before.name);
            steps.delete(Kind::Table, before, name, format!("remove the netfilter table {}", before.name));
        }
    }
    steps.0
}

fn of<'t>(tables: &'t [Table], table: &Table) -> Option<&'t Table> {
    tables.iter().find(|one| one.family == table.family && one.name == table.name)
}

/// The chain as it was, if it need not be made anew.
fn kept<'t>(before: &'t Table, chain: &Chain) -> Option<&'t Chain> {
    before.chains.iter().find(|one| one.name == chain.name && one.attributes == chain.attributes)
}

fn is_same(one: &Object, other: &Object) -> bool {
    one.kind == other.kind && one.name == other.name
}

fn place(table: &Table, chain: &Chain, rule: &PacketRule) -> Place {
    (table.family, table.name.clone(), chain.name.clone(), rule.handle)
}

#[derive(Debug, Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn create(&mut self, kind: Kind, table: &Table, attributes: &[u8], what: String) {
        let packet = Packet::new(kind, table.family, attributes);
        self.0.push(Step { packet, flags: NLM_F_CREATE, what, rule: None });
    }

    /// Removes what holds nothing.
    fn delete(&mut self, kind: Kind, table: &Table, attributes: Writer, what: String) {
        let packet = Packet::delete(kind, table.family, &attributes.finish());
        self.0.push(Step { packet, flags: NLM_F_NONREC, what, rule: None });
    }

    fn remove_rules(&mut self, before: &Table, now: Option<&Table>, there: &There) {
        for chain in &before.chains {
            let stays = now.and_then(|now| kept(now, chain)).map_or(&[][..], |now| &now.rules);
            for rule in chain.rules.iter().filter(|rule| !stays.contains(rule)) {
                // The container may have removed it.
                let Some(handle) = there.get(&place(before, chain, rule)) else { continue };
                let attributes = Writer::default()
                    .text(RULE_TABLE, &before.name)
                    .text(RULE_CHAIN, &chain.name)
                    .put(RULE_HANDLE, &handle.to_be_bytes());
                self.delete(
                    Kind::Rule,
                    before,
                    attributes,
                    format!("remove {}", rule_shown(before, chain, rule)),
                );
            }
        }
    }

    /// Removes what there will be another one of under the same name.
    fn remove_for_others(&mut self, before: &Table, now: &Table) {
        for chain in &before.chains {
            if now.chains.iter().any(|one| one.name == chain.name && one.attributes != chain.attributes) {
                self.remove_chain(before, chain);
            }
        }
        for set in &before.sets {
            if now.sets.iter().any(|one| one.name == set.name && one.attributes != set.attributes) {
                self.remove_set(before, set);
            }
        }
        for object in &before.objects {
            if now.objects.iter().any(|one| is_same(one, object) && one != object) {
                self.remove_object(before, object);
            }
        }
    }

    fn remove_chain(&mut self, table: &Table, chain: &Chain) {
        let attributes = Writer::default().text(TABLE, &table.name).text(CHAIN_NAME, &chain.name);
        self.delete(
            Kind::Chain,
            table,
            attributes,
            format!("remove the netfilter chain {} {}", table.name, chain.name),
        );
    }

    fn remove_set(&mut self, table: &Table, set: &Set) {
        let attributes = Writer::default().text(TABLE, &table.name).text(SET_NAME, &set.name);
        self.delete(
            Kind::Set,
            table,
            attributes,
            format!("remove the netfilter set {} {}", table.name, set.name),
        );
    }

    fn remove_object(&mut self, table: &Table, object: &Object) {
        let attributes = Writer::default().text(TABLE, &table.name).text(OBJECT_NAME, &object.name);
        let (kind, attributes) = match object.kind {
            Some(kind) => (Kind::Object, attributes.number(OBJECT_TYPE, kind)),
            None => (Kind::FlowTable, attributes),
        };
        self.delete(
            kind,
            table,
            attributes,
            format!("remove {} of the netfilter table {}", object.name, table.name),
        );
    }

    /// Makes the table with all that has a name in it.
    fn make(&mut self, table: &Table, before: &Table) {
        if table.attributes != before.attributes {
            self.create(
                Kind::Table,
                table,
                &table.attributes.0,
                format!("make the netfilter table {}", table.name),
            );
        }
        for chain in &table.chains {
            if kept(before, chain).is_some_and(|had| had.policy == chain.policy) {
                continue;
            }
            let mut attributes = Writer::default().copy_all(&chain.attributes.0);
            if let Some(policy) = chain.policy {
                attributes = attributes.number(CHAIN_POLICY, policy);
            }
            let what = format!("make the netfilter chain {} {}", table.name, chain.name);
            self.create(Kind::Chain, table, &attributes.finish(), what);
        }
        for object in table.objects.iter().filter(|object| !before.objects.contains(object)) {
            let kind = if object.kind.is_some() { Kind::Object } else { Kind::FlowTable };
            let what = format!("make {} of the netfilter table {}", object.name, table.name);
            self.create(kind, table, &object.attributes.0, what);
        }
    }

    /// `had` is the set as it was.
    fn change_set(&mut self, table: &Table, set: &Set, had: Option<&Set>) {
        let elements = match had {
            None => {
                let what = format!("make the netfilter set {} {}", table.name, set.name);
                self.create(Kind::Set, table, &set.attributes.0, what);
                &[]
            }
            Some(had) => &had.elements[..],
        };
        let id = had.is_none().then_some(set.id);
        let gone = elements.iter().filter(|element| !set.elements.contains(element));
        for attributes in lists(table, set, id, gone) {
            let what = format!("remove elements of the netfilter set {} {}", table.name, set.name);
            self.delete(Kind::Elements, table, attributes, what);
        }
        let come = set.elements.iter().filter(|element| !elements.contains(element));
        for attributes in lists(table, set, id, come) {
            let what = format!("add elements to the netfilter set {} {}", table.name, set.name);
            self.create(Kind::Elements, table, &attributes.finish(), what);
        }
    }

    /// Where a rule goes among the container's own is where it would be if all were in one place: at the
    /// end, at the beginning, or behind another of the host's.
    fn add_rules(&mut self, table: &Table, chain: &Chain, before: Option<&Chain>, there: &There) {
        let had = before.map_or(&[][..], |before| &before.rules);
        let at = |rule: &PacketRule| {
            had.contains(rule).then(|| there.get(&place(table, chain, rule)).copied()).flatten()
        };
        let mut previous = None;
        let mut rest = &chain.rules[..];
        while let [first, after @ ..] = rest {
            if had.contains(first) {
                previous = at(first).or(previous);
                rest = after;
                continue;
            }
            let count = rest.iter().take_while(|rule| !had.contains(rule)).count();
            let (come, after) = rest.split_at(count);
            rest = after;
            if !rest.iter().any(|rule| at(rule).is_some()) {
                come.iter().for_each(|rule| self.add_rule(table, chain, rule, NLM_F_APPEND, None));
                continue;
            }
            let flags = if previous.is_some() { NLM_F_APPEND } else { 0 };
            come.iter().rev().for_each(|rule| self.add_rule(table, chain, rule, flags, previous));
        }
    }

    fn add_rule(&mut self, table: &Table, chain: &Chain, rule: &PacketRule, flags: u16, behind: Option<u64>) {
        let first = self.0.len();
        rule.sets.iter().for_each(|set| self.change_set(table, set, None));
        let mut attributes = Writer::default().copy_all(&rule.attributes.0);
        if let Some(handle) = behind {
            attributes = attributes.put(RULE_POSITION, &handle.to_be_bytes());
        }
        let packet = Packet::new(Kind::Rule, table.family, &attributes.finish());
        let what = format!("add {}", rule_shown(table, chain, rule));
        self.0.push(Step { packet, flags: NLM_F_CREATE | flags, what, rule: None });
        // Its sets go with it.
        let own = self.0.get_mut(first..).unwrap_or_default();
        own.iter_mut().for_each(|step| step.rule = Some(place(table, chain, rule)));
    }
}

/// Elements of a set, in messages that are not too long. `id` is the number of one that comes with them.
fn lists<'e>(
    table: &Table,
    set: &Set,
    id: Option<u32>,
    elements: impl Iterator<Item = &'e Element>,
) -> Vec<Writer> {
    let mut parts = vec![Writer::default()];
    for element in elements {
        let mut item = Writer::default().copy_all(&element.attributes.0);
        if let Some(left) = element.expires_ms {
            item = item.put(EXPIRES, &left.to_be_bytes());
        }
        let Some(part) = parts.last_mut() else { continue };
        *part = std::mem::take(part).nest(ITEM, item);
        if part.len() > MOST_BYTES {
            parts.push(Writer::default());
        }
    }
    parts.retain(|part| !part.is_empty());
    let list = |part| {
        let mut of = Writer::default().text(TABLE, &table.name).text(ELEMENTS_SET, &set.name);
        if let Some(id) = id {
            of = of.number(ELEMENTS_SET_ID, id);
        }
        of.nest(ELEMENTS, part)
    };
    parts.into_iter().map(list).collect()
}

/// A rule by its place and what it is made of, which its kernel may not know.
fn rule_shown(table: &Table, chain: &Chain, rule: &PacketRule) -> String {
    let list = attribute(&rule.attributes.0, RULE_EXPRESSIONS).map(|list| list.value()).unwrap_or_default();
    let names: Vec<_> = attributes(list).map(|item| expression_shown(item.value())).collect();
    format!("the netfilter rule {} to {} {} ({})", rule.handle, table.name, chain.name, names.join(", "))
}

fn expression_shown(item: &[u8]) -> String {
    let name = attribute(item, NAME).map(|name| name.text()).unwrap_or_default();
    let data = attribute(item, DATA).map(|data| data.value()).unwrap_or_default();
    match attribute(data, NAME) {
        Some(extension) if matches!(name.as_str(), "match" | "target") => {
            format!("{name} {}", extension.text())
        }
        _ => name,
    }
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;

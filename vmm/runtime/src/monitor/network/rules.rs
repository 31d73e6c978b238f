//! Routing rules, from the kernel's words to the guest's description.

use vmrun_netlink::core::{DefaultNla, Nla};
use vmrun_netlink::route::AddressFamily;
use vmrun_netlink::route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use vmrun_proto::{Prefix, Rule};

use super::routes::{DEFAULT, LOCAL, MAIN};

/// `RTPROT_KERNEL`
const KERNEL: u8 = 2;

/// A rule as it is found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Of interfaces that are not carried.
    Nothing,
    Rule(Rule),
    /// It cannot be carried, for this reason.
    Unfit(String),
}

/// The rules of a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// Beside those that every namespace has.
    pub(super) own: Vec<Rule>,
    /// Those of these that are not there.
    pub(super) missing: Vec<Rule>,
    /// Why some cannot be carried.
    pub(super) unfit: Vec<String>,
}

/// What `messages` tell of the rules of these `families`.
pub(super) fn rules(messages: &[RuleMessage], families: &[AddressFamily]) -> Rules {
    let mut rules = Rules::default();
    for message in messages {
        match rule(message) {
            Found::Nothing => {}
            Found::Rule(rule) => rules.own.push(rule),
            Found::Unfit(why) => rules.unfit.push(why),
        }
    }
    for family in families {
        for rule in every_namespaces(*family) {
            // Whoever puts one back is another origin than the kernel.
            let is_it = |one: &Rule| Rule { protocol: KERNEL, ..one.clone() } == rule;
            match rules.own.iter().position(is_it) {
                Some(index) => drop(rules.own.remove(index)),
                None => rules.missing.push(rule),
            }
        }
    }
    rules
}

/// Those that the kernel makes in each namespace (`fib_default_rules_init`, `fib6_rules_net_init`).
fn every_namespaces(family: AddressFamily) -> Vec<Rule> {
    let mut tables = vec![(0, LOCAL), (32_766, MAIN)];
    if family == AddressFamily::Inet {
        tables.push((32_767, DEFAULT));
    }
    let rule = |(priority, table)| Rule {
        family: family.into(),
        priority,
        action: RuleAction::ToTable.into(),
        table,
        protocol: KERNEL,
        ..Rule::default()
    };
    tables.into_iter().map(rule).collect()
}

fn rule(message: &RuleMessage) -> Found {
    let mut rule = Rule {
        family: message.header.family.into(),
        action: message.header.action.into(),
        table: message.header.table.into(),
        tos: message.header.tos,
        invert: message.header.flags.contains(RuleFlags::Invert),
        ..Rule::default()
    };
    let mut strange = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Source(address) => {
                rule.source = Some(Prefix { address: *address, bits: message.header.src_len });
            }
            RuleAttribute::Destination(address) => {
                rule.destination = Some(Prefix { address: *address, bits: message.header.dst_len });
            }
            RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.output = Some(name.clone()),
            RuleAttribute::FwMark(mark) => {
                rule.mark = Some((*mark, rule.mark.map_or(u32::MAX, |mark| mark.1)));
            }
            RuleAttribute::FwMask(mask) => rule.mark = Some((rule.mark.map_or(0, |mark| mark.0), *mask)),
            RuleAttribute::IpProtocol(protocol) => rule.ip_protocol = Some((*protocol).into()),
            RuleAttribute::SourcePortRange(range) => rule.source_ports = Some((range.start, range.end)),
            RuleAttribute::DestinationPortRange(range) => {
                rule.destination_ports = Some((range.start, range.end));
            }
            RuleAttribute::UidRange(range) => rule.users = Some((range.start, range.end)),
            RuleAttribute::SuppressPrefixLen(bits) if *bits != u32::MAX => {
                rule.suppress_prefix = Some(*bits);
            }
            RuleAttribute::Goto(priority) => rule.goto = Some(*priority),
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            RuleAttribute::L3MDev(true) => return Found::Nothing,
            RuleAttribute::SuppressPrefixLen(_) | RuleAttribute::L3MDev(false) => {}
            RuleAttribute::SuppressIfGroup(group) if *group == u32::MAX => {}
            RuleAttribute::Other(other) if is_whole_port(other) => {}
            // Without it, the rule would be about more packets than it is.
            other => strange = Some(condition(other)),
        }
    }
    match strange {
        Some(strange) => {
            Found::Unfit(format!("the routing rule of priority {} has {strange}", rule.priority))
        }
        None => Found::Rule(rule),
    }
}

/// A mask of ports that leaves them whole (`FRA_SPORT_MASK`, `FRA_DPORT_MASK`), which kernels since 6.15 tell of
/// with each single port.
fn is_whole_port(attribute: &DefaultNla) -> bool {
    let mut value = [0; 2];
    if !matches!(attribute.kind(), 28 | 29) || attribute.value_len() != value.len() {
        return false;
    }
    attribute.emit_value(&mut value);
    value == [0xff; 2]
}

fn condition(attribute: &RuleAttribute) -> &'static str {
    match attribute {
        RuleAttribute::Realm(_) => "realms",
        RuleAttribute::TunId(_) => "a tunnel's number",
        RuleAttribute::SuppressIfGroup(_) => "a group of interfaces",
        _ => "a condition that is not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel tells of those that it has made.
    fn every(family: AddressFamily) -> Vec<RuleMessage> {
        every_namespaces(family)
            .iter()
            .map(|rule| message(rule.priority, family, rule.table, KERNEL))
            .collect()
    }

    fn message(priority: u32, family: AddressFamily, table: u32, protocol: u8) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family;
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Table(table),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
            RuleAttribute::Protocol(protocol.into()),
            RuleAttribute::Priority(priority),
        ];
        message
    }

    const BOTH: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

    #[test]
    fn rules_of_every_namespace_are_nothing() {
        let all = BOTH.map(every).concat();
        assert_eq!(rules(&all, &BOTH), Rules::default());
        // A kernel without IPv6.
        assert_eq!(rules(&every(BOTH[0]), &BOTH[..1]), Rules::default());
    }

    #[test]
    fn rule_that_was_moved_is_missing_where_it_was() {
        let mut all = every(AddressFamily::Inet);
        all[0] = message(100, AddressFamily::Inet, LOCAL, 3);
        let Rules { own, missing, unfit } = rules(&all, &BOTH[..1]);
        assert_eq!((own[0].priority, own[0].table, own.len()), (100, LOCAL, 1));
        assert_eq!((missing[0].priority, missing[0].table, missing.len()), (0, LOCAL, 1));
        assert_eq!(unfit, [""; 0]);
        // `ip -6 rule flush` and worse.
        assert_eq!(rules(&[], &BOTH).missing.len(), 5);
    }

    #[test]
    fn rule_that_somebody_has_put_back_is_as_it_was() {
        let mut all = every(AddressFamily::Inet);
        all[0] = message(0, AddressFamily::Inet, LOCAL, 3);
        assert_eq!(rules(&all, &BOTH[..1]), Rules::default());
    }

    #[test]
    fn condition_that_the_guest_is_not_told_of_makes_a_rule_unfit() {
        for (attribute, words) in [
            (RuleAttribute::TunId(7), "a tunnel's number"),
            (RuleAttribute::SuppressIfGroup(2), "a group of interfaces"),
        ] {
            let mut odd = message(100, AddressFamily::Inet, MAIN, 3);
            odd.attributes.push(attribute);
            let unfit = rules(&[odd], &[]).unfit;
            assert_eq!(unfit, [format!("the routing rule of priority 100 has {words}")]);
        }
        let masked = |mask: [u8; 2]| {
            let mut rule = message(100, AddressFamily::Inet, MAIN, 3);
            rule.attributes.push(RuleAttribute::Other(DefaultNla::new(28, mask.to_vec())));
            rules(&[rule], &[])
        };
        assert_eq!((masked([0xff; 2]).own.len(), masked([0xff; 2]).unfit.len()), (1, 0));
        assert_eq!((masked([0xf0, 0xff]).own.len(), masked([0xf0, 0xff]).unfit.len()), (0, 1));
    }
}

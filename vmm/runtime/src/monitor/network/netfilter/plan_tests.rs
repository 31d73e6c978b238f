use std::collections::BTreeMap;
use std::net::IpAddr;

use vmrun_netlink::attributes::{Writer, attribute, attributes};
use vmrun_netlink::netfilter::Kind;
use vmrun_proto::netfilter::{Table, tagged};

use super::Listing;
use super::dump::Dump;
use super::plan::plan;

fn body(family: u8, attributes: Writer) -> Vec<u8> {
    [&[family, 0, 0, 1][..], &attributes.finish()].concat()
}

fn expression(name: &str, data: Writer) -> Writer {
    Writer::default().text(1, name).nest(2, data)
}

fn list(expressions: &[Writer]) -> Writer {
    expressions.iter().fold(Writer::default(), |list, one| list.nest(1, one.clone()))
}

fn payload(offset: u32, length: u32) -> Writer {
    expression("payload", Writer::default().number(1, 1).number(2, 1).number(3, offset).number(4, length))
}

fn meta(key: u32) -> Writer {
    expression("meta", Writer::default().number(2, key).number(1, 1))
}

fn compare(how: u32, value: &[u8]) -> Writer {
    expression("cmp", Writer::default().number(1, 1).number(2, how).nest(3, Writer::default().put(1, value)))
}

fn counter(packets: u64) -> Writer {
    let figures = Writer::default().put(1, &(packets * 60).to_be_bytes()).put(2, &packets.to_be_bytes());
    expression("counter", figures)
}

fn rule(handle: u64, expressions: &[Writer]) -> Vec<u8> {
    let rule = Writer::default().text(1, "nat").text(2, "in").put(3, &handle.to_be_bytes());
    body(2, rule.nest(4, list(expressions)))
}

/// A table with a chain, and these besides.
fn dump(policy: u32, more: Vec<(Kind, Vec<u8>)>) -> Dump {
    let table = Writer::default().text(1, "nat").number(2, 2).number(3, 9).put(4, &7u64.to_be_bytes());
    let hook = Writer::default().number(1, 0).number(2, 100);
    let chain = Writer::default().text(1, "nat").put(2, &1u64.to_be_bytes()).text(3, "in").nest(4, hook);
    let chain = chain.number(5, policy).number(6, 3).text(7, "nat").number(10, 1);
    let mut dump = vec![(Kind::Table, body(2, table)), (Kind::Chain, body(2, chain))];
    dump.extend(more);
    dump
}

fn planned(dump: &Dump) -> Listing {
    let names = BTreeMap::from([(1, "lo".to_owned()), (2, "eth0".to_owned())]);
    let server: IpAddr = "127.0.0.11".parse().unwrap();
    plan(dump, &names, &[server])
}

fn only(listing: Listing) -> Table {
    assert_eq!(listing.unfit, []);
    listing.tables.into_iter().next().unwrap()
}

/// The expressions of the rule at a place, by name and data.
fn expressions(table: &Table, at: usize) -> Vec<(String, Vec<u8>)> {
    let list = attribute(&table.chains[0].rules[at].attributes.0, 4).unwrap();
    let item =
        |item: &[u8]| (attribute(item, 1).unwrap().text(), attribute(item, 2).unwrap().value().to_vec());
    attributes(list.value()).map(|one| item(one.value())).collect()
}

#[test]
fn tables_that_decide_nothing_are_left_out_and_a_policy_that_drops_is_not() {
    assert_eq!(planned(&Vec::new()), Listing::default());
    assert_eq!(planned(&dump(1, Vec::new())), Listing::default());
    assert_eq!(only(planned(&dump(0, Vec::new()))).chains[0].policy, Some(0));
}

#[test]
fn numbers_of_the_host_and_figures_stay_there() {
    let one = only(planned(&dump(1, vec![(Kind::Rule, rule(4, &[counter(5)]))])));
    let other = only(planned(&dump(1, vec![(Kind::Rule, rule(4, &[counter(6)]))])));
    assert_eq!(one, other);
    let kinds = |bytes: &[u8]| attributes(bytes).map(|one| one.kind).collect::<Vec<_>>();
    // The name, and flags without those of an owner.
    assert_eq!(kinds(&one.attributes.0), [1, 2]);
    assert_eq!(attribute(&one.attributes.0, 2).unwrap().number(), Some(0));
    assert_eq!(kinds(&one.chains[0].attributes.0), [1, 3, 4, 7]);
    let rule = &one.chains[0].rules[0];
    assert_eq!(kinds(&rule.attributes.0), [1, 2, 4, 7]);
    assert_eq!(tagged(attribute(&rule.attributes.0, 7).unwrap().value()), Some(4));
}

#[test]
fn rules_for_the_name_server_are_left_out_and_others_for_loopback_are_not() {
    let server = [payload(16, 4), compare(0, &[127, 0, 0, 11])];
    let from_there = [payload(12, 4), compare(0, &[127, 0, 0, 11])];
    let all_but_it = [payload(16, 4), compare(1, &[127, 0, 0, 11])];
    let other = [payload(16, 4), compare(0, &[127, 0, 0, 1])];
    let rules = [server, from_there, all_but_it, other];
    let rules = rules.iter().zip(10..).map(|(one, handle)| (Kind::Rule, rule(handle, one))).collect();
    let table = only(planned(&dump(1, rules)));
    assert_eq!(table.chains[0].rules.iter().map(|rule| rule.handle).collect::<Vec<_>>(), [12, 13]);
}

#[test]
fn number_of_an_interface_becomes_its_name_and_that_of_loopback_stays() {
    let rules = vec![
        (Kind::Rule, rule(1, &[meta(4), compare(0, &2u32.to_ne_bytes()), counter(0)])),
        (Kind::Rule, rule(2, &[meta(5), compare(1, &1u32.to_ne_bytes())])),
    ];
    let table = only(planned(&dump(1, rules)));
    let named = expressions(&table, 0);
    assert_eq!(named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["meta", "cmp", "counter"]);
    assert_eq!(attribute(&named[0].1, 2).unwrap().number(), Some(6));
    let value = attribute(attribute(&named[1].1, 3).unwrap().value(), 1).unwrap();
    assert_eq!((value.text().as_str(), value.value().len()), ("eth0", 16));
    assert_eq!(attribute(&expressions(&table, 1)[0].1, 2).unwrap().number(), Some(5));
}

#[test]
fn number_of_an_interface_that_cannot_become_a_name_is_unfit() {
    let lookup = expression("lookup", Writer::default().text(1, "__set0").number(2, 1));
    let gone = compare(0, &9u32.to_ne_bytes());
    let rules = vec![(Kind::Rule, rule(1, &[meta(4), lookup])), (Kind::Rule, rule(2, &[meta(4), gone]))];
    let unfit = planned(&dump(1, rules)).unfit;
    assert_eq!(
        unfit.iter().map(|one| one.rule.as_str()).collect::<Vec<_>>(),
        ["the netfilter rule 1 in nat in", "the netfilter rule 2 in nat in"]
    );
}

#[test]
fn extensions_of_iptables_are_told_the_protocol() {
    let target = expression("target", Writer::default().text(1, "REDIRECT").number(2, 0).put(3, &[0; 20]));
    let rules = vec![
        (Kind::Rule, rule(1, &[payload(9, 1), compare(0, &[6]), target.clone()])),
        (Kind::Rule, rule(2, &[meta(16), compare(1, &[17]), target.clone()])),
        (Kind::Rule, rule(3, &[target])),
    ];
    let table = only(planned(&dump(1, rules)));
    let compat = |at: usize| {
        let compat = attribute(&table.chains[0].rules[at].attributes.0, 5)?;
        let number = |kind| attribute(compat.value(), kind).unwrap().number().unwrap();
        Some((number(1), number(2)))
    };
    assert_eq!([compat(0), compat(1), compat(2)], [Some((6, 0)), Some((17, 2)), None]);
}

#[test]
fn set_of_one_rule_goes_with_it_and_the_guest_names_it() {
    let set = Writer::default().text(1, "nat").text(2, "__set0").number(3, 3).put(16, &8u64.to_be_bytes());
    let element = Writer::default().nest(1, Writer::default().put(1, &[0, 80])).put(5, &900u64.to_be_bytes());
    let elements =
        Writer::default().text(1, "nat").text(2, "__set0").nest(3, Writer::default().nest(1, element));
    let named = Writer::default().text(1, "nat").text(2, "ports").number(3, 0).put(16, &9u64.to_be_bytes());
    let lookup = expression("lookup", Writer::default().text(1, "__set0").number(2, 1));
    let table = only(planned(&dump(
        1,
        vec![
            (Kind::Set, body(2, set)),
            (Kind::Set, body(2, named)),
            (Kind::Elements, body(2, elements)),
            (Kind::Rule, rule(1, &[lookup])),
        ],
    )));
    let own = &table.chains[0].rules[0].sets[0];
    assert_eq!((own.name.as_str(), own.id, own.elements[0].expires_ms), ("__set%d", 8, Some(900)));
    assert_eq!(attributes(&own.elements[0].attributes.0).map(|one| one.kind).collect::<Vec<_>>(), [1]);
    let (_, data) = &expressions(&table, 0)[0];
    assert_eq!(attribute(data, 1).unwrap().text(), "__set%d");
    assert_eq!(attribute(data, 4).unwrap().number(), Some(8));
    assert_eq!(table.sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>(), ["ports"]);
}

#[test]
fn elements_that_packets_have_put_in_stay_on_the_host() {
    let set = Writer::default().text(1, "nat").text(2, "seen").number(3, 0x30).put(16, &8u64.to_be_bytes());
    let element = Writer::default().nest(1, Writer::default().put(1, &[10, 0, 0, 1]));
    let elements =
        Writer::default().text(1, "nat").text(2, "seen").nest(3, Writer::default().nest(1, element));
    let rules =
        vec![(Kind::Set, body(2, set)), (Kind::Elements, body(2, elements)), (Kind::Rule, rule(1, &[]))];
    assert_eq!(only(planned(&dump(1, rules))).sets[0].elements, []);
}

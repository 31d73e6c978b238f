use super::*;

fn rule(handle: u64) -> PacketRule {
    PacketRule { handle, ..PacketRule::default() }
}

fn chain(name: &str, rules: &[u64]) -> Chain {
    Chain { name: name.into(), rules: rules.iter().map(|handle| rule(*handle)).collect(), ..Chain::default() }
}

fn table(chains: Vec<Chain>) -> Table {
    let attributes = vmrun_proto::netfilter::Attributes(Writer::default().text(TABLE, "nat").finish());
    Table { family: 2, name: "nat".into(), attributes, chains, ..Table::default() }
}

/// The host's rules have ten times their numbers in the guest.
fn there(rules: &[u64]) -> There {
    rules.iter().map(|handle| ((2, "nat".into(), "in".into(), *handle), handle * 10)).collect()
}

fn whats(steps: &[Step]) -> Vec<&str> {
    steps.iter().map(|step| step.what.as_str()).collect()
}

/// What rules are added, with which flags and behind which one of the guest's.
fn added(old: &[u64], new: &[u64]) -> Vec<(u64, u16, Option<u64>)> {
    let (before, after) = ([table(vec![chain("in", old)])], [table(vec![chain("in", new)])]);
    let steps = changes(&before, &after, &there(old));
    let position = |step: &Step| {
        let packets = [None, Some(10), Some(20), Some(30)];
        let attributes = |behind: Option<u64>| {
            let writer = Writer::default();
            behind
                .map_or(writer.clone(), |handle: u64| writer.put(RULE_POSITION, &handle.to_be_bytes()))
                .finish()
        };
        packets
            .into_iter()
            .find(|behind| step.packet == Packet::new(Kind::Rule, 2, &attributes(*behind)))
            .unwrap()
    };
    let rules = steps
        .iter()
        .filter_map(|step| Some((step.rule.as_ref()?.3, step.flags & !NLM_F_CREATE, position(step))));
    rules.collect()
}

#[test]
fn all_of_a_new_table_comes_in_the_order_in_which_it_is_needed() {
    let set = Set { name: "ports".into(), elements: vec![Element::default()], ..Set::default() };
    let own = Set { name: "__set%d".into(), ..Set::default() };
    let mut new = table(vec![chain("in", &[]), chain("out", &[])]);
    new.chains[0].rules.push(PacketRule { sets: vec![own], ..rule(4) });
    new.sets.push(set);
    new.objects.push(Object { name: "total".into(), kind: Some(1), ..Object::default() });
    let steps = changes(&[], &[new], &There::new());
    assert_eq!(
        whats(&steps),
        [
            "make the netfilter table nat",
            "make the netfilter chain nat in",
            "make the netfilter chain nat out",
            "make total of the netfilter table nat",
            "make the netfilter set nat ports",
            "add elements to the netfilter set nat ports",
            "make the netfilter set nat __set%d",
            "add the netfilter rule 4 to nat in ()",
        ]
    );
    // A rule is left out with its set.
    let of_rules: Vec<_> = steps.iter().map(|step| step.rule.is_some()).collect();
    assert_eq!(of_rules, [false, false, false, false, false, false, true, true]);
}

#[test]
fn same_rules_are_left_alone() {
    let one = [table(vec![chain("in", &[1, 2])])];
    assert!(changes(&one, &one, &there(&[1, 2])).is_empty());
    assert!(removals(&one, &one).is_empty());
}

#[test]
fn rule_at_the_end_goes_to_the_end_and_one_at_the_beginning_there() {
    assert_eq!(added(&[1], &[1, 2, 3]), [(2, NLM_F_APPEND, None), (3, NLM_F_APPEND, None)]);
    assert_eq!(added(&[1], &[3, 2, 1]), [(2, 0, None), (3, 0, None)]);
}

#[test]
fn rules_between_go_behind_the_one_before_them() {
    assert_eq!(added(&[1, 2], &[1, 4, 5, 2]), [(5, NLM_F_APPEND, Some(10)), (4, NLM_F_APPEND, Some(10))]);
}

#[test]
fn rule_behind_one_that_the_container_has_removed_finds_a_place() {
    let (old, new) = ([table(vec![chain("in", &[1])])], [table(vec![chain("in", &[2, 1])])]);
    let steps = changes(&old, &new, &there(&[]));
    assert_eq!(steps.iter().map(|step| step.flags & !NLM_F_CREATE).collect::<Vec<_>>(), [NLM_F_APPEND]);
}

#[test]
fn only_rules_that_are_gone_are_removed_and_only_where_they_are() {
    let (old, new) = ([table(vec![chain("in", &[1, 2, 3])])], [table(vec![chain("in", &[2])])]);
    let steps = changes(&old, &new, &there(&[1, 2]));
    assert_eq!(whats(&steps), ["remove the netfilter rule 1 to nat in ()"]);
}

#[test]
fn rule_that_has_become_another_with_its_number_is_exchanged() {
    let old = [table(vec![chain("in", &[1])])];
    let mut new = old.clone();
    new[0].chains[0].rules[0].sets.push(Set { name: "__set%d".into(), ..Set::default() });
    let steps = changes(&old, &new, &there(&[1]));
    assert_eq!(
        whats(&steps),
        [
            "remove the netfilter rule 1 to nat in ()",
            "make the netfilter set nat __set%d",
            "add the netfilter rule 1 to nat in ()",
        ]
    );
}

#[test]
fn what_is_gone_is_removed_when_its_rules_are() {
    let mut old = table(vec![chain("in", &[1]), chain("own", &[])]);
    old.sets.push(Set { name: "ports".into(), ..Set::default() });
    assert_eq!(
        whats(&changes(&[old.clone()], &[], &there(&[1]))),
        ["remove the netfilter rule 1 to nat in ()"]
    );
    let gone = removals(&[old], &[]);
    assert_eq!(
        whats(&gone),
        [
            "remove the netfilter chain nat in",
            "remove the netfilter chain nat own",
            "remove the netfilter set nat ports",
            "remove the netfilter table nat",
        ]
    );
    assert!(gone.iter().all(|step| step.flags == NLM_F_NONREC));
}

#[test]
fn policy_is_changed_and_another_hook_makes_another_chain() {
    let old = [table(vec![chain("in", &[1])])];
    let mut policy = old.clone();
    policy[0].chains[0].policy = Some(0);
    assert_eq!(whats(&changes(&old, &policy, &there(&[1]))), ["make the netfilter chain nat in"]);
    let mut hook = old.clone();
    hook[0].chains[0].attributes.0 = vec![4, 0, 4, 0];
    assert_eq!(
        whats(&changes(&old, &hook, &there(&[1]))),
        [
            "remove the netfilter rule 1 to nat in ()",
            "remove the netfilter chain nat in",
            "make the netfilter chain nat in",
            "add the netfilter rule 1 to nat in ()",
        ]
    );
}

#[test]
fn elements_of_a_set_come_and_go_and_many_are_told_in_parts() {
    let element = |byte| Element {
        attributes: vmrun_proto::netfilter::Attributes(vec![8, 0, 1, 0, byte, 0, 0, 0]),
        expires_ms: None,
    };
    let mut old = table(Vec::new());
    old.sets.push(Set { name: "ports".into(), elements: vec![element(1), element(2)], ..Set::default() });
    let mut new = old.clone();
    new.sets[0].elements = vec![element(2), Element { expires_ms: Some(7), ..element(3) }];
    assert_eq!(
        whats(&changes(&[old.clone()], &[new.clone()], &There::new())),
        ["remove elements of the netfilter set nat ports", "add elements to the netfilter set nat ports"]
    );
    // Time goes by: that is no change.
    let mut later = new.clone();
    later.sets[0].elements[1].expires_ms = Some(3);
    assert!(changes(&[new], &[later], &There::new()).is_empty());
    let mut many = old.clone();
    many.sets[0].elements = (0..6000).map(|_| element(3)).collect();
    assert!(changes(&[old], &[many], &There::new()).len() > 2);
}

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use ferrule_model::{Element, Family};
use ferrule_netlink::netns;
use ferrule_netlink::nft::{Change, Netfilter, NetfilterSocket, apply};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::difference::difference;
use super::found::sets;
use super::layout::{Clients, Slots};
use super::script::{declarations, pick_chain, script};
use super::sets::Pair;
use super::shared::elements;
use super::*;
use crate::samples::frontend;

fn as_set(elements: impl IntoIterator<Item = Element>) -> BTreeSet<Element> {
    elements.into_iter().collect()
}

fn pair_of(set: &str) -> (Pair, Family) {
    sets().find(|(pair, family)| pair.of(*family) == set).unwrap()
}

fn found(elements: impl IntoIterator<Item = Element>) -> Found {
    let mut found = Found::default();
    for element in elements {
        found.extend(pair_of(element.set), vec![element]);
    }
    found
}

proptest! {
    #[test]
    fn a_difference_leads_from_any_layout_to_any_other(before in frontend(), after in frontend()) {
        let old = Layout::of(&before, &Slots::default());
        let slots = if before.key == after.key { old.slots() } else { Slots::default() };
        let new = Layout::of(&after, &slots);
        let mut batch = if before.key == after.key {
            difference(Some(&old), Some(&new))
        } else {
            difference(Some(&old), None)
        };
        if before.key != after.key {
            batch.append(difference(None, Some(&new)));
        }
        let mut kernel = as_set(old.elements());
        for element in &batch.delete {
            prop_assert!(kernel.remove(element), "{element:?} was not there");
        }
        for element in batch.add {
            let is_free = kernel.iter().all(|there| (there.set, &there.key) != (element.set, &element.key));
            prop_assert!(is_free, "{element:?} is there already");
            kernel.insert(element);
        }
        prop_assert_eq!(&kernel, &as_set(new.elements()));
        // What was read tells the slots, and nothing has to change.
        let mut found = found(kernel);
        let read = Layout::of(&after, &found.slots(&after.key));
        prop_assert_eq!(&read, &new);
        prop_assert_eq!(found.claim(&[new]), Batch::default());
        prop_assert!(found.rest().iter().all(Batch::is_empty));
    }

    #[test]
    fn what_others_did_to_a_frontend_is_undone(frontend in frontend(), gone in 0_usize..40, other in any::<u8>()) {
        let layout = Layout::of(&frontend, &Slots::default());
        let wanted = layout.elements();
        let mut there = wanted.clone();
        if !there.is_empty() {
            there.remove(gone % wanted.len());
        }
        if let Some(element) = there.first_mut() {
            element.value = vec![other].into();
        }
        let batch = found(there.clone()).claim(&[layout]);
        let mut kernel = as_set(there);
        for element in &batch.delete {
            prop_assert!(kernel.remove(element));
        }
        kernel.extend(batch.add);
        prop_assert_eq!(kernel, as_set(wanted));
    }

    #[test]
    fn what_is_shared_comes_with_the_first_and_goes_with_the_last(
        frontends in prop::collection::vec(frontend(), 1..4),
    ) {
        let layouts: Vec<_> = frontends.iter().map(|frontend| Layout::of(frontend, &Slots::default())).collect();
        let (mut shared, mut kernel) = (Shared::default(), BTreeSet::new());
        let mut carry_out = |shared: &mut Shared| {
            for element in elements(&shared.take_missing()) {
                assert!(kernel.insert(element));
            }
            for element in elements(&shared.take_stale()) {
                assert!(kernel.remove(&element));
            }
            kernel.clone()
        };
        let of = |layouts: &[Layout]| -> BTreeSet<_> {
            layouts.iter().flat_map(Layout::shared).map(SharedElement::element).collect()
        };
        for layout in &layouts {
            shared.need(std::slice::from_ref(layout));
            carry_out(&mut shared);
        }
        prop_assert_eq!(carry_out(&mut shared), of(&layouts));
        shared.release(&layouts);
        shared.need(&layouts[..1]);
        prop_assert_eq!(carry_out(&mut shared), of(&layouts[..1]));
        prop_assert_eq!(as_set(elements(&shared.take_all())), of(&layouts[..1]));
    }
}

#[test]
fn a_chain_draws_from_at_most_twice_the_slots_that_are_full() {
    for (count, chain) in [(1, "pick-1"), (16, "pick-16"), (17, "pick-32"), (32, "pick-32"), (33, "pick-64")]
    {
        assert_eq!(pick_chain(false, Clients::Outside, count), chain);
    }
    assert_eq!(pick_chain(true, Clients::Inside, 65_536), "node-inside-pick-65536");
}

fn shape() -> Shape {
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Shape {
        own_pods: networks(&["10.244.1.0/24", "fd00:10:244:1::/64"]),
        node_ports: networks(&["192.0.2.1/32", "2001:db8::/64"]),
        service_cidrs: networks(&["10.96.0.0/16", "fd00:10:96::/112"]),
        times: [10_800, 5].into_iter().filter_map(NonZeroU32::new).collect(),
        has_hash: true,
    }
}

#[test]
fn nft_takes_every_script_and_the_kernel_every_element() {
    let strategy = prop::collection::vec(frontend(), 30);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let frontends = strategy.new_tree(&mut runner).unwrap().current();
    let take = || {
        let mut netfilter = NetfilterSocket::open().unwrap();
        apply(&declarations(&Shape::default())).unwrap();
        for shape in [Shape::default(), shape(), Shape::default(), shape()] {
            apply(&script(&shape)).unwrap();
        }
        apply(&script(&Shape { times: [1, 2].into_iter().filter_map(NonZeroU32::new).collect(), ..shape() }))
            .unwrap();
        for frontend in frontends {
            let layout = Layout::of(&frontend, &Slots::default());
            let mut elements = layout.elements();
            elements.extend(shared::elements(&layout.shared()));
            let all = |change: fn(&Element) -> Change<'_>| elements.iter().map(change).collect::<Vec<_>>();
            netfilter.change(TABLE, &all(|element| Change::Add(element)), None).unwrap();
            let mut listed = BTreeSet::new();
            for (pair, family) in sets() {
                listed.extend(netfilter.elements(TABLE, pair.of(family)).unwrap());
            }
            assert_eq!(listed, as_set(elements.clone()), "{frontend:?}");
            netfilter.change(TABLE, &all(|element| Change::Delete(element)), None).unwrap();
        }
    };
    netns::make().unwrap().run(take).unwrap();
}

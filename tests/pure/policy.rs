// SPDX-License-Identifier: GPL-2.0

//! Which spare the next place is taken from.

use remap_pure::policy::{Candidate, Choice, Policy};
use remap_pure::units::SpareId;

/// Three spares, of which the first has most room and the last the best health; their order is the other way round.
const ALL: [Candidate; 3] = [
    Candidate { id: SpareId(0), order: 2, free: 900, room: 1000, health: 80 },
    Candidate { id: SpareId(1), order: 1, free: 500, room: 1000, health: 90 },
    Candidate { id: SpareId(2), order: 0, free: 100, room: 1000, health: 100 },
];

/// Nobody is primary, and nobody is avoided.
fn by(policy: Policy) -> Choice {
    Choice { policy, primary: SpareId(7), threshold: 0, poor: 0, last: 0 }
}

fn chosen(choice: &Choice, of: &[Candidate]) -> Option<u8> {
    choice.best(of.iter().copied()).map(|candidate| candidate.id.0)
}

#[test]
fn each_policy_has_its_favourite() {
    assert_eq!(chosen(&by(Policy::Fill), &ALL), Some(2));
    assert_eq!(chosen(&by(Policy::MostFree), &ALL), Some(0));
    assert_eq!(chosen(&by(Policy::Healthiest), &ALL), Some(2));
    assert_eq!(chosen(&by(Policy::Fill), &[]), None);
}

#[test]
fn the_primary_comes_first_in_the_order() {
    let choice = Choice { primary: SpareId(0), ..by(Policy::Fill) };
    assert_eq!(chosen(&choice, &ALL), Some(0));
    assert_eq!(choice.turn_of(&ALL[0]), 0);
    assert_eq!(choice.turn_of(&ALL[1]), 2);
    // The order is not what the others go by.
    let choice = Choice { primary: SpareId(1), ..by(Policy::Healthiest) };
    assert_eq!(chosen(&choice, &ALL), Some(2));
}

#[test]
fn in_turn_each_is_chosen_once() {
    let mut choice = Choice { primary: SpareId(1), ..by(Policy::RoundRobin) };
    let mut seen = Vec::new();
    for _ in 0..6 {
        let best = choice.best(ALL.iter().copied()).expect("one");
        choice.last = choice.turn_of(&best);
        seen.push(best.id.0);
    }
    // Behind the primary, which was the last: the others in their order, then the primary.
    assert_eq!(seen, [2, 0, 1, 2, 0, 1]);
    // Before anybody was chosen, the primary begins.
    choice.last = u8::MAX;
    assert_eq!(chosen(&choice, &ALL), Some(1));
}

#[test]
fn those_that_are_full_or_poor_are_avoided_while_there_is_another() {
    // The third has 90 percent in use, the second 50.
    let choice = |threshold| Choice { threshold, ..by(Policy::Fill) };
    assert_eq!(chosen(&choice(91), &ALL), Some(2));
    assert_eq!(chosen(&choice(90), &ALL), Some(1));
    assert_eq!(chosen(&choice(50), &ALL), Some(0));
    assert_eq!(chosen(&choice(10), &ALL), Some(2), "all are, so that makes no difference");
    let choice = |poor| Choice { poor, ..by(Policy::MostFree) };
    assert_eq!(chosen(&choice(80), &ALL), Some(0));
    assert_eq!(chosen(&choice(81), &ALL), Some(1));
    assert_eq!(chosen(&choice(91), &ALL), Some(2));
}

#[test]
fn of_equals_the_first_in_the_order_is_chosen() {
    let equal = ALL.map(|candidate| Candidate { free: 5, health: 50, ..candidate });
    assert_eq!(chosen(&by(Policy::MostFree), &equal), Some(2));
    assert_eq!(chosen(&by(Policy::Healthiest), &equal), Some(2));
}

//! The gate that an avalanche of errors shuts.

use remap_pure::gate::{Gate, Passage};

#[test]
fn a_gate_lets_a_number_a_minute_through() {
    let mut gate = Gate::default();
    for minute in 100..103 {
        for _ in 0..5 {
            assert_eq!(gate.count(minute * 60 + 59, 5), Passage::Open);
        }
    }
    assert!(!gate.is_shut(102 * 60 + 59, 5));
}

#[test]
fn a_gate_that_shuts_opens_after_a_minute_that_was_within_the_limit() {
    let mut gate = Gate::default();
    let at = |minute: u64| minute * 60 + 7;
    for _ in 0..5 {
        assert_eq!(gate.count(at(9), 5), Passage::Open);
    }
    assert_eq!(gate.count(at(9), 5), Passage::Shuts);
    assert_eq!(gate.count(at(9), 5), Passage::Shut);
    assert!(gate.is_shut(at(9), 5));
    // The minute after one that had too many is shut from its first error on, if it has one or not.
    assert!(gate.is_shut(at(10), 5));
    for _ in 0..3 {
        assert_eq!(gate.count(at(10), 5), Passage::Shut);
    }
    // It had few enough.
    assert!(!gate.is_shut(at(11), 5));
    assert_eq!(gate.count(at(11), 5), Passage::Opens);
    assert_eq!(gate.count(at(11), 5), Passage::Open);
}

#[test]
fn a_gate_opens_after_a_minute_without_an_error() {
    let mut gate = Gate::default();
    let mut shut = 0;
    for _ in 0..100 {
        shut += u64::from(gate.count(60, 10) != Passage::Open);
    }
    assert_eq!(shut, 90);
    assert!(gate.is_shut(119, 10) && gate.is_shut(179, 10) && !gate.is_shut(180, 10));
    assert_eq!(gate.count(500, 10), Passage::Opens);
}

// SPDX-License-Identifier: GPL-2.0

//! Scores, forgetting, telling and the forecast.

use remap_pure::bytes::FromBytes;
use remap_pure::format::raw::RawHealth;
use remap_pure::health::{bound, digits, is_bad, Facts, Health, Member, LONGER, RECENT};
use remap_pure::units::SpareId;

const NOW: u64 = 1_700_000_000;
const SPARE: Member = Member::Spare(SpareId(3));

fn with_errors(n: u64) -> Health {
    let mut health = Health::default().at(NOW);
    health.errors(Member::Main, n);
    health
}

fn main_score(health: &Health) -> u8 {
    health.score(Member::Main, &Facts::default())
}

#[test]
fn digits_are_binary() {
    assert_eq!([0, 1, 2, 3, 4, 7, 8, u64::MAX].map(digits), [0, 1, 2, 2, 3, 3, 4, 64]);
}

#[test]
fn a_device_without_trouble_has_all_points_and_one_with_every_trouble_none() {
    assert_eq!(main_score(&Health::default()), 100);
    let mut health = with_errors(1 << 40);
    health.slow(Member::Main, 1 << 40);
    let facts =
        Facts { unreadable: 1 << 40, remapped: 1 << 40, share: (500, 1000), ..Facts::default() };
    assert_eq!(health.score(Member::Main, &facts), 0);
    // Others are not concerned.
    assert_eq!(health.score(SPARE, &Facts::default()), 100);
    assert_eq!(health.score(SPARE, &Facts { away: true, ..Facts::default() }), 0);
}

#[test]
fn every_kind_of_trouble_takes_the_points_that_the_manual_says() {
    let score = |facts| Health::default().score(SPARE, &facts);
    assert_eq!(score(Facts { unreadable: 1, ..Facts::default() }), 92);
    assert_eq!(score(Facts { unreadable: 5, ..Facts::default() }), 86);
    assert_eq!(score(Facts { unreadable: 1 << 30, ..Facts::default() }), 65);
    assert_eq!(score(Facts { remapped: 8, ..Facts::default() }), 92);
    assert_eq!(score(Facts { remapped: 1 << 30, ..Facts::default() }), 84);
    assert_eq!(score(Facts { retired: 4, ..Facts::default() }), 91);
    assert_eq!(score(Facts { retired: 1 << 30, ..Facts::default() }), 70);
    assert_eq!(score(Facts { share: (7, 1000), ..Facts::default() }), 93);
    assert_eq!(score(Facts { share: (900, 1000), ..Facts::default() }), 85);
    assert_eq!(score(Facts { used: (50, 100), ..Facts::default() }), 100);
    assert_eq!(score(Facts { used: (80, 100), ..Facts::default() }), 85);
    assert_eq!(score(Facts { used: (100, 100), ..Facts::default() }), 75);
    // One error: 2 for the weeks, 3 for the day.
    assert_eq!(main_score(&with_errors(1)), 95);
    assert_eq!(main_score(&with_errors(1000)), 56);
    let mut slow = Health::default().at(NOW);
    slow.slow(Member::Main, 4);
    assert_eq!(main_score(&slow), 94);
}

#[test]
fn a_quiet_device_recovers_by_and_by() {
    let health = with_errors(64);
    assert_eq!(main_score(&health), 100 - 14 - 21);
    // After a day half of the recent ones count, and nearly all of the others.
    assert_eq!(main_score(&health.at(NOW + RECENT)), 100 - 12 - 18);
    // After 16 days no recent one, and half of the others.
    assert_eq!(main_score(&health.at(NOW + LONGER)), 100 - 12);
    assert_eq!(main_score(&health.at(NOW + 16 * LONGER)), 100);
    let mut last = main_score(&health);
    for day in 1..200 {
        let score = main_score(&health.at(NOW + day * RECENT));
        assert!(score >= last, "day {day}");
        last = score;
    }
    assert_eq!(last, 100);
}

#[test]
fn looking_often_and_looking_once_forget_the_same() {
    let once = with_errors(1_000_000).at(NOW + 40 * RECENT);
    let mut often = with_errors(1_000_000);
    for minute in 1..=40 * 24 * 60 {
        often = often.at(NOW + 60 * minute);
    }
    assert_eq!(main_score(&often), main_score(&once));
    // A clock that goes wrong forgets nothing.
    let back = with_errors(64).at(NOW - 1_000_000).at(NOW - 1_000_000 + 1);
    assert_eq!(main_score(&back), main_score(&with_errors(64)));
}

#[test]
fn the_header_keeps_it() {
    let mut health = with_errors(77);
    health.errors(SPARE, 5);
    health.slow(SPARE, 9);
    health.filled(12345);
    health.set_alerts(1 << SPARE.index());
    assert_eq!(health.alerts(), 16);
    let mut raw = RawHealth::read_from_bytes(&[0; 192]).unwrap();
    assert_eq!(Health::from_raw(&raw), Health::default());
    health.put_into(&mut raw);
    assert_eq!(Health::from_raw(&raw), health);
    health.errors(Member::Main, u64::MAX);
    health.put_into(&mut raw);
    assert_eq!(main_score(&Health::from_raw(&raw)), 100 - 20 - 24);
}

#[test]
fn people_are_told_once_and_again_only_after_it_was_better() {
    assert_eq!([0, 1, 80, 100].map(bound), [None, Some(99), Some(20), Some(0)]);
    let mut bad = false;
    let mut tells = |score| {
        let was = bad;
        bad = is_bad(was, score, bound(80));
        bad && !was
    };
    assert_eq!([21, 20, 15, 25, 20, 29].map(&mut tells), [false, true, false, false, false, false]);
    assert_eq!([30, 21, 20].map(&mut tells), [false, false, true]);
    assert!(!is_bad(true, 0, None));
}

#[test]
fn the_forecast_goes_by_what_came_lately() {
    let mut health = Health::default().at(NOW);
    assert_eq!(health.full_in(1000, 0), None);
    health.filled(100);
    // A set of today has filled 100 a day, one of ten days 10.
    assert_eq!(health.full_in(1000, 3600), Some(10));
    assert_eq!(health.full_in(1000, 10 * RECENT), Some(100));
    assert_eq!(health.full_in(0, 10 * RECENT), Some(0));
    // 100 a day for a year, and then none.
    let mut now = NOW;
    let mut health = Health::default().at(now);
    for _ in 0..365 {
        now += RECENT;
        health = health.at(now);
        health.filled(100);
    }
    let days = health.full_in(1000, now - NOW).unwrap();
    assert!((9..=10).contains(&days), "{days}");
    assert!(health.at(now + 2 * LONGER).full_in(1000, now - NOW).unwrap() >= 36);
    assert_eq!(health.at(now + 40 * LONGER).full_in(1000, now - NOW), None);
}

#[test]
fn each_device_has_a_number_and_each_number_one_device() {
    let all: Vec<Member> = (0..=8).map(|n| Member::of_index(n).expect("a device")).collect();
    assert!(all.iter().enumerate().all(|(n, member)| member.index() == n));
    assert_eq!((all[0], Member::of_index(9)), (Member::Main, None));
}

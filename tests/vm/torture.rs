//! A share of `make torture`: a dozen power cuts under load and remaps.

use remap_harness::Torture;

fn power_cuts(seed: u64) {
    let mut torture = Torture::new(seed);
    for _ in 0..3 {
        torture.cut();
    }
    println!("{}", torture.finish());
}

#[test]
fn everything_flushed_outlives_power_cuts_1() {
    power_cuts(101);
}

#[test]
fn everything_flushed_outlives_power_cuts_2() {
    power_cuts(102);
}

#[test]
fn everything_flushed_outlives_power_cuts_3() {
    power_cuts(103);
}

#[test]
fn everything_flushed_outlives_power_cuts_4() {
    power_cuts(104);
}

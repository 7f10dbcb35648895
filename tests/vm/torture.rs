//! A share of `make torture`: power cuts under load, remaps and drives that wear out.

use remap_harness::Torture;

fn power_cuts(mut torture: Torture) {
    for _ in 0..3 {
        torture.cut();
    }
    println!("{}", torture.finish());
}

#[test]
fn everything_flushed_outlives_power_cuts_1() {
    power_cuts(Torture::new(101));
}

#[test]
fn everything_flushed_outlives_power_cuts_2() {
    power_cuts(Torture::new(102));
}

#[test]
fn everything_flushed_outlives_power_cuts_of_worn_drives_1() {
    power_cuts(Torture::of_worn_drives(103));
}

#[test]
fn everything_flushed_outlives_power_cuts_of_worn_drives_2() {
    power_cuts(Torture::of_worn_drives(104));
}

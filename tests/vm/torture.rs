//! A share of `make torture`: power cuts under load, remaps and drives that wear out.

use remap_harness::{Migrations, Torture};

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

fn power_cuts_of_migrations(mut migrations: Migrations) {
    for _ in 0..3 {
        migrations.cut();
    }
    println!("{}", migrations.finish());
}

#[test]
fn the_set_is_the_old_one_or_the_new_one_when_the_power_fails_1() {
    power_cuts_of_migrations(Migrations::new(105));
}

#[test]
fn the_set_is_the_old_one_or_the_new_one_when_the_power_fails_2() {
    power_cuts_of_migrations(Migrations::new(106));
}

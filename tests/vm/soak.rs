//! A share of `make soak`.

use remap_harness::Soak;

#[test]
#[ignore = "a part of make test-debug, whose kernel sees leaks that are smaller"]
fn memory_is_after_three_rounds_what_it_was_after_two() {
    let mut soak = Soak::new(401);
    for _ in 0..3 {
        println!("{}", soak.round(20));
    }
    println!("{}", soak.finish());
}

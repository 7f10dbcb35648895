//! The fuzzer: gives what it makes up to the target that `FUZZ_TARGET` names.

#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<remap_fuzz::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        remap_fuzz::find(&name).unwrap_or_else(|| panic!("FUZZ_TARGET is no target: '{name}'"))
    });
    (target.run)(data);
});

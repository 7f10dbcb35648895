//! What the kernel makes of damaged and forged spares; a share of `make activations` among it.

use remap_harness::activations::Activations;
use remap_harness::{Drive, Image, Machine, Remap};
use remap_pure::format::layout::SLOTS;

#[test]
fn the_kernel_judges_damaged_and_forged_spares_as_the_host_does() {
    let mut activations = Activations::boot();
    (1_000_000..1_000_300).for_each(|seed| activations.run(seed));
    let (active, refused) = activations.counts();
    activations.finish();
    println!("{active} images activated, {refused} refused");
    assert!(active > 60 && refused > 60, "{active} images activated, {refused} refused");
}

/// A request that the block layer makes of several blocks fails as a whole; what is good in it has to be found all the same.
#[test]
fn a_sector_that_cannot_be_read_costs_its_own_block_of_the_metadata_only() {
    let main = Drive::blank("main", 32 * 2048);
    let spare = Drive::blank("spare", 32 * 2048);
    let mut image = Image::blank(spare.sectors());
    image.create(main.sectors(), (0..1200).map(|i| (i * 16, 8)));
    spare.scribble(0, image.metadata());
    for (copy, slot) in SLOTS.iter().enumerate() {
        let block = slot.0 + 8 * (copy as u64 + 1);
        spare.fail_until_written(block + 3..block + 4);
    }
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    let status = remap.status();
    assert_eq!(status.remapped.0, 1200 * 8);
    assert!(status.line.contains("persist=enabled"), "{}", status.line);
    remap.remove();
    machine.shutdown();
    assert!(Image::of(&spare).is_clean());
}

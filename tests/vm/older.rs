//! A set that was one of v3, in use.

use remap_harness::{Drive, Machine, Remap};
use remap_images::sim::{crc, new_set, new_spare, Rng, MAIN, SECTORS};
use remap_images::v3::{data, some_entries, v3};
use remap_pure::identity::{fingerprint, Facts};
use remap_pure::units::Sectors;
use remap_pure::upgrade::{look, Found};
use std::fmt::Write;

#[test]
fn a_set_that_was_upgraded_from_v3_has_its_data() {
    let entries = some_entries(40, 12_000, &mut Rng::new(3));
    let mut sim = v3(SECTORS, 2, &entries);
    let Ok(Found::V3(old)) = look(&mut sim, Sectors(MAIN), crc) else { panic!("it is of v3") };
    let main = fingerprint(&Facts::of_size(Sectors(MAIN), 512, 512));
    let update = |header: &mut remap_pure::format::header::Header| header.raw_mut().main = main;
    let plan = old.plan(&sim, &new_set(old.layout), &new_spare(0), Sectors(1), crc, update);
    plan.unwrap().begin(&mut sim, crc).unwrap().end(&mut sim, crc).unwrap();

    let main = Drive::blank("main", MAIN);
    let spare = Drive::blank("spare", SECTORS);
    sim.disks[0].written().for_each(|(at, block)| spare.scribble(at * 8, block));
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().remapped.0, 40);
    for &sector in entries.keys() {
        let bytes = machine.ok(&format!(
            "dd if=/dev/mapper/r bs=512 skip={sector} count=1 iflag=direct 2>/dev/null | od -An -v -tx1"
        ));
        let wanted = data(sector).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        assert_eq!(bytes.split_whitespace().collect::<String>(), wanted, "sector {sector}");
        machine.ok(&format!(
            "dd if=/dev/zero of=/dev/mapper/r bs=512 seek={sector} count=1 oflag=direct 2>/dev/null"
        ));
    }
    remap.message("clear");
    remap.wait_until(|status| status.remapped.0 == 0);
    remap.remove();
}

#[test]
fn main_of_a_set_that_is_upgraded_is_hidden_from_then_on() {
    let sim = v3(SECTORS, 2, &some_entries(40, 12_000, &mut Rng::new(3)));
    let (main, spare) = (Drive::blank("main", MAIN), Drive::blank("spare", SECTORS));
    sim.disks[0].written().for_each(|(at, block)| spare.scribble(at * 8, block));
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    machine.start_udev();
    let said = machine.ok("dmremap upgrade --main /dev/vda --name old --yes /dev/vdb");
    assert!(said.contains("/etc/dmremap.conf says now that /dev/vda is its main"), "{said}");
    let uuid = machine.ok("sed -n 's/.* uuid=\\([^ ]*\\).*/\\1/p' /etc/dmremap.conf");
    assert!(machine.ok("dmremap scan").contains(&uuid), "{uuid}");
    let hidden = machine.ok("dmremap hides /dev/vda");
    assert!(hidden.contains(&format!("DMREMAP_MAIN_OF={uuid}")), "{hidden}");
    machine.shutdown();
}

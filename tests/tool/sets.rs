//! `dmremap scan` and `dmremap wipe` on images: what is found of a set, whatever state it is in, and what is taken off a spare.

use super::{run, Spare, SLOTS, SPARE};
use remap_harness::image::Image;
use remap_images::sim::{commit, crc, create_on, extent, new_set, new_spare, Rng, Sim, SECTORS};
use remap_pure::commit::{Metadata, Succession};
use remap_pure::create::create;
use remap_pure::entry::Mapping;
use remap_pure::format::header::{Header, NewSpare};
use remap_pure::format::layout::{CopyId, Layout};
use remap_pure::format::{CommitKind, MemberUuid};
use remap_pure::recovery::members::Without;
use remap_pure::recovery::{recover, recover_without};
use remap_pure::store::SpareSet;
use remap_pure::units::SpareId;
use serde_json::Value;

/// What a scan of only these says.
fn scan(spares: &[&Spare]) -> (i32, Value) {
    let said = run("scan --json --only", spares);
    let json = serde_json::from_str(&said.text).unwrap_or_else(|e| panic!("{e}: {}", said.text));
    (said.status, json)
}

fn kept(test: &str, image: &str) -> Vec<Spare> {
    Spare::kept(&format!("{test}-{image}"), image)
}

#[test]
fn every_state_of_a_set_is_told_from_the_others() {
    for (image, status, state) in [
        ("fresh", 5, "incomplete"),
        ("extents", 5, "incomplete"),
        ("large-layout", 5, "incomplete"),
        ("newer-compatible", 5, "incomplete"),
        ("newer-incompatible", 4, "unusable"),
        ("used-apart", 4, "conflict"),
    ] {
        let spares = kept("scan", image);
        let before: Vec<Vec<u8>> = spares.iter().map(Spare::bytes).collect();
        let all: Vec<&Spare> = spares.iter().collect();
        let (said, json) = scan(&all);
        assert_eq!((said, &json["sets"][0]["state"]), (status, &state.into()), "{image}: {json:#}");
        assert!(json["sets"][0]["main"]["device"].is_null(), "{image}: {json:#}");
        let after: Vec<Vec<u8>> = spares.iter().map(Spare::bytes).collect();
        assert!(before == after, "{image}: something was written");
    }
    for (image, says) in [
        ("v3-first-drawing", "dmremap upgrade"),
        ("v3-second-drawing", "dmremap upgrade"),
        ("marks-only", "was cut short"),
    ] {
        let spares = kept("scan", image);
        let (_, json) = scan(&[&spares[0]]);
        assert_eq!(json["sets"], Value::Array(Vec::new()), "{image}");
        let what = json["others"][0]["what"].as_str().unwrap();
        assert!(what.contains(says), "{image}: {what}");
    }
    let blank = Spare::of("scan-blank", &Image::blank(SPARE));
    run("scan --only", &[&blank]).is(0, &["no set is on any device"]);
}

#[test]
fn a_spare_that_is_not_there_is_named_by_all_that_is_known_of_it() {
    let spares = kept("missing", "two-spares");
    let (status, json) = scan(&[&spares[0]]);
    let missing = &json["sets"][0]["missing"][0];
    assert_eq!((status, &missing["member"]), (5, &"spare 1".into()), "{json:#}");
    let uuid = missing["uuid"].as_str().unwrap();
    assert_eq!(uuid.len(), 36);
    assert!(missing["known"]["hardware_id"].is_string(), "{json:#}");
    run("scan --only", &[&spares[0]]).is(5, &["missing, UUID", uuid, "sectors, blocks of"]);
    let (_, json) = scan(&[&spares[1], &spares[0]]);
    assert_eq!(json["sets"][0]["missing"], Value::Array(Vec::new()), "{json:#}");
}

#[test]
fn a_disk_is_not_taken_for_the_spare_that_is_a_partition_on_it() {
    let spare = Spare::some("scan-partition");
    let disk = Spare::of("scan-disk", &Image::blank(SPARE + 4096));
    // Where partitions begin, and where the disk would have a copy of its own.
    disk.write(2048, 0, &spare.bytes());
    run("scan --only", &[&disk]).is(0, &["no set is on any device"]);
    let said = run(&format!("scan --json --only {}@2048+{SPARE}", disk.path()), &[&disk]);
    let json: Value = serde_json::from_str(&said.text).unwrap();
    assert_eq!((said.status, &json["sets"][0]["state"]), (5, &"incomplete".into()), "{json:#}");
    assert_eq!(json["sets"][0]["spares"].as_array().map(Vec::len), Some(1), "{json:#}");
    assert_eq!(json["others"], Value::Array(Vec::new()), "{json:#}");
}

/// A set whose spares are the first `members` of `disks` disks.
fn set_on(members: usize, disks: usize) -> (Sim, Metadata) {
    let mut sim = Sim::new(disks, SECTORS, 1);
    let all = sim.here;
    sim.here = SpareSet((1 << members) - 1);
    let spares: Vec<_> = (0..members).map(new_spare).collect();
    let set = new_set(Layout::STANDARD);
    let mut meta = create(&mut sim, &set, &spares, SpareSet::NONE, crc, |_| {}).unwrap();
    mark_pending(&mut sim, &mut meta, 8);
    sim.here = all;
    (sim, meta)
}

/// A commit that changes the table.
fn mark_pending(sim: &mut Sim, meta: &mut Metadata, start: u64) {
    let mut edit = meta.table().edit().unwrap();
    edit.set(extent(start, 8), Mapping::Pending).unwrap();
    let begun = meta.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(sim).unwrap().write_group_b(sim);
}

/// Spare 1 joins, or leaves. The table changes with it.
fn succeed(
    sim: &mut Sim,
    meta: &mut Metadata,
    joins: Option<&NewSpare>,
    history: u64,
) -> Result<usize, String> {
    let one = SpareId(1);
    if joins.is_some() {
        meta.may_join(sim, one, false).map_err(|e| e.to_string())?;
        meta.lay_ground(sim, one, history).map_err(|e| e.to_string())?;
    }
    let mut edit = meta.table().edit().unwrap();
    edit.set(extent(4096, 8), Mapping::Pending).unwrap();
    let change = Succession {
        joins: joins.map(|spare| (one, spare)),
        leaves: joins.is_none().then_some(one),
        history,
    };
    let done = meta.succeed(sim, 5, change, Some(edit), |_| {});
    done.map(|done| done.told).map_err(|e| e.to_string())
}

/// Copy 0 of the header on that disk as its commit wrote it: only the version before is known to be durable.
fn in_group_a(sim: &Sim, disk: usize) -> [u8; 4096] {
    let id = CopyId { spare: SpareId(disk as u8), copy: 0 };
    let header = Header::decode(&sim.disks[disk].block(0), id, crc).unwrap();
    *header.encode(id, header.version() - 1, crc).unwrap()
}

/// The disks as images, by their names.
fn images<const N: usize>(test: &str, disks: [(&str, &Sim, usize); N]) -> [Spare; N] {
    disks.map(|(name, of, disk)| {
        let mut one = Sim::new(1, SECTORS, 1);
        one.disks[0] = of.disks[disk].clone();
        Spare::of_sim(&format!("{test}-{name}"), &one).remove(0)
    })
}

/// The numbers of the spares that a set is found to have.
fn numbers(json: &Value) -> Vec<u64> {
    let spares = json["sets"][0]["spares"].as_array().unwrap();
    let mut numbers: Vec<u64> = spares.iter().map(|s| s["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// The set can be used with the spares of these numbers, and `other` is told to be something else.
fn is_used_without(test: &str, spares: &[&Spare], has: &[u64], other: &Spare, was: &str) {
    // In whatever order they are found.
    for turn in 0..spares.len() {
        let mut spares = spares.to_vec();
        spares.rotate_left(turn);
        let (status, json) = scan(&spares);
        let set = &json["sets"][0];
        assert_eq!((status, &set["state"]), (5, &"incomplete".into()), "{test}: {json:#}");
        assert_eq!(numbers(&json), has, "{test}: {json:#}");
        let others = json["others"].as_array().unwrap();
        assert_eq!((others.len(), &others[0]["device"]), (1, &other.path().into()), "{json:#}");
        let what = others[0]["what"].as_str().unwrap();
        assert!(what.contains(was) && what.contains("dmremap wipe"), "{test}: {what}");
    }
}

#[test]
fn who_was_to_become_a_spare_and_did_not_is_none_and_keeps_nobody_from_the_set() {
    let (sim, _) = set_on(1, 2);
    let new = new_spare(1);
    let reopened = |sim: &Sim| {
        let mut old = sim.with_only(SpareSet(1));
        let meta = recover(&mut old, crc).unwrap();
        meta.rebuild(&mut old, 1, 1).unwrap()
    };

    // The power was cut when the marks were there.
    let mut cut = sim.clone();
    reopened(&sim).lay_ground(&mut cut, SpareId(1), 4711).unwrap();
    // A place on it takes no write.
    let mut bad = sim.clone();
    bad.disks[1].no_write.insert(SLOTS[4] / 8);
    assert!(succeed(&mut bad, &mut reopened(&sim), Some(&new), 4711).is_err());
    // The others did not take what would have made it one, and went on as they were.
    let mut doubt = sim.clone();
    let mut meta = reopened(&sim);
    let not_now = |sim: &mut Sim| {
        [0, 2, 4].iter().for_each(|&copy| _ = sim.disks[0].no_write.insert(SLOTS[copy] / 8));
    };
    not_now(&mut doubt);
    assert!(succeed(&mut doubt, &mut meta, Some(&new), 4711).is_err());
    doubt.heal();
    doubt.here = SpareSet(1);
    mark_pending(&mut doubt, &mut meta, 64);
    // The same, and it could not be told any more: its headers say that it is one.
    let mut untold = sim.clone();
    let mut meta = reopened(&sim);
    not_now(&mut untold);
    meta.lay_ground(&mut untold, SpareId(1), 4711).unwrap();
    // Three copies of a header and of a block, and a flush.
    untold.disks[1].dies_after = Some(8);
    let mut edit = meta.table().edit().unwrap();
    edit.set(extent(4096, 8), Mapping::Pending).unwrap();
    let change = Succession { joins: Some((SpareId(1), &new)), leaves: None, history: 4711 };
    assert!(meta.succeed(&mut untold, 5, change, Some(edit), |_| {}).is_err());
    in_group_a(&untold, 1);
    untold.heal();
    untold.here = SpareSet(1);
    mark_pending(&mut untold, &mut meta, 64);
    // The power was cut when a header of the commit had reached it, and not the block that goes with it.
    let mut torn = cut.clone();
    let mut joined = sim.clone();
    succeed(&mut joined, &mut reopened(&sim), Some(&new), 4711).unwrap();
    torn.disks[1].set_block(0, in_group_a(&joined, 1));
    // Or the other spare.
    let mut begun = cut.clone();
    begun.disks[0].set_block(0, in_group_a(&joined, 0));

    let cut_short = [("cut", cut), ("bad", bad), ("torn", torn), ("begun", begun)];
    for (name, sim) in cut_short.into_iter().chain([("doubt", doubt), ("untold", untold)]) {
        let [old, failed] = images(name, [("old", &sim, 0), ("failed", &sim, 1)]);
        is_used_without(name, &[&old, &failed], &[0], &failed, "was to become a spare");
        let (status, json) = scan(&[&old]);
        let state = &json["sets"][0]["state"];
        assert_eq!((status, state), (5, &"incomplete".into()), "{name}: {json:#}");
    }
}

#[test]
fn another_may_have_the_number_of_who_did_not_become_a_spare() {
    let (mut sim, mut meta) = set_on(1, 3);
    sim.disks[1].no_write.insert(SLOTS[4] / 8);
    assert!(succeed(&mut sim, &mut meta, Some(&new_spare(1)), 4711).is_err());
    let failed = sim.clone();
    sim.disks[1] = sim.disks[2].clone();
    succeed(&mut sim, &mut meta, Some(&new_spare(2)), 4712).unwrap();
    let disks = [("0", &sim, 0), ("1", &sim, 1), ("failed", &failed, 1)];
    let [old, new, failed] = images("number", disks);
    let what = "was to become a spare";
    is_used_without("number", &[&old, &new, &failed], &[0, 1], &failed, what);
    // Nor is it the one that is missing.
    is_used_without("number", &[&old, &failed], &[0], &failed, what);
}

#[test]
fn another_may_have_the_number_of_who_has_left() {
    let (mut sim, mut meta) = set_on(2, 3);
    let before = sim.clone();
    assert_eq!(succeed(&mut sim, &mut meta, None, 4711), Ok(5));
    let told = sim.clone();
    sim.disks[1] = sim.disks[2].clone();
    succeed(&mut sim, &mut meta, Some(&new_spare(2)), 4712).unwrap();
    // It was told that it left, or it could not be.
    for (name, of) in [("told", &told), ("untold", &before)] {
        let disks = [("0", &sim, 0), ("1", &sim, 1), ("left", of, 1)];
        let [old, new, left] = images(&format!("left-{name}"), disks);
        let what = "was a spare of set";
        is_used_without(name, &[&old, &new, &left], &[0, 1], &left, what);
        is_used_without(name, &[&old, &left], &[0], &left, what);
        // It left because it was failing. What it was told still says enough; otherwise it might know more.
        SLOTS[..3].iter().for_each(|&slot| left.flip(slot, 300));
        if name == "told" {
            is_used_without(name, &[&old, &new, &left], &[0, 1], &left, what);
        } else {
            run("scan --only", &[&old, &new, &left]).is(4, &["both say"]);
        }
    }
    // Nobody has its number yet.
    let [old, left] = images("left-only", [("0", &told, 0), ("left", &before, 1)]);
    SLOTS[1..].iter().for_each(|&slot| left.flip(slot, 300));
    is_used_without("left-only", &[&old, &left], &[0], &left, "was a spare of set");
    // It was used by itself since: nobody but a person knows which is right.
    let mut apart = before.with_only(SpareSet(2));
    let zero = [MemberUuid(new_spare(0).uuid)];
    let found = recover_without(&mut apart, &Without { absent: &zero, away: true }, crc);
    let mut other = found.unwrap().rebuild(&mut apart, 1, 99).unwrap();
    mark_pending(&mut apart, &mut other, 64);
    // Whichever has the higher version.
    for (more, says) in [(0, "conflict: "), (80, "both say that they are spare 1")] {
        (0..more).for_each(|i| mark_pending(&mut sim, &mut meta, 8192 + i * 64));
        let disks = [("0", &sim, 0), ("1", &sim, 1), ("apart", &apart, 1)];
        let [old, new, left] = images("left-apart", disks);
        for spares in [[&old, &new, &left], [&left, &old, &new]] {
            let (status, json) = scan(&spares);
            assert_eq!((status, &json["others"]), (4, &Value::Array(Vec::new())), "{json:#}");
            assert_eq!(numbers(&json), [0, 1, 1], "{json:#}");
            let why = json["sets"][0]["why"].as_str().unwrap();
            assert!(why.contains(says), "{why}");
        }
    }
}

#[test]
fn nobody_is_left_out_who_may_know_more_than_the_others() {
    // All is on spare 1 now, which has lost most of its copies, and 0 is back from before that.
    let (mut sim, mut meta) = set_on(1, 2);
    let before = sim.clone();
    meta.lay_ground(&mut sim, SpareId(1), 4711).unwrap();
    let ground = sim.disks[1].block(1);
    let mut edit = meta.table().edit().unwrap();
    edit.set(extent(4096, 8), Mapping::Pending).unwrap();
    let new = new_spare(1);
    let change =
        Succession { joins: Some((SpareId(1), &new)), leaves: Some(SpareId(0)), history: 4711 };
    let begun = meta.succeed(&mut sim, 5, change, Some(edit), |_| {}).map(|done| done.told);
    assert_eq!(begun.ok(), Some(5));
    let early = in_group_a(&sim, 1);
    let disks = [("old", &before, 0), ("new", &sim, 1)];
    let [old, new] = images("more", disks);
    new.write(0, 0, &early);
    new.write(8, 0, &ground);
    for slot in &SLOTS[1..] {
        new.flip(*slot, 300);
        new.write(slot + 8, 0, &ground);
    }
    let (status, json) = scan(&[&old, &new]);
    assert_eq!((status, &json["others"]), (4, &Value::Array(Vec::new())), "{json:#}");
    assert_eq!(numbers(&json), [0, 1], "{json:#}");
    let why = json["sets"][0]["why"].as_str().unwrap();
    assert!(why.contains("spare 1 is not a member"), "{why}");
}

#[test]
fn a_spare_of_a_set_just_created_may_have_no_header_yet() {
    let mut sim = Sim::new(2, SECTORS, 1);
    let meta = create_on(&mut sim);
    for (copy, slot) in (0..).zip(SLOTS) {
        let id = CopyId { spare: SpareId(1), copy };
        let mark = meta.header().creation_mark(id, meta.header().history(), crc).unwrap();
        sim.disks[1].set_block(slot / 8, *mark);
    }
    let [zero, one] = images("created", [("0", &sim, 0), ("1", &sim, 1)]);
    let (status, json) = scan(&[&one, &zero]);
    assert_eq!((status, &json["others"]), (5, &Value::Array(Vec::new())), "{json:#}");
    assert_eq!(numbers(&json), [0, 1], "{json:#}");
}

#[test]
fn an_old_clone_of_a_spare_is_told_from_the_spare() {
    let mut rng = Rng::new(1);
    let mut disks = Sim::new(2, SECTORS, 1);
    let mut metadata = create_on(&mut disks);
    commit(&mut disks, &mut metadata, 3, &mut rng);
    let clone = disks.clone();
    (0..3).for_each(|_| commit(&mut disks, &mut metadata, 3, &mut rng));
    disks.disks[1] = clone.disks[1].clone();
    let spares = Spare::of_sim("scan-older", &disks);
    let before: Vec<Vec<u8>> = spares.iter().map(Spare::bytes).collect();
    let both = [&spares[0], &spares[1]];
    let (status, json) = scan(&both);
    assert_eq!((status, &json["sets"][0]["state"]), (5, &"incomplete".into()), "{json:#}");
    assert_eq!(json["sets"][0]["missing"][0]["member"], "spare 1", "{json:#}");
    assert_eq!(json["others"][0]["device"], spares[1].path(), "{json:#}");
    let what = json["others"][0]["what"].as_str().unwrap();
    for word in ["older image of spare 1", "version 2", "version 5", "dmremap wipe"] {
        assert!(what.contains(word), "{what}");
    }
    for verb in ["repair --dry-run", "repair --yes", "check"] {
        run(verb, &both).is(4, &["older image", "version 2", "version 5", "absent"]);
    }
    let after: Vec<Vec<u8>> = spares.iter().map(Spare::bytes).collect();
    assert!(before == after, "something was written");
}

#[test]
fn damage_is_told_from_loss() {
    let spare = Spare::some("scan-damage");
    spare.flip(SLOTS[0], 300);
    let (_, json) = scan(&[&spare]);
    assert_eq!(json["sets"][0]["state"], "incomplete");
    for slot in SLOTS {
        spare.flip(slot, 900);
    }
    let (status, json) = scan(&[&spare]);
    assert_eq!((status, &json["sets"][0]["state"]), (4, &"unusable".into()), "{json:#}");
    assert!(json["sets"][0]["why"].as_str().unwrap().contains("damaged"), "{json:#}");
}

#[test]
fn wiping_leaves_a_blank_spare_and_gives_up_nothing_unasked() {
    for image in ["fresh", "marks-only"] {
        let spares = kept("wipe", image);
        let before = spares[0].bytes();
        spares[0].run("wipe --dry-run").is(0, &["would be wiped"]);
        spares[0].run("wipe").is(1, &["nothing was changed", "--yes"]);
        assert!(spares[0].bytes() == before, "{image}: something was written");
        spares[0].run("wipe --yes").is(0, &["is blank"]);
        assert!(spares[0].bytes().iter().all(|&byte| byte == 0), "{image}");
        spares[0].run("wipe --yes").is(0, &["nothing of dm-remap"]);
    }
    for image in ["extents", "large-layout", "lost", "suspect", "joined"] {
        let spares = kept("wipe", image);
        let before = spares[0].bytes();
        spares[0].run("wipe --yes").is(1, &["is not wiped", "--lost"]);
        run("wipe --yes --lost /dev/null", &[&spares[0]]).is(1, &["names another device"]);
        assert!(spares[0].bytes() == before, "{image}: something was written");
        let path = spares[0].path();
        spares[0].run(&format!("wipe --yes --lost {path}")).is(0, &["is blank"]);
        run("scan --only", &[&spares[0]]).is(0, &["no set"]);
    }
}

#[test]
fn wiping_never_touches_what_is_not_ours() {
    // A device that never was a spare, and one in the old format.
    let foreign = Spare::of("wipe-foreign", &Image::blank(SPARE));
    foreign.write(2, 0, b"something");
    foreign.write(SPARE - 1, 0, b"at the end");
    let v3 = &kept("wipe", "v3-second-drawing")[0];
    for (spare, status, says) in [(&foreign, 0, "nothing of dm-remap"), (v3, 1, "v3 format")] {
        let before = spare.bytes();
        spare.run(&format!("wipe --yes --lost {}", spare.path())).is(status, &[says]);
        assert!(spare.bytes() == before, "something was written");
    }
    // What stands between the copies of a set.
    let spare = &kept("wipe", "fresh")[0];
    spare.write(SLOTS[1] + 512, 0, b"something");
    spare.run("wipe --yes").is(0, &["what is not ours stays"]);
    assert_eq!(&spare.bytes()[(SLOTS[1] as usize + 512) * 512..][..9], b"something");
    // All headers are damaged: nobody can tell what lives there.
    let spare = Spare::some("wipe-damaged");
    SLOTS.iter().for_each(|&slot| spare.flip(slot, 900));
    spare.run("wipe --yes").is(1, &["nobody can tell what lives there", "--lost"]);
    spare.run(&format!("wipe --yes --lost {}", spare.path())).is(0, &["is blank"]);
}

//! `dmremap repair --use`: of two spares that were used apart one holds, because a person said so, and the other is kept in a file.

use super::{run, Spare, SLOTS};
use remap_images::sim::{crc, create_on, extent, new_spare, Sim, SECTORS};
use remap_pure::entry::Mapping;
use remap_pure::format::header::Header;
use remap_pure::format::{CommitKind, MemberUuid, SpareState};
use remap_pure::recovery::members::Without;
use remap_pure::recovery::recover_without;
use remap_pure::store::SpareSet;
use remap_pure::units::{SpareId, SpareSector};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// A folder that goes when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dmremap-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // One that is left behind does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The extents of a dump, as start on main and kind.
fn extents(dump: &str) -> Vec<(u64, String)> {
    let dump: Value = serde_json::from_str(dump).unwrap();
    let extents = dump["extents"].as_array().unwrap().iter();
    extents.map(|e| (e["start"].as_u64().unwrap(), e["kind"].as_str().unwrap().into())).collect()
}

fn has(extents: &[(u64, String)], start: u64, kind: &str) -> bool {
    extents.contains(&(start, kind.into()))
}

#[test]
fn of_spares_that_were_used_apart_the_one_holds_that_a_person_names() {
    for chosen in 0..2 {
        let spares = Spare::kept(&format!("choose-{chosen}"), "used-apart");
        let spares: Vec<&Spare> = spares.iter().collect();
        let folder = Folder::new(&format!("choose-{chosen}-dumps"));
        let bytes = || spares.iter().map(|spare| spare.bytes()).collect::<Vec<_>>();
        let before = bytes();
        run("check", &spares).is(4, &["conflict"]);
        run("repair --yes", &spares).is(4, &["version 7 of history", "--use SPARE", "conflict"]);
        let name = spares[chosen].path();
        let repair = format!("repair --use {name} --dump-to {}", folder.0.display());
        run(&format!("{repair} --dry-run"), &spares).is(
            4,
            &["to hold: version 7", "given up: version 7", "1 extents of it", "8 sectors of what"],
        );
        run(&repair, &spares).is(1, &["--yes"]);
        run("repair --use /nowhere --yes", &spares).is(1, &["name a spare as it is named"]);
        run(&format!("repair --use {name} --copy 7 --yes"), &spares).is(1, &["7 is not in 0..5"]);
        assert!(bytes() == before && folder.files().is_empty(), "something was written");

        run(&format!("{repair} --yes"), &spares).is(0, &["is dumped to", "is of version 8 now"]);
        run("check --level forensic", &spares).is(0, &["nothing wrong"]);
        let now = extents(&run("dump", &spares).is(0, &[]).text);
        // Both had given the same place away.
        let (mine, other) = if chosen == 0 { (2000, 3000) } else { (3000, 2000) };
        assert!(has(&now, mine, "lost") && has(&now, 1000, "remapped"), "{now:?}");
        assert!(!now.iter().any(|(start, _)| *start == other), "{now:?}");

        // Nothing of either is lost to whoever wants to look.
        let dumps: Vec<String> =
            folder.files().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        assert_eq!(dumps.len(), 2);
        for start in [mine, other] {
            assert!(dumps.iter().any(|dump| has(&extents(dump), start, "remapped")));
        }
        run(&format!("{repair} --yes"), &spares).is(1, &["there is no conflict"]);
        let file = folder.files()[1 - chosen].clone();
        run(&format!("restore {} --older --yes", file.display()), &spares).is(0, &["restored"]);
        let now = extents(&run("dump", &spares).is(0, &[]).text);
        assert!(has(&now, other, "remapped"), "{now:?}");
    }
}

#[test]
fn without_a_file_for_what_is_given_up_nothing_is() {
    let spares = Spare::kept("choose-file", "used-apart");
    let spares: Vec<&Spare> = spares.iter().collect();
    let before: Vec<_> = spares.iter().map(|spare| spare.bytes()).collect();
    let repair = format!("repair --use {} --dump-to /nowhere --yes", spares[0].path());
    run(&repair, &spares).is(1, &["nothing was changed on the spares"]);
    assert!(spares.iter().map(|spare| spare.bytes()).eq(before), "something was written");
}

/// Goes on with the spares `here`, although `absent` are not there; `start` is remapped then to `to` on the first of them, where nothing
/// else is any more.
fn go_on(sim: &Sim, here: &[u8], absent: &[u8], (start, to): (u64, u64)) -> Sim {
    let mut shown = SpareSet::NONE;
    here.iter().for_each(|&spare| shown.add(SpareId(spare)));
    let mut sim = sim.with_only(shown);
    let absent: Vec<_> =
        absent.iter().map(|&spare| MemberUuid(new_spare(usize::from(spare)).uuid)).collect();
    let without = Without { absent: &absent, away: true };
    let found = recover_without(&mut sim, &without, crc).unwrap();
    let mut metadata = found.rebuild(&mut sim, 1, start).unwrap();
    let mut edit = metadata.table().edit().unwrap();
    let (spare, to) = (SpareId(here[0]), SpareSector(to));
    let there = metadata.table().iter().find(|entry| entry.mapping.place() == Some((spare, to)));
    there.into_iter().for_each(|entry| edit.clear(entry.extent).unwrap());
    let mapping = Mapping::Remapped { spare, to };
    edit.set(extent(start, 8), mapping).unwrap();
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    sim
}

/// Two spares each of which went on when the other was away; and a third that was away for both, or none.
fn gone_on_apart(count: usize) -> Sim {
    let mut sim = Sim::new(count, SECTORS, 3);
    create_on(&mut sim);
    let away: &[u8] = if count > 2 { &[2] } else { &[] };
    let mut sim = go_on(&sim, &[0, 1], away, (1000, 9216));
    let [first, second] = [(0, 2000), (1, 3000)]
        .map(|(spare, start)| go_on(&sim, &[spare], &[1 - spare], (start, 20_000)));
    sim.disks[0] = first.disks[0].clone();
    sim.disks[1] = second.disks[1].clone();
    sim
}

#[test]
fn of_spares_that_went_on_when_the_other_was_away_one_holds_and_the_other_takes_part_again() {
    for (chosen, count) in [(0, 2), (1, 2), (0, 3), (1, 3)] {
        let name = format!("choose-away-{chosen}-{count}");
        let files = Spare::of_sim(&name, &gone_on_apart(count));
        // A third stays away; the set can be used without it.
        let spares = [&files[0], &files[1]];
        let well = if count > 2 { 3 } else { 0 };
        let folder = Folder::new(&format!("{name}-dumps"));
        run("repair --yes", &spares).is(4, &["--use SPARE", "conflict"]);
        let repair =
            format!("repair --use {} --dump-to {}", spares[chosen].path(), folder.0.display());
        let again = format!("{} takes part again", spares[1 - chosen].path());
        let says = ["given up: ", &again, "every copy is"];
        run(&format!("{repair} --yes"), &spares).is(well, &says);
        let (mine, other) = if chosen == 0 { (2000, 3000) } else { (3000, 2000) };
        let holds = |spares: &[&Spare]| {
            let now = extents(&run("dump", spares).is(0, &[]).text);
            assert!(has(&now, mine, "remapped") && has(&now, 1000, "remapped"), "{now:?}");
            assert!(!now.iter().any(|(start, _)| *start == other), "{now:?}");
        };
        holds(&spares);
        run("repair", &spares).is(0, &["nothing to repair"]);
        assert_eq!(folder.files().len(), 2);

        // Nothing that a third has is in conflict with what holds.
        let all: Vec<_> = files.iter().collect();
        run("repair --yes", &all).is(0, &[]);
        run("check --level forensic", &all).is(0, &["nothing wrong"]);
        holds(&all);
    }
}

/// Two spares each of which went on without the other, the second with a third one: what was remapped to it before lies there no more.
fn gone_on_with_a_third() -> Sim {
    let mut sim = Sim::new(3, SECTORS, 3);
    create_on(&mut sim);
    let mut sim = go_on(&sim, &[1, 0, 2], &[], (1000, 9216));
    let first = go_on(&sim, &[0], &[1, 2], (2000, 20_000));
    let second = go_on(&sim, &[1, 2], &[0], (3000, 9216));
    sim.disks[0] = first.disks[0].clone();
    (1..3).for_each(|spare| sim.disks[spare] = second.disks[spare].clone());
    sim
}

/// As [`gone_on_with_a_third`]; and then the second and the third have let the first go.
fn let_go_by_the_others() -> Sim {
    let mut sim = gone_on_with_a_third();
    let mut others = sim.with_only(SpareSet(0b110));
    let without = Without { absent: &[], away: true };
    let found = recover_without(&mut others, &without, crc).unwrap();
    let mut metadata = found.rebuild(&mut others, 1, 5).unwrap();
    let leaves = |header: &mut Header| header.raw_mut().spares[0].state = SpareState::Left as u8;
    let begun = metadata.begin(CommitKind::Members, 1, None, leaves).unwrap();
    begun.write_group_a(&mut others).unwrap().write_group_b(&mut others);
    (1..3).for_each(|spare| sim.disks[spare] = others.disks[spare].clone());
    sim
}

#[test]
fn of_what_is_given_up_all_that_is_there_is_dumped_although_a_member_is_missing_or_another_has_left(
) {
    for (name, sim) in [("third", gone_on_with_a_third()), ("left", let_go_by_the_others())] {
        let name = format!("choose-{name}");
        let files = Spare::of_sim(&name, &sim);
        let spares = [&files[0], &files[1]];
        let folder = Folder::new(&format!("{name}-dumps"));
        let repair = format!("repair --use {} --dump-to {}", files[0].path(), folder.0.display());
        // The third is known to be away to what holds.
        let says = ["given up: ", "1 extents of it", "8 sectors of what", "every copy is"];
        run(&format!("{repair} --yes"), &spares).is(3, &says);
        let dumps: Vec<String> =
            folder.files().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        assert_eq!(dumps.len(), 2);
        for start in [2000, 3000] {
            assert!(dumps.iter().any(|dump| has(&extents(dump), start, "remapped")), "{start}");
        }
        // What stands in its place is another block.
        let now = extents(&run("dump", &spares).is(0, &[]).text);
        assert!(has(&now, 1000, "lost") && has(&now, 2000, "remapped"), "{now:?}");
    }
}

#[test]
fn what_cannot_be_put_together_is_given_up_undumped_only_if_somebody_says_so() {
    let mut sim = gone_on_with_a_third();
    for slot in SLOTS {
        sim.disks[1].set_block(slot / 8 + 1, [0; 4096]);
    }
    let files = Spare::of_sim("choose-undumped", &sim);
    let spares = [&files[0], &files[1]];
    let before: Vec<_> = spares.iter().map(|spare| spare.bytes()).collect();
    let folder = Folder::new("choose-undumped-dumps");
    let repair = format!("repair --use {} --dump-to {} --yes", files[0].path(), folder.0.display());
    run(&repair, &spares).is(1, &["there will be no dump of it", "--undumped"]);
    assert!(spares.iter().map(|spare| spare.bytes()).eq(before), "something was written");
    assert!(folder.files().is_empty());
    // With what it was on too there is a dump.
    run(&format!("{repair} --dry-run"), &files.iter().collect::<Vec<_>>())
        .is(4, &["1 extents of it"]);

    run(&format!("{repair} --undumped"), &spares).is(3, &["every copy is"]);
    assert_eq!(folder.files().len(), 1);
    let now = extents(&run("dump", &spares).is(0, &[]).text);
    assert!(has(&now, 2000, "remapped"), "{now:?}");
}

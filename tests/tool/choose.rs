//! `dmremap repair --use`: of two spares that were used apart one holds, because a person said so, and the other is kept in a file.

use super::{run, Spare};
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

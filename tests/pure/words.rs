// SPDX-License-Identifier: GPL-2.0

//! What people are told: each error names what it is about, and what to do about it; each word that is written can be
//! read again.

use remap_pure::command::CommandError;
use remap_pure::commit::{ChangeError, CommitError, InDoubt, JoinError, Persist};
use remap_pure::copies::CopySet;
use remap_pure::create::CreateError;
use remap_pure::entry::{BlockIndex, EntryError};
use remap_pure::format::block::BlockError;
use remap_pure::format::header::HeaderError;
use remap_pure::format::layout::CopyId;
use remap_pure::format::{CommitKind, MemberUuid, SetUuid, SpareState};
use remap_pure::identity::{Differs, FilesystemUuid, MatchKind};
use remap_pure::line::LineError;
use remap_pure::mem::AllocError;
use remap_pure::places::PlaceError;
use remap_pure::policy::Policy;
use remap_pure::recovery::{RebuildError, Refusal, Stand};
use remap_pure::rewrite::RewriteError;
use remap_pure::settings::{self, Limits, SetError, Settings};
use remap_pure::store::SpareSet;
use remap_pure::table::{BuildError, EditError};
use remap_pure::units::{MainSector, Sectors, SpareId, SpareSector};
use remap_pure::upgrade::UpgradeError;
use remap_pure::validate::{At, Finding, Level, What};
use std::fmt::Display;

const SPARE: SpareId = SpareId(3);
const COPY: CopyId = CopyId { spare: SPARE, copy: 2 };

/// The text has all of these parts.
#[track_caller]
fn says(error: impl Display, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

/// So that a number is found in a text, and nothing else is.
fn set() -> SetUuid {
    SetUuid::default()
}

#[test]
fn why_nothing_is_committed() {
    says(CommitError::TooFewCopies { good: 1, needed: 2 }, &["1 good", "2 are needed", "repair"]);
    says(CommitError::NoCopyOn(SPARE), &["spare 3", "repair"]);
    says(CommitError::ReadOnly, &["newer dm-remap"]);
    says(CommitError::Versions, &["version numbers", "used up"]);
    says(CommitError::Memory, &["no memory"]);
    says(CommitError::Edit(EditError::Full), &[&EditError::Full.to_string()]);
    says(CommitError::Corrupt(BlockIndex(7)), &["block 7", "memory"]);
    let lost = SpareSet::one(SPARE);
    let mut one = CopySet::NONE;
    one.add(COPY);
    let none = CopySet::NONE;
    let doubt = |bad, unflushed| InDoubt { version: 41, lost, bad, unflushed };
    says(doubt(one, none), &["41", &COPY.to_string(), "written", "repair"]);
    says(doubt(none, one), &["41", &COPY.to_string(), "flushed", "repair"]);
    says(doubt(none, none), &["41", "no memory", "nothing was written"]);
    assert_eq!(Persist::Enabled.name(), "enabled");
    assert_eq!(Persist::Degraded.name(), "degraded");
    assert_eq!(Persist::Failed.name(), "failed");
}

#[test]
fn a_refusal_names_the_spare_that_says_nothing_of_a_set() {
    let of_spare = [
        Refusal::Unreadable(SPARE),
        Refusal::Empty(SPARE),
        Refusal::Foreign(SPARE),
        Refusal::V3(SPARE),
        Refusal::CreationCutShort(SPARE, set()),
    ];
    assert!(of_spare.iter().all(|refusal| refusal.of_spare() == Some(SPARE)));
    let of_set = [Refusal::Memory, Refusal::Outdated { found: 8, durable: 9 }];
    assert!(of_set.iter().all(|refusal| refusal.of_spare().is_none()));
}

#[test]
fn why_a_set_is_not_activated() {
    let stand = |version| Stand { id: COPY, history: 0xab, version, committed: 1_700_000_000 };
    let member = MemberUuid([0x5a; 16]);
    let uuid = member.to_string();
    says(stand(9), &[&COPY.to_string(), "version 9", "00000000000000ab", "1700000000"]);
    says(Refusal::Memory, &["no memory"]);
    says(Refusal::Unreadable(SPARE), &["spare 3", "check the device"]);
    says(
        Refusal::Empty(SPARE),
        &["spare 3 is not a spare of a set", "name", "`create` makes a new"],
    );
    says(Refusal::Foreign(SPARE), &["spare 3", "`create overwrite <spare>`"]);
    says(Refusal::V3(SPARE), &["spare 3", "dmremap upgrade"]);
    says(Refusal::CreationCutShort(SPARE, set()), &["spare 3", "`create` again"]);
    let forensic = "dmremap check --level forensic";
    let newest = stand(9);
    let block = Some(BlockIndex(7));
    says(Refusal::Incomplete { newest, block }, &["block 7", "version 9", forensic]);
    says(Refusal::Incomplete { newest, block: None }, &["digest", "version 9", forensic]);
    says(Refusal::Outdated { found: 8, durable: 9 }, &["version 8", "version 9", forensic]);
    says(Refusal::OtherSet(COPY, set()), &[&COPY.to_string(), &set().to_string(), "names"]);
    says(Refusal::Conflict(stand(8), stand(9)), &["version 8", "version 9", "repair --use"]);
    let older = |away| Refusal::Older { spare: SPARE, uuid: member, found: 6, durable: 11, away };
    let absent = format!("`absent {uuid}`");
    says(
        older(false),
        &["spare 3", &uuid, "version 6", "version 11", "in use", &absent, "new spare"],
    );
    says(older(true), &["spare 3", &uuid, "version 6", "version 11", "`degraded`", "new spare"]);
    says(Refusal::Missing(SPARE, member), &["spare 3", &uuid, "`spare`", "`absent"]);
    says(Refusal::Away(SPARE, member), &["spare 3", &uuid, "`spare`", "`degraded`"]);
    says(Refusal::NotAbsent(SPARE, member), &["spare 3", &uuid, "leave out"]);
    says(Refusal::NoMember(member), &[&uuid, "leave out"]);
    says(Refusal::Left(SPARE, MemberUuid([0; 16])), &["spare 3", "leave it out"]);
    says(Refusal::Left(SPARE, member), &["spare 3", &uuid, "took its place"]);
    let zero_first = MemberUuid([0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    says(Refusal::Left(SPARE, zero_first), &["spare 3", "00000007-", "took its place"]);
    says(Refusal::NotMember(SPARE, SpareState::Failed), &["spare 3", "failed", "name"]);
    let (is, was) = (Sectors(100), Sectors(200));
    says(Refusal::Shrunk { spare: SPARE, is, was }, &["spare 3", "100", "200", "same part"]);
    let build = BuildError::Missing(BlockIndex(5));
    says(Refusal::Table(build), &[&build.to_string(), "dmremap check"]);
    says(Refusal::Entry(MainSector(77)), &["sector 77", "dmremap check"]);
    says(RebuildError::NoCopy, &["no copy", "check the spares"]);
    says(RebuildError::InDoubt, &["superseded", "check the spares"]);
    says(RebuildError::Commit(CommitError::ReadOnly), &["newer dm-remap"]);
}

#[test]
fn why_no_set_is_created_or_upgraded() {
    let (small, large, at) = (Sectors(100), Sectors(200), SpareSector(4096));
    says(CreateError::Memory, &["no memory"]);
    says(CreateError::Spares, &["1 to 8 spares"]);
    says(CreateError::TooSmall(SPARE, small, large), &["spare 3", "100", "200", "larger"]);
    says(CreateError::Exists(SPARE, set()), &["spare 3", "without `create`", "name"]);
    says(CreateError::Damaged(SPARE, at), &["spare 3", "4096", "dmremap check", "dmremap wipe"]);
    says(CreateError::V3(SPARE), &["spare 3", "dmremap upgrade"]);
    says(CreateError::Foreign(SPARE, at), &["spare 3", "4096", "`overwrite <spare>`"]);
    says(CreateError::Unreadable(SPARE, at), &["spare 3", "4096", "another device"]);
    says(CreateError::OtherCreation(SPARE, set()), &["spare 3", "finish that one"]);
    says(CreateError::Write(COPY), &[&COPY.to_string(), "another device"]);
    says(CreateError::Commit(CommitError::Versions), &["used up"]);
    says(CreateError::Recover(Refusal::Empty(SPARE)), &["spare 3"]);
    says(CreateError::Rebuild(RebuildError::NoCopy), &["no copy"]);

    let inspect = "dmremap inspect";
    says(UpgradeError::Memory, &["no memory"]);
    says(UpgradeError::NotV3, &["v3", inspect]);
    says(UpgradeError::Header, &["v3 header", "main of this spare"]);
    says(UpgradeError::Both(COPY, set()), &[&COPY.to_string(), &set().to_string(), inspect]);
    says(UpgradeError::TooSmall(small, large), &["100", "200", "larger device"]);
    says(UpgradeError::Unreadable(at), &["4096", "another device"]);
    says(UpgradeError::Write(at), &["4096", "another device"]);
    says(UpgradeError::Main(MainSector(77)), &["sector 77 of main"]);
    says(UpgradeError::Place(at), &["4096"]);
    says(UpgradeError::Block(MainSector(77)), &["sector 77 of main", "logical block"]);
    says(UpgradeError::Room(large), &["200", "larger device"]);
    says(UpgradeError::Entries, &["more entries"]);
    says(UpgradeError::Record(at), &["4096", "dmremap check --level forensic"]);
    says(UpgradeError::InUse(set()), &[&set().to_string(), "dmremap repair"]);
}

#[test]
fn what_is_wrong_with_a_header_or_a_block() {
    says(HeaderError::Zero, &["never written"]);
    says(HeaderError::Magic, &["not a header"]);
    says(HeaderError::V3, &["v3", "dmremap upgrade"]);
    says(HeaderError::Format(5), &["format 5", "newer dm-remap"]);
    says(HeaderError::Signature, &["signature"]);
    says(HeaderError::Creating, &["cut short", "`create` again"]);
    says(HeaderError::Structure("set"), &["structure \"set\""]);
    says(HeaderError::Group("core"), &["group \"core\""]);
    says(HeaderError::Whole, &["whole header"]);
    says(HeaderError::Misplaced(COPY), &[&COPY.to_string()]);
    says(HeaderError::Features(0x30), &["0x30", "newer dm-remap"]);
    says(HeaderError::Field("spare"), &["field \"spare\""]);
    // What is newer is not said to be damaged.
    let damaged = |error| Refusal::Damaged { id: COPY, error, highest: 12 };
    let newer = damaged(HeaderError::Format(5)).to_string();
    assert!(!newer.contains("damaged") && newer.contains("newer dm-remap"), "{newer}");
    says(damaged(HeaderError::Whole), &["damaged", &COPY.to_string(), "seen 12", "forensic"]);

    says(BlockError::OtherSet, &["another set"]);
    says(BlockError::Index(BlockIndex(7).0), &["block 7", "wrong place"]);
    says(BlockError::Count(300), &["300 entries"]);
    says(BlockError::Kind(4), &["kind 4"]);
    says(BlockError::Version, &["version"]);
    says(BlockError::NotZero, &["behind its entries"]);

    let (block, other, at) = (BlockIndex(7), BlockIndex(8), MainSector(77));
    says(BuildError::NoMemory, &["no memory"]);
    says(BuildError::Capacity { blocks: 9, capacity: 8 }, &["9 table blocks", "room for 8"]);
    says(BuildError::Index(block), &["block 7", "not among"]);
    says(BuildError::Twice(block), &["block 7", "twice"]);
    says(BuildError::Long(block), &["block 7", "252 entries"]);
    let error = EntryError::Kind(9);
    says(BuildError::Entry { block, slot: 3, error }, &["block 7", "entry 3", "kind 9"]);
    says(BuildError::Order { block, slot: 3 }, &["block 7", "entry 3", "before"]);
    says(BuildError::Overlap { block, other, at }, &["7 and 8", "sector 77 of main"]);
    says(EditError::NoMemory, &["no memory"]);
    says(EditError::Entry(error), &["kind 9"]);
    says(AllocError, &["out of memory"]);
}

#[test]
fn what_a_check_says() {
    says(At::Set, &["the set"]);
    says(At::Structure(COPY, "set"), &[&COPY.to_string(), "structure \"set\""]);
    says(At::Block(COPY, BlockIndex(7)), &[&COPY.to_string(), "block 7"]);
    says(At::Entry(MainSector(77)), &["sector 77 of main"]);
    says(What::Digest, &["digest", "cut short"]);
    says(What::Behind { version: 8, newest: 9 }, &["version 8", "newest is 9"]);
    says(What::Refused(Refusal::Empty(SPARE)), &["not be activated", "spare 3"]);
    let taken = PlaceError::Taken(SpareSector(4096));
    says(What::Place(SPARE, taken), &["spare 3", "4096"]);
    says(What::Count { name: "entries", says: 7, is: 8 }, &["7 entries", "has 8"]);
    says(What::OtherVersion { version: 8, taken: 9 }, &["version 8", "instead of 9"]);
    says(What::Has { blocks: 3, of: 4, header: false }, &["no whole header", "3 of 4"]);
    let (level, at) = (Level::Basic, At::Copy(COPY));
    says(Finding { level, at, what: What::Checksum }, &[&COPY.to_string(), ": checksum"]);
}

#[test]
fn why_members_do_not_change() {
    let (small, large, at) = (Sectors(100), Sectors(200), SpareSector(4096));
    let member = MemberUuid([0x5a; 16]);
    says(JoinError::Commit(CommitError::ReadOnly), &["newer dm-remap"]);
    says(JoinError::TooSmall(small, large), &["100", "200", "larger"]);
    says(JoinError::OtherSet(set()), &[&set().to_string(), "name", "wipe"]);
    says(JoinError::Member(member), &[&member.to_string(), "'repair'"]);
    says(JoinError::Apart(member), &[&member.to_string(), "dmremap check", "wipe"]);
    says(JoinError::Damaged(at), &["4096", "dmremap check", "wipe"]);
    says(JoinError::V3, &["dmremap upgrade"]);
    says(JoinError::Foreign(at), &["4096", "'overwrite'"]);
    says(JoinError::Unreadable(at), &["4096", "another device"]);
    says(JoinError::Write(COPY), &[&COPY.to_string(), "another device"]);
    says(JoinError::Full, &["8 spares", "remove one"]);
    says(ChangeError::InDoubt, &["in doubt", "`save`"]);
    says(ChangeError::Commit(CommitError::Memory), &["no memory"]);
    let stand = Stand { id: COPY, history: 0xab, version: 9, committed: 5 };
    says(ChangeError::Foreign(stand), &["version 9", "stays away", "repair --use"]);
    let older = ChangeError::Older { spare: SPARE, found: 6, durable: 11 };
    says(older, &["spare 3", "version 6", "version 11", "stays away", "in use", "wipe"]);
    says(RewriteError::NoCopy, &["no copy", "check the spares"]);
    says(RewriteError::Commit(CommitError::Versions), &["used up"]);
    says(UpgradeError::Rewrite(RewriteError::NoCopy), &["no copy"]);
}

#[test]
fn why_a_device_is_not_main() {
    says(Differs::Partition, &["partition UUID"]);
    says(Differs::Hardware, &["identifier"]);
    says(Differs::Serial, &["serial number"]);
    says(Differs::Smaller(Sectors(100), Sectors(200)), &["100", "200"]);
    says(Differs::Size(Sectors(200), Sectors(100)), &["200", "100", "--grown"]);
    let shrunk = Differs::Size(Sectors(100), Sectors(200)).to_string();
    assert!(!shrunk.contains("--grown"), "{shrunk}");
    says(Differs::LogicalBlock(4096, 512), &["4096 bytes", "512"]);
    says(Differs::Replacing, &["being replaced", "replace-main --continue"]);
    says(Differs::Copy, &["copies a main"]);
    says(Differs::Attempt, &["another attempt", "replace-main --continue"]);
    says(Differs::Replaced, &["was main", "older"]);
    says(Differs::Same, &["leave out 'new_main'"]);
    says(Differs::NotReplacing, &["leave out 'old_main'"]);
    let had = FilesystemUuid([0x5a; 16]);
    says(Differs::NotCopied(had), &[&had.to_string(), "copy main first"]);
    let mut words = MatchKind::ALL.map(MatchKind::name).to_vec();
    words.dedup();
    assert_eq!((words[0], words.len()), ("copy", 7));
}

#[test]
fn what_is_wrong_with_what_people_write() {
    let word = "wörd";
    says(CommandError::Empty, &["'help'"]);
    says(CommandError::Unknown(word), &[word, "'help'"]);
    says(CommandError::Usage("save", ""), &["'save'", "no argument"]);
    says(CommandError::Usage("remap", "<sector> <count>"), &["usage: remap <sector> <count>"]);
    says(CommandError::Number(word), &[word, "number of sectors"]);
    says(CommandError::Level(word), &[word, "basic", "integrity", "complete", "forensic"]);
    says(CommandError::Member(word), &[word, "'main'", "0 to 7"]);
    says(CommandError::Hint(word), &[word, "serial", "path"]);
    says(CommandError::Serial(word), &[word, "letter or digit"]);
    says(CommandError::Fingerprint, &["hexadecimal"]);
    says(CommandError::Path, &["'/'"]);
    says(CommandError::Scan(word), &[word, "start", "stop", "pause"]);
    says(CommandError::Name(word), &[word, "1 to", "letters"]);
    says(CommandError::EmptyRange, &["at least one sector"]);

    says(LineError::Missing, &["remap <main> <spare>"]);
    says(LineError::Number("#opts", word), &["#opts", word]);
    says(LineError::EmptyPart, &["spare_length"]);
    says(LineError::Count(3, 2), &["3 words", "2"]);
    says(LineError::Unknown(word), &[word]);
    says(LineError::Value(word), &[word, "needs a value"]);
    says(LineError::Twice(word), &[word, "twice"]);
    says(LineError::Both("grow", "create"), &["'grow'", "'create'"]);
    says(LineError::OnlyCreate("name"), &["'name'", "'create'"]);
    says(LineError::NotCreate("absent"), &["'absent'", "without 'create'"]);
    says(LineError::Filesystem(word), &[word, "UUID"]);
    says(LineError::TooManySpares, &["at most 8 spares"]);
    says(LineError::Memory, &["out of memory"]);

    says(EntryError::Unused, &["no entry"]);
    says(EntryError::Kind(9), &["kind 9"]);
    says(EntryError::Length, &["length"]);
    says(EntryError::MainRange, &["main"]);
    says(EntryError::SpareRange, &["spare"]);
    says(EntryError::Spare(12), &["spare 12", "8 at most"]);
    says(EntryError::PendingPlace, &["pending"]);
    says(EntryError::RetiredPlace, &["retired"]);
}

/// What is said of a value that is not taken.
#[track_caller]
fn refused(name: &str, value: &str, limits: &Limits, parts: &[&str]) {
    let (at, error) = Settings::default().set([(name, value)], limits).expect_err(value);
    assert_eq!(at, 0);
    says(error, parts);
}

#[test]
fn what_is_wrong_with_a_setting() {
    let limits = Limits {
        logical_block: Sectors(8),
        spares: SpareSet::one(SpareId(0)),
        ..Limits::default()
    };
    says(SetError::Unknown, &["remap_block", "min_copies", "spare_policy"]);
    refused("no_such", "1", &limits, &["no such setting"]);
    refused("remap_block", "many", &limits, &["remap_block", "number of sectors"]);
    refused("min_copies", "", &limits, &["min_copies", "number of copies"]);
    refused("min_copies", "6", &limits, &["min_copies", "2 to 5 copies"]);
    refused("remap_block", "24", &limits, &["remap_block", "power of two"]);
    refused("remap_block", "4", &limits, &["remap_block", "logical block", "8 sectors"]);
    refused("spare_policy", "best", &limits, &["spare_policy", "fill", "most_free", "healthiest"]);
    refused("primary", "1", &limits, &["primary", "no spare 1"]);
    refused("alert_threshold", "101", &limits, &["alert_threshold", "percent"]);
    refused("auto_remap", "2", &limits, &["auto_remap", "0 off, 1 on"]);
    refused("error_rate_limit", "x", &limits, &["errors a minute"]);
    refused("scan_interval", "x", &limits, &["seconds"]);
    refused("scan_rate", "x", &limits, &["sectors a second"]);
    refused("remap_threshold", "x", &limits, &["times"]);
    says(Settings::default().undo().expect_err("nothing was set"), &["taken back"]);
}

#[test]
fn what_was_accepted_is_put_as_one_change() {
    let limits = Limits::default();
    let find = |name| settings::find(name).expect("a setting");
    let (copies, percent) = (find("min_copies"), find("alert_threshold"));
    let mut all = Settings::default();
    let before = all.get(percent);
    let values = [("3", copies), ("42", percent)]
        .map(|(text, setting)| (setting, setting.parse(text, &limits).expect("a value")));
    all.put_all(&values);
    assert_eq!((all.get(copies), all.get(percent)), (3, 42));
    // Again, it is no change, so what is taken back is the first.
    all.put_all(&values);
    all.undo().expect("it was changed");
    assert_eq!((all.get(copies), all.get(percent)), (copies.default, before));
}

#[test]
fn each_kind_has_a_number_and_a_word_of_its_own() {
    let kinds: Vec<CommitKind> = (1..=12).map(|n| CommitKind::from_raw(n).expect("one")).collect();
    assert!(kinds.iter().enumerate().all(|(n, kind)| *kind as usize == n + 1));
    let mut names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    names.extend((0..=5).map(|n| {
        let state = SpareState::from_raw(n).expect("a state");
        assert_eq!(state as u8, n);
        state.name()
    }));
    names.extend(Policy::ALL.iter().enumerate().map(|(n, policy)| {
        assert_eq!(Policy::of(n as u64), *policy);
        policy.name()
    }));
    assert_eq!(Policy::of(4), Policy::Fill);
    assert_eq!((CommitKind::from_raw(0), CommitKind::from_raw(13)), (None, None));
    assert_eq!(SpareState::from_raw(6), None);
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "{names:?}");
}

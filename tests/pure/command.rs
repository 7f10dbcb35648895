// SPDX-License-Identifier: GPL-2.0

//! Messages, good and bad.

use remap_pure::command::{Command, CommandError, Hint, ScanOrder, COMMANDS};
use remap_pure::format::raw::RawFingerprint;
use remap_pure::identity::{Digits, SerialHash};
use remap_pure::units::{MainSector, Sectors, SpareId};
use remap_pure::validate::Level;

const SPARE: &str = "<add|remove> <device> [<overwrite|lost>]";

fn parse(message: &'static str) -> Result<Command<'static>, CommandError<'static>> {
    let words: Vec<&str> = message.split_whitespace().collect();
    Command::parse(&words)
}

fn migrate(
    from: Option<&'static str>,
    to: &'static str,
    overwrite: bool,
    lost: bool,
) -> Command<'static> {
    Command::Migrate { from, to, overwrite, lost }
}

#[test]
fn good_messages_are_understood() {
    for (message, command) in [
        ("remap 8", Command::Remap(MainSector(8), None)),
        ("remap 8 16", Command::Remap(MainSector(8), Some(Sectors(16)))),
        ("unremap 0 1", Command::Unremap(MainSector(0), Some(Sectors(1)))),
        ("clear", Command::Clear),
        ("verify 7", Command::Verify(MainSector(7))),
        ("table", Command::Table(MainSector(0))),
        ("table 99", Command::Table(MainSector(99))),
        ("save", Command::Save),
        ("restore", Command::Restore),
        ("repair", Command::Repair),
        ("check forensic", Command::Check(Level::Forensic)),
        ("sync", Command::Sync),
        ("stop", Command::Stop),
        ("scan start", Command::Scan(ScanOrder::Start)),
        ("scan stop", Command::Scan(ScanOrder::Stop)),
        ("scan pause", Command::Scan(ScanOrder::Pause)),
        ("metadata_status", Command::MetadataStatus),
        ("set remap_block 8", Command::Set("remap_block", "8")),
        ("get", Command::Get(None)),
        ("get remap_block", Command::Get(Some("remap_block"))),
        ("undo", Command::Undo),
        ("spare add /dev/x", Command::SpareAdd("/dev/x", false)),
        ("spare add /dev/x overwrite", Command::SpareAdd("/dev/x", true)),
        ("spare remove 1", Command::SpareRemove("1", false)),
        ("spare remove /dev/x lost", Command::SpareRemove("/dev/x", true)),
        ("migrate /dev/x", migrate(None, "/dev/x", false, false)),
        ("migrate /dev/x /dev/y", migrate(Some("/dev/x"), "/dev/y", false, false)),
        ("migrate 0 /dev/y overwrite", migrate(Some("0"), "/dev/y", true, false)),
        ("migrate /dev/y overwrite lost", migrate(None, "/dev/y", true, true)),
        ("migrate /dev/y lost overwrite", migrate(None, "/dev/y", true, true)),
        ("migrate /dev/x /dev/y lost", migrate(Some("/dev/x"), "/dev/y", false, true)),
        ("migrate lost", migrate(None, "lost", false, false)),
        (
            "identify main serial WD-123",
            Command::Identify(None, Hint::Serial(SerialHash(0x9cc9_dd94_23e7_0a52))),
        ),
        ("identify 7 path /dev/sda", Command::Identify(Some(SpareId(7)), Hint::Path("/dev/sda"))),
        ("name disk-2", Command::Name("disk-2")),
        ("ping", Command::Ping),
        ("help", Command::Help),
    ] {
        assert_eq!(parse(message), Ok(command), "{message}");
    }
}

#[test]
fn every_listed_message_is_understood_and_wants_its_arguments() {
    for &(name, usage, _) in &COMMANDS {
        let word = |usage: &'static str| match usage {
            "level" => "basic",
            "serial|path|fingerprint" => "serial",
            "add|remove" => "remove",
            "overwrite|lost" | "lost" => "lost",
            "overwrite" => "overwrite",
            "start|stop|pause" => "pause",
            _ => "1",
        };
        let arguments = usage.split('<').skip(1).filter_map(|rest| rest.split('>').next());
        let with: Vec<&str> = core::iter::once(name).chain(arguments.map(word)).collect();
        assert!(Command::parse(&with).is_ok(), "{with:?}");
        let more: Vec<&str> = with.iter().copied().chain(["1"]).collect();
        assert_eq!(Command::parse(&more), Err(CommandError::Usage(name, usage)));
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (message, error) in [
        ("", CommandError::Empty),
        ("scan", CommandError::Usage("scan", "<start|stop|pause>")),
        ("scan begin", CommandError::Scan("begin")),
        ("frobnicate 1", CommandError::Unknown("frobnicate")),
        ("remap", CommandError::Usage("remap", "<sector> [<sectors>]")),
        ("identify 8 serial x", CommandError::Member("8")),
        ("identify 01 serial x", CommandError::Member("01")),
        ("identify spare serial x", CommandError::Member("spare")),
        ("identify main name x", CommandError::Hint("name")),
        ("identify main serial -/-", CommandError::Serial("-/-")),
        ("identify main path sda", CommandError::Path),
        ("identify new fingerprint 12", CommandError::Fingerprint),
        ("identify new serial x", CommandError::Member("new")),
        ("remap x", CommandError::Number("x")),
        ("remap -1", CommandError::Number("-1")),
        ("remap +1", CommandError::Number("+1")),
        ("remap 1 0", CommandError::EmptyRange),
        ("remap 99999999999999999999", CommandError::Number("99999999999999999999")),
        ("set remap_block", CommandError::Usage("set", "<setting> <value>")),
        ("check deep", CommandError::Level("deep")),
        ("name a/b", CommandError::Name("a/b")),
        ("ping pong", CommandError::Usage("ping", "")),
        ("spare mend x", CommandError::Usage("spare", SPARE)),
        ("spare add", CommandError::Usage("spare", SPARE)),
        ("spare add x lost", CommandError::Usage("spare", SPARE)),
        ("spare remove x overwrite", CommandError::Usage("spare", SPARE)),
        (
            "migrate a b c",
            CommandError::Usage("migrate", "[<spare>] <device> [<overwrite>] [<lost>]"),
        ),
    ] {
        assert_eq!(parse(message), Err(error), "{message}");
    }
}

#[test]
fn a_new_main_is_sent_as_the_digits_of_its_fingerprint() {
    let print = RawFingerprint::unknown();
    let digits: &'static str = Digits(&print).to_string().leak();
    let words = ["identify", "new", "fingerprint", digits];
    assert_eq!(Command::parse(&words), Ok(Command::IdentifyNew(digits)));
    let words = ["identify", "new", "fingerprint", &digits[1..]];
    assert_eq!(Command::parse(&words), Err(CommandError::Fingerprint));
}

// SPDX-License-Identifier: GPL-2.0

//! Messages, good and bad.

use remap_pure::command::{Command, CommandError, ScanOrder, COMMANDS};
use remap_pure::units::{MainSector, Sectors};
use remap_pure::validate::Level;

fn parse(message: &'static str) -> Result<Command<'static>, CommandError<'static>> {
    let words: Vec<&str> = message.split_whitespace().collect();
    Command::parse(&words)
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
        ("ping", Command::Ping),
        ("help", Command::Help),
    ] {
        assert_eq!(parse(message), Ok(command), "{message}");
    }
}

#[test]
fn every_listed_message_is_understood_and_wants_its_arguments() {
    for &(name, usage, _) in &COMMANDS {
        let wanted = usage.matches('<').count();
        let word = match usage {
            "<level>" => "basic",
            "<start|stop|pause>" => "pause",
            _ => "1",
        };
        let with: Vec<&str> =
            core::iter::once(name).chain(std::iter::repeat_n(word, wanted)).collect();
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
        ("remap x", CommandError::Number("x")),
        ("remap -1", CommandError::Number("-1")),
        ("remap +1", CommandError::Number("+1")),
        ("remap 1 0", CommandError::EmptyRange),
        ("remap 99999999999999999999", CommandError::Number("99999999999999999999")),
        ("set remap_block", CommandError::Usage("set", "<setting> <value>")),
        ("check deep", CommandError::Level("deep")),
        ("ping pong", CommandError::Usage("ping", "")),
    ] {
        assert_eq!(parse(message), Err(error), "{message}");
    }
}

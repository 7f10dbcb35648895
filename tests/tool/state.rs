//! What a set in use says of itself, taken apart.

use dmremap::draw::{bar, percent};
use dmremap::label::{path_of, Label};
use dmremap::state::State;
use std::fs;
use std::path::Path;

const TEXT: &str = "set 0f1e2d3c-0000-4000-8000-00000000abcd
name an archive of mine
version 17
history 00000000deadbeef
persist degraded
health 0
auto halted
copies 10
good_copies 7
pending 12
lost 4
suspect 3
used 100
room 100
full_in never
scan 41%
scan_state running
main_health 60
something_new yes
match main serial 90
scan_at spare 1 sector 4096
scan_found unreadable 5 slow 64
scan_times started 1700000000 ended 0
spare_health 0 88
spare_health 1 0
spare 0 8:16 2048+65536 active 11111111-0000-4000-8000-000000000000
copy 0.0 sector 0 good version 17
copy 0.1 sector 1024 bad
spare 1 - away 22222222-0000-4000-8000-000000000000
running remap 4096+8192 done 512/8192
running migrate done 3/9
running early move 8+8 done 0/8
running check forensic
ended remap 64+8 moved 8 unreadable 0 ok
ended spare-remove 0+131072 moved 7 unreadable 2 EIO
ended check basic EUCLEAN
last_error spare 1 failed to flush
";

#[test]
fn each_line_is_found_in_its_place() {
    let state = State::parse(TEXT);
    assert_eq!(state.word("name"), "an archive of mine");
    assert_eq!((state.number("version"), state.word("persist")), (17, "degraded"));
    assert_eq!((state.word("history"), state.word("something_new")), ("00000000deadbeef", "yes"));
    let known_by = state.known_by.as_ref().unwrap();
    assert_eq!((&*known_by.what, known_by.certain), ("serial", 90));
    let [first, second] = &state.members[..] else { panic!("{state:?}") };
    assert_eq!((first.device, first.start, first.sectors), (Some((8, 16)), 2048, 65536));
    assert_eq!((first.away, first.health, first.copies.len()), (false, Some(88), 2));
    assert_eq!((&*first.copies[1].state, first.copies[1].version), ("bad", None));
    assert_eq!((second.device, second.away, second.health), (None, true, Some(0)));
    assert_eq!(
        (state.scanning.device.as_deref(), state.scanning.sector),
        (Some("spare 1"), Some(4096))
    );
    assert_eq!((state.scanning.unreadable, state.scanning.slow), (5, 64));
    let running: Vec<_> =
        state.running.iter().map(|run| (&*run.what, run.range, run.done)).collect();
    assert_eq!(
        running,
        [
            ("remap", Some((4096, 8192)), Some((512, 8192))),
            ("migrate", None, Some((3, 9))),
            ("early move", Some((8, 8)), Some((0, 8))),
            ("check forensic", None, None),
        ]
    );
    let ended: Vec<_> = (state.ended.iter())
        .map(|ended| (&*ended.what, ended.range, ended.moved, ended.unreadable, &*ended.result))
        .collect();
    assert_eq!(
        ended,
        [
            ("remap", Some((64, 8)), Some(8), Some(0), "ok"),
            ("spare-remove", Some((0, 131_072)), Some(7), Some(2), "EIO"),
            ("check basic", None, None, None, "EUCLEAN"),
        ]
    );
    assert_eq!(state.last_error.as_deref(), Some("spare 1 failed to flush"));
    // All that is wrong, and nothing else.
    let troubles = state.troubles().join("\n");
    for part in [
        "8 sectors of main cannot be read",
        "4 sectors are lost",
        "3 sectors cannot be read on the spares",
        "not every copy",
        "spare 1 is away (22222222",
        "nothing is moved by itself",
        "the spares are full",
    ] {
        assert!(troubles.contains(part), "{part}:\n{troubles}");
    }
    let well = State::parse("health 1\npersist enabled\nroom 10\nused 0\nlast_error none\n");
    assert!(well.troubles().is_empty() && well.last_error.is_none() && well.is_healthy());
    assert_eq!(State::parse("health 0\n").troubles(), ["a device is in a bad way"]);
}

#[test]
fn as_json_numbers_are_numbers_and_nothing_is_lost() {
    let json = serde_json::to_value(State::parse(TEXT)).unwrap();
    assert_eq!((&json["pending"], &json["main_health"]), (&12.into(), &60.into()));
    assert_eq!((&json["full_in"], &json["scan"]), (&"never".into(), &"41%".into()));
    assert_eq!(json["members"][1]["away"], true);
    assert_eq!(json["running"][1]["done"], serde_json::json!([3, 9]));
    // A name of digits is a name.
    assert_eq!(serde_json::to_value(State::parse("name 17\n")).unwrap()["name"], "17");
    // What is cut off or garbled is no reason to fail.
    for end in 0..TEXT.len() {
        State::parse(&TEXT[..end]);
        State::parse(&TEXT[end..]);
    }
}

#[test]
fn a_bar_is_empty_only_for_nothing_and_full_only_for_all() {
    assert_eq!(bar(0, 1000, 4, false), "----");
    assert_eq!(bar(1, 1000, 4, false), "#---");
    assert_eq!(bar(500, 1000, 4, false), "##--");
    assert_eq!(bar(999, 1000, 4, false), "###-");
    assert_eq!(bar(1000, 1000, 4, false), "####");
    assert_eq!(bar(u64::MAX, u64::MAX, 4, true), "████");
    assert_eq!(bar(5, 0, 4, false), "####");
    assert_eq!(
        (percent(0, 9).as_str(), percent(1, 1000).as_str(), percent(999, 1000).as_str()),
        ("0%", "<1%", "99%")
    );
}

#[test]
fn a_device_is_called_by_its_path_its_maker_and_its_number() {
    let root = std::env::temp_dir().join(format!("dmremap-label-{}", std::process::id()));
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("sys/dev/block/8:0/uevent", "MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n");
    put("sys/dev/block/8:0/dev", "8:0\n");
    put("sys/dev/block/8:0/size", "2048\n");
    put("sys/dev/block/8:0/device/model", "SPINNER 2000    \n");
    put("sys/dev/block/8:0/device/vendor", "ATA     \n");
    put("sys/dev/block/8:0/serial", "X-1\n");
    put("sys/dev/block/253:1/dm/name", "top\n");
    let label = Label::of(&root, 8, 0);
    assert_eq!((&*label.path, label.sectors), ("/dev/sda", Some(2048)));
    assert_eq!(
        (label.model.as_deref(), label.serial.as_deref()),
        (Some("SPINNER 2000"), Some("X1"))
    );
    assert_eq!(path_of(&root, 253, 1).as_deref(), Some("/dev/mapper/top"));
    // A virtio disk's vendor is a number, and it has no model; udev may.
    put("sys/dev/block/8:0/device/vendor", "0x1af4\n");
    fs::remove_file(root.join("sys/dev/block/8:0/device/model")).unwrap();
    assert_eq!(Label::of(&root, 8, 0).model, None);
    put("run/udev/data/b8:0", "E:ID_MODEL=From_udev\n");
    assert_eq!(Label::of(&root, 8, 0).model.as_deref(), Some("From udev"));
    assert_eq!(Label::of(Path::new(&root), 9, 9).path, "9:9");
    fs::remove_dir_all(&root).unwrap();
}

//! `/etc/dmremap.conf`: what it says, and which device it means.

use dmremap::configuration::{without, Auto, Candidate, Configuration, Entry, Hints};
use dmremap::devices::Known;
use remap_pure::format::SetUuid;
use remap_pure::identity::HardwareId;
use std::fs;
use std::process::Command;

const UUID: &str = "61206e20-696d-6167-6527-732075756964";

fn set() -> SetUuid {
    SetUuid(*b"a n image's uuid")
}

fn entry(words: &str) -> Entry {
    let (read, mistakes) = Configuration::parse(format!("SET uuid={UUID} {words}\n").as_bytes());
    assert_eq!(mistakes, []);
    read.sets.into_iter().next().unwrap()
}

#[test]
fn a_text_is_read_and_a_mistake_costs_its_line_only() {
    let text = format!(
        "# sets\nAUTO listed # not the others\nSET name=disk uuid={UUID}\n\tmain=/dev/disk/by-id/ata-A\n  # and\n  sectors=100\n\
         SET name=x\nMAILADDR root\nprogram /bin/true\nSET uuid=123\nRAID a\nAUTO some\nSET uuid={UUID} size=3\n"
    );
    let (read, mistakes) = Configuration::parse(text.as_bytes());
    assert_eq!(read.auto, Auto::Listed);
    let main = Hints {
        paths: vec!["/dev/disk/by-id/ata-A".into()],
        sectors: Some(100),
        ..Hints::default()
    };
    assert_eq!(read.sets, [Entry { uuid: set(), name: Some("disk".into()), auto: None, main }]);
    let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "line 7: a SET needs its uuid=",
            "line 10: 123 is no UUID",
            "line 11: a line begins with SET, AUTO, MAILADDR, PROGRAM, PROMETHEUS, not RAID",
            "line 12: AUTO is all, listed or none, not some",
            "line 13: there is no size=",
        ]
    );
    let line = read.sets[0].to_string();
    assert_eq!(line, format!("SET name=disk uuid={UUID} main=/dev/disk/by-id/ata-A sectors=100"));
    assert_eq!(Configuration::parse(line.as_bytes()).0.sets, read.sets);
}

#[test]
fn a_size_alone_says_of_no_device_that_it_is_main() {
    assert!(!entry("").main.say_which());
    assert!(!entry("name=disk sectors=100").main.say_which());
    for key in ["main=/dev/sda", "partuuid=1", "wwn=1", "serial=1", "fsuuid=1"] {
        assert!(entry(&format!("{key} sectors=100")).main.say_which(), "{key}");
    }
}

#[test]
fn a_set_is_taken_out_of_a_text_and_all_else_stays() {
    let other = "71206e20-696d-6167-6527-732075756964";
    let text = format!("# sets\nAUTO listed\nSET uuid={UUID} serial=A\n  # of the old one\n  sectors=100\n\nSET uuid={other}\nMAILADDR x\nSET uuid={UUID} serial=B");
    let rest = format!("# sets\nAUTO listed\n\nSET uuid={other}\nMAILADDR x\n");
    assert_eq!(without(text.as_bytes(), |entry| entry.uuid == set()), rest.as_bytes());
    let rest = format!("{rest}SET uuid={UUID} serial=B");
    assert_eq!(
        without(text.as_bytes(), |entry| entry.main.serial.as_deref() == Some("A")),
        rest.as_bytes()
    );
    assert_eq!(without(text.as_bytes(), |_| false), text.as_bytes());
}

#[test]
fn a_line_that_is_not_utf8_costs_none_but_itself() {
    let other = "71206e20-696d-6167-6527-732075756964";
    let text = [
        &b"# B\xFCro\nAUTO listed # B\xFCro\nSET name=b\xFCro uuid="[..],
        other.as_bytes(),
        b"\n  sectors=8\nSET uuid=",
        UUID.as_bytes(),
        b" # im B\xFCro\n  main=/dev/sda\nRAID \xFC\nMAILADDR root",
    ]
    .concat();
    let (read, mistakes) = Configuration::parse(&text);
    assert_eq!(read.auto, Auto::Listed);
    let main = Hints { paths: vec!["/dev/sda".into()], ..Hints::default() };
    assert_eq!(read.sets, [Entry { uuid: set(), main, ..Entry::default() }]);
    let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["line 3: is not UTF-8; write it as UTF-8", "line 7: is not UTF-8; write it as UTF-8"]
    );
    // And stays as it is where another is taken out.
    let rest = without(&text, |entry| entry.uuid == set());
    let tail = b"RAID \xFC\nMAILADDR root";
    let head = text.iter().position(|byte| *byte == b'8').unwrap() + 2;
    assert_eq!(rest, [&text[..head], tail].concat());
    assert_eq!(without(&text, |_| false), text);
}

#[test]
fn a_set_is_assembled_unasked_as_the_configuration_says() {
    let other = SetUuid([7; 16]);
    for (text, this, that) in [
        ("", true, true),
        ("AUTO listed\nSET uuid=UUID\n", true, false),
        ("AUTO none\nSET uuid=UUID\n", false, false),
        ("AUTO none\nSET uuid=UUID auto=yes\n", true, false),
        ("SET uuid=UUID auto=no\n", false, true),
    ] {
        let (read, mistakes) = Configuration::parse(text.replace("UUID", UUID).as_bytes());
        assert_eq!(mistakes, []);
        assert_eq!((read.assembles(&set()), read.assembles(&other)), (this, that), "{text}");
    }
}

#[test]
fn a_main_is_known_by_what_it_cannot_share_with_another() {
    let bytes = *b"\x50\x01\x02\x03\x04\x05\x06\x07\0\0\0\0\0\0\0\0";
    let known = Known {
        partition_uuid: None,
        hardware_id: Some(HardwareId { kind: 3, len: 8, bytes }),
        serial: Some("WD12".into()),
        path: None,
        ..Known::default()
    };
    let disk = Candidate {
        known: known.clone(),
        is_partition: false,
        links: vec!["/dev/sda", "/dev/disk/by-id/ata-A"],
        filesystem: Some("0A1B-2C3D"),
        sectors: 1000,
    };
    let part = Candidate {
        known: Known { partition_uuid: Some("0a1b2c3d-01".into()), ..known },
        is_partition: true,
        links: vec!["/dev/sda1"],
        filesystem: None,
        sectors: 900,
    };
    for (words, is_disk, is_part) in [
        ("", false, false),
        ("sectors=1000", false, false),
        ("serial=wd-12", true, false),
        ("serial=wd-12 sectors=900", false, true),
        ("serial=wd-12 sectors=901", false, false),
        ("serial=other main=/dev/disk/by-id/ata-A", false, false),
        ("wwn=0x5001020304050607", true, false),
        ("wwn=0x5001020304050608 serial=wd12", false, false),
        ("main=/dev/sda1", false, true),
        ("main=/dev/sdb main=/dev/disk/by-id/ata-A", true, false),
        ("main=/dev/disk/by-id/ata-A sectors=999", false, false),
        ("fsuuid=0a1b-2c3d", true, false),
        ("partuuid=0A1B2C3D-01", false, true),
        // It grew.
        ("partuuid=0A1B2C3D-01 sectors=800", false, true),
        ("partuuid=0A1B2C3D-02 serial=wd12 sectors=900", false, false),
        ("partuuid=0A1B2C3D-02 main=/dev/sda1", false, false),
    ] {
        let hints = entry(words).main;
        assert_eq!((hints.fit(&disk), hints.fit(&part)), (is_disk, is_part), "{words}");
    }
}

#[test]
fn what_is_no_block_device_is_of_no_set() {
    let file = std::env::temp_dir().join(format!("dmremap-{}-hides", std::process::id()));
    fs::write(&file, "text").unwrap();
    for (device, says) in
        [(file.to_str().unwrap(), "is no block device"), ("/dev/nothing", "No such file")]
    {
        let output =
            Command::new(env!("CARGO_BIN_EXE_dmremap")).args(["hides", device]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
    }
    fs::remove_file(file).unwrap();
}

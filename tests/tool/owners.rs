//! What the tools of filesystems say, taken apart.

use dmremap::extents::{Extent, Kind};
use dmremap::owners::{btrfs, ext4, joined, lies_on, xfs, Owned, Owner, Piece};

fn piece(at: u64, start: u64, len: u64) -> Piece {
    Piece { at, extent: Extent { start, len, kind: Kind::Pending } }
}

#[test]
fn a_piece_is_followed_through_what_lies_on_what() {
    let whole = piece(1000, 1000, 100);
    // A partition from sector 1010 on.
    assert_eq!(whole.within(1010, 20, 0), Some(piece(0, 1010, 20)));
    assert_eq!(whole.within(0, 1005, 7), Some(piece(1007, 1000, 5)));
    assert_eq!(whole.within(1100, 50, 0), None);
    assert_eq!(whole.within(0, 1000, 0), None);
    assert_eq!(
        whole.without(&[(1010, 20), (990, 12)]),
        [piece(1002, 1002, 8), piece(1030, 1030, 70)]
    );
    assert_eq!(whole.without(&[]), [whole]);
    assert!(whole.without(&[(0, u64::MAX)]).is_empty());
    // Blocks of 4 KiB that it lies in, in part.
    let blocks = piece(6, 106, 12).blocks(8);
    assert_eq!(blocks, [(0, piece(6, 106, 2)), (1, piece(8, 108, 8)), (2, piece(16, 116, 2))]);

    assert_eq!(lies_on("linear", "253:0 2048"), Some(((253, 0), 2048)));
    assert_eq!(
        lies_on("crypt", "aes-xts-plain64 :32:logon:x 0 8:1 32768 1 allow_discards"),
        Some(((8, 1), 32768))
    );
    assert_eq!(lies_on("striped", "2 128 8:0 0 8:16 0"), None);
    assert_eq!(lies_on("linear", "/dev/sda 0"), None);
}

#[test]
fn neighbours_of_one_owner_are_one() {
    let owned = |start, owner: &Owner| Owned {
        start,
        len: 8,
        kind: Kind::Pending,
        on: "/dev/x".into(),
        content: "ext4".into(),
        owner: owner.clone(),
    };
    let file = Owner::File { inode: Some(12), paths: vec!["/a".into()] };
    let all = joined(vec![
        owned(16, &file),
        owned(0, &file),
        owned(8, &file),
        owned(24, &Owner::Free),
        owned(40, &Owner::Free),
    ]);
    let runs: Vec<_> = all.iter().map(|owned| (owned.start, owned.len)).collect();
    assert_eq!(runs, [(0, 24), (24, 8), (40, 8)]);
}

#[test]
fn debugfs_is_understood() {
    assert_eq!(
        ext4::block_size("Block count:              65536\nBlock size:               1024\n"),
        Some(1024)
    );
    assert_eq!(ext4::block_size("Block size: 0\n"), None);
    let text = "debugfs: icheck 4418 1 20000\nBlock\tInode number\n4418\t14\n1\t<block not found>\n20000\t8\n";
    let found: Vec<_> = ext4::icheck(text).into_iter().collect();
    assert_eq!(found, [(1, None), (4418, Some(14)), (20000, Some(8))]);
    let text = "debugfs: testb 1\nBlock 1 marked in use\nBlock 9 not in use\n";
    assert_eq!(ext4::testb(text).into_iter().collect::<Vec<_>>(), [(1, true), (9, false)]);
    let text =
        "debugfs: ncheck 13 14\nInode\tPathname\n13\t//d\n14\t/d/with  blanks\n14\t/d/a link\n";
    let paths = ext4::ncheck(text);
    assert_eq!(paths[&13], ["/d"]);
    assert_eq!(paths[&14], ["/d/with  blanks", "/d/a link"]);
    assert_eq!(
        ext4::owner(14, paths.get(&14)),
        Owner::File { inode: Some(14), paths: paths[&14].clone() }
    );
    assert_eq!(ext4::owner(8, None), Owner::Metadata { of: "the journal".into() });
    assert_eq!(ext4::owner(2, None), Owner::File { inode: Some(2), paths: vec!["/".into()] });
    assert_eq!(ext4::owner(99, None), Owner::File { inode: Some(99), paths: vec![] });
}

#[test]
fn the_tools_of_xfs_are_understood() {
    let text = "EXT,MAJOR,MINOR,PSTART,PEND,OWNER,OSTART,OEND,LENGTH\n\
        0,253,0,0,7,static fs metadata,,,8\n\
        1,253,0,192,783,inode 131 data,0,591,592\n\
        2,253,0,784,791,inode 132 data extent map,,,8\n\
        3,253,0,800,900,free space,,,101\n\
        4,253,0,901,910,unknown,,,10\n";
    let runs = xfs::fsmap(text);
    assert_eq!(runs.len(), 5);
    assert_eq!((runs[1].start, runs[1].last), (192, 783));
    let owners: Vec<_> = runs.into_iter().map(|run| run.owner).collect();
    let file = |inode| Some(Owner::File { inode: Some(inode), paths: vec![] });
    assert_eq!(owners[0], Some(Owner::Metadata { of: "static fs metadata".into() }));
    assert_eq!((&owners[1], &owners[2]), (&file(131), &file(132)));
    assert_eq!((&owners[3], &owners[4]), (&Some(Owner::Free), &None));

    let text = "block 0 (0/0) type sb\nblock 24 (0/24) type data inode 131 sub/a name\nblock 1000 (0/1000) type free2\n\
        block 30 (0/30) type dir inode 132 sub/.\nblock 31 (0/31) type data inode 9\nblock 40 (0/40) type unknown\n";
    let owners = xfs::blockuse(text);
    assert_eq!(owners.len(), 6);
    assert_eq!(owners[0], Owner::Metadata { of: "sb".into() });
    assert_eq!(owners[1], Owner::File { inode: Some(131), paths: vec!["/sub/a name".into()] });
    assert_eq!(owners[2], Owner::Free);
    assert_eq!(owners[3], Owner::File { inode: Some(132), paths: vec!["/sub".into()] });
    assert_eq!(owners[4], Owner::File { inode: Some(9), paths: vec![] });
    assert!(matches!(owners[5], Owner::Unknown { .. }));
}

#[test]
fn the_chunks_of_btrfs_are_understood() {
    assert_eq!(btrfs::device("dev_item.uuid\t\tx\ndev_item.devid\t\t3\n"), Some(3));
    let chunk = |at: u64, kind: &str, stripes: &[(u64, u64)]| {
        let mut text = format!(
            "\titem 1 key (FIRST_CHUNK_TREE CHUNK_ITEM {at}) itemoff 16105 itemsize 80\n\
             \t\tlength 8388608 owner 2 stripe_len 65536 type {kind}\n\t\tnum_stripes {} sub_stripes 1\n",
            stripes.len()
        );
        for (i, (device, at)) in stripes.iter().enumerate() {
            text += &format!("\t\t\tstripe {i} devid {device} offset {at}\n\t\t\tdev_uuid x\n");
        }
        text
    };
    let text = format!(
        "chunk tree\n{}{}{}{}",
        chunk(13_631_488, "DATA|single", &[(1, 100 << 20)]),
        chunk(22_020_096, "METADATA|DUP", &[(1, 200 << 20), (1, 300 << 20)]),
        chunk(33_554_432, "DATA|RAID1", &[(1, 400 << 20), (2, 500 << 20)]),
        chunk(50_331_648, "DATA|RAID0", &[(1, 600 << 20), (2, 600 << 20)]),
    );
    let stripes = btrfs::stripes(&text);
    assert_eq!(stripes.len(), 7);
    let at = |device, mib: u64| btrfs::find(&stripes, device, (mib << 20) + 4096);
    assert_eq!(at(1, 100).unwrap().logical, Some(13_631_488));
    assert_eq!(at(1, 300).unwrap().of, "METADATA");
    assert_eq!(at(2, 500).unwrap().logical, Some(33_554_432));
    assert_eq!(at(1, 600).unwrap().logical, None);
    assert!(at(2, 100).is_none() && at(1, 108).is_none());

    let text = "of 4096\n/mnt/a file\n/mnt/snapshot/a file\nended 0\nof 8192\nERROR: logical ino ioctl: No such file or directory\nended 1\n\
        of 12288\nERROR: cannot open\nended 1\n";
    let found = btrfs::resolved(text);
    assert_eq!(
        found[0],
        (
            4096,
            Owner::File {
                inode: None,
                paths: vec!["/mnt/a file".into(), "/mnt/snapshot/a file".into()]
            }
        )
    );
    assert_eq!(found[1], (8192, Owner::Free));
    assert_eq!(found[2], (12288, Owner::Unknown { why: "ERROR: cannot open".into() }));
}

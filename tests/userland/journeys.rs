//! From a failing drive to its successor, on a machine as people have it: with a filesystem, LVM, LUKS and partitions on the drive, by what the
//! documents say, and with nothing but `dmremap`.

use crate::{come_up, node};
use remap_harness::{Drive, Machine, System};
use std::time::Duration;

const MIB: u64 = 2048;

/// What stands on a drive of the machine when dm-remap comes to it.
struct Kind {
    /// The name of the drive, of the set, and of the place where it is mounted.
    name: &'static str,
    /// Makes it on `$main`, and mounts it on `$at`.
    make: &'static str,
    /// Ends that it is used, but for the mount.
    end: &'static str,
    /// What `/etc/fstab` has.
    fstab: &'static str,
    /// What has to be said of it when a set is created.
    caution: &'static str,
    /// The mapped device that is mounted, when the set is there.
    mounted: &'static str,
}

const OPTIONS: &str = "nofail,x-systemd.device-timeout=60s 0 0";

const KINDS: [Kind; 4] = [
    Kind {
        name: "home",
        make: "mkfs.ext4 -q -U 1f0e2d3c-4b5a-4697-8879-6a5b4c3d2e1f $main && mount $main $at",
        end: "true",
        fstab: "UUID=1f0e2d3c-4b5a-4697-8879-6a5b4c3d2e1f",
        caution: "a filesystem of ext4",
        mounted: "/dev/mapper/home",
    },
    Kind {
        name: "volumes",
        make: "pvcreate -q $main && vgcreate -q vg $main && lvcreate -q -l 100%FREE -n lv vg && mkfs.ext4 -q /dev/vg/lv && mount /dev/vg/lv $at",
        end: "vgchange -q -an vg",
        fstab: "/dev/vg/lv",
        caution: "global_filter = [ \"r|^/dev/disk/by-id/virtio-volumes$|\" ]",
        mounted: "/dev/mapper/vg-lv",
    },
    Kind {
        name: "secret",
        make: "cryptsetup -q luksFormat --uuid 2f0e2d3c-4b5a-4697-8879-6a5b4c3d2e1f --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $main /etc/key && \
            cryptsetup open --key-file /etc/key $main safe && mkfs.ext4 -q /dev/mapper/safe && mount /dev/mapper/safe $at",
        end: "cryptsetup close safe",
        fstab: "/dev/mapper/safe",
        caution: "crypto_LUKS",
        mounted: "/dev/mapper/safe",
    },
    Kind {
        name: "parts",
        make: "printf 'label: gpt\\n,2M\\n,\\n' | sfdisk -q $main && udevadm settle --timeout=600 && \
            mkfs.ext4 -q -U 3f0e2d3c-4b5a-4697-8879-6a5b4c3d2e1f $main-part2 && mount $main-part2 $at",
        end: "true",
        fstab: "UUID=3f0e2d3c-4b5a-4697-8879-6a5b4c3d2e1f",
        caution: "its partitions are /dev/mapper/parts-part1 and so on",
        mounted: "/dev/mapper/parts-part2",
    },
];

impl Kind {
    /// A command for it.
    fn told(&self, command: &str) -> String {
        let (name, number) = (self.name, self.number());
        format!(
            "main=/dev/disk/by-id/virtio-{name} spare=/dev/disk/by-id/virtio-spares-part{number} at=/{name}; {command}"
        )
    }

    /// Which one it is, from 1 on, and which partition its spare.
    fn number(&self) -> usize {
        KINDS.iter().position(|kind| kind.name == self.name).unwrap_or(0) + 1
    }

    /// It is mounted through its set, which stands on this drive, and all that was put there is there.
    #[track_caller]
    fn check(&self, machine: &Machine, main: &Drive) {
        let (name, mounted) = (self.name, self.mounted);
        assert_eq!(machine.ok(&format!("findmnt -n -o SOURCE /{name}")), mounted);
        let below = machine.ok(&format!("lsblk -n -s -l -o PATH {mounted}"));
        assert!(below.contains(&format!("/dev/mapper/{name}")), "{below}");
        assert!(below.contains(&node(machine, main)), "{below}");
        machine.ok(&format!(
            "echo 3 >/proc/sys/vm/drop_caches; cd /{name} && sha256sum --quiet -c sums"
        ));
    }
}

/// All that somebody could use in place of a set.
#[track_caller]
fn nothing_uses_raw_mains(machine: &Machine) {
    for kind in &KINDS {
        machine.fails(&format!("findmnt /{}", kind.name));
        machine.fails(&format!("mount {} /mnt", kind.fstab));
    }
    assert_eq!(machine.ok("dmsetup ls"), "No devices found");
    assert_eq!(machine.ok("pvs --noheadings -o pv_name"), "");
    let links = "find /dev/disk/by-uuid /dev/disk/by-label /dev/disk/by-partuuid -type l -printf '%f ' 2>/dev/null || true";
    assert_eq!(
        machine.ok(links).split(' ').count(),
        2,
        "those of the root filesystem, and no more"
    );
}

fn boot<'a>(system: &System, with: impl Iterator<Item = &'a Drive>) -> Machine {
    let builder = Machine::builder().system(system);
    with.fold(builder, |builder, drive| builder.drive(drive)).boot()
}

/// What `update-initramfs -u` would put into the initramfs of the machine, which boots from one that is outside of it.
fn updated(system: System, machine: &Machine) -> System {
    ["etc/dmremap.conf", "etc/lvm/lvm.conf"].into_iter().fold(system, |system, path| {
        let content = machine.get(&format!("/{path}"));
        system.with_in_initrd(path, &String::from_utf8_lossy(&content))
    })
}

#[test]
fn drives_of_every_kind_are_put_under_dm_remap_and_outlive_themselves() {
    let mut system = System::installed();
    let drives: Vec<Drive> = KINDS.iter().map(|kind| Drive::blank(kind.name, 80 * MIB)).collect();
    let home = &drives[0];
    let spares = Drive::blank("spares", 160 * MIB);
    let new = Drive::blank("new", 96 * MIB);
    let all = || drives.iter().chain([&spares, &new]);

    // A machine without dm-remap in use, whose drives begin to fail.
    let machine = boot(&system, all());
    come_up(&machine);
    machine.ok("printf 'label: gpt\n,24M\n,24M\n,24M\n,24M\n,24M\n' | sfdisk -q /dev/disk/by-id/virtio-spares");
    machine.ok(
        "head -c 64 /dev/urandom >/etc/key && chmod 400 /etc/key && udevadm settle --timeout=600",
    );
    for kind in &KINDS {
        let fill = "cp -a /etc/lvm /usr/lib/udev $at && head -c 6M /dev/urandom >$at/old";
        let (make, fstab) = (kind.make, kind.fstab);
        machine.ok(&kind.told(&format!("mkdir -p $at && {make} && {fill} && umount $at")));
        machine.ok(&kind.told(&format!("{} && udevadm settle --timeout=600", kind.end)));
        machine.ok(&kind.told(&format!("echo {fstab} $at ext4 {OPTIONS} >>/etc/fstab")));
    }
    machine.ok("echo safe UUID=2f0e2d3c-4b5a-4697-8879-6a5b4c3d2e1f /etc/key nofail,x-systemd.device-timeout=60s >>/etc/crypttab");

    // In place.
    for sector in (20_000..160_000).step_by(4_000) {
        home.fail_writes(sector..sector + 8);
    }
    for kind in &KINDS {
        let said = machine
            .ok(&kind.told(&format!("dmremap create --yes --name {} $main $spare", kind.name)));
        assert!(said.contains(kind.caution), "{said}");
        assert!(said.contains("/etc/dmremap.conf says now that /dev/disk/by-id/virtio-"), "{said}");
        assert!(said.contains("update-initramfs -u"), "{said}");
    }
    let lines = "grep ^SET /etc/dmremap.conf | sed 's/^SET //; s/name=[^ ]* //' | sort";
    let printed = "dmremap config | sed 's/^SET //; s/name=[^ ]* //' | sort";
    assert_eq!(machine.ok(lines), machine.ok(printed));
    machine.ok("sed -i 's,^devices {,&\\nglobal_filter = [ \"r|^/dev/disk/by-id/virtio-volumes$|\" ],' /etc/lvm/lvm.conf");
    assert_eq!(machine.ok("pvs --noheadings -o pv_name"), "/dev/mapper/volumes");
    machine.ok("systemctl daemon-reload && udevadm settle --timeout=600 && vgchange -q -ay vg && systemctl start systemd-cryptsetup@safe && mount -a");
    for (kind, drive) in KINDS.iter().zip(&drives) {
        machine.ok(&kind.told("head -c 24M /dev/urandom >$at/new && sync && cd $at && find . -type f ! -name sums -exec sha256sum {} + >sums"));
        kind.check(&machine, drive);
    }
    let moved = machine.ok("dmremap status home");
    assert!(!moved.contains("remapped   0"), "{moved}");

    // A set with partitions on it goes with them, unless one is in use; and comes back with them.
    let users = machine.fails("dmremap stop parts");
    assert!(
        users.contains("/dev/mapper/parts-part2 is mounted on /parts (umount /parts)"),
        "{users}"
    );
    assert!(!users.contains("parts-part1"), "{users}");
    machine.ok("umount /parts && dmremap stop parts && ! ls /dev/mapper/parts*");
    machine.ok("dmremap assemble parts && udevadm settle --timeout=600 && mount /parts");
    system = updated(system, &machine);
    machine.shutdown();

    // The next boot finds all by itself, with other names for its devices.
    let machine = boot(&system, all().collect::<Vec<_>>().into_iter().rev());
    come_up(&machine);
    for (kind, drive) in KINDS.iter().zip(&drives) {
        kind.check(&machine, drive);
    }
    assert_eq!(machine.ok("systemctl is-active dmremap-monitor"), "active");

    // The spare is replaced, then the drive, while it is in use. What replaces it goes away, and the machine with it.
    let load = machine.start(
        "while head -c 1M /dev/urandom >/home/load && sync -f /home/load; do sleep 0.1; done",
    );
    let (spare, other) =
        ("/dev/disk/by-id/virtio-spares-part1", "/dev/disk/by-id/virtio-spares-part5");
    machine.ok(&format!("dmremap spare replace --yes home {spare} {other}"));
    // It takes long enough to be told to stop in the middle.
    new.slow_down(0..new.sectors(), Duration::from_millis(30));
    let replace = machine.start("dmremap replace-main --yes home /dev/disk/by-id/virtio-new");
    machine.ok("until dmsetup table home-replace 2>/dev/null | grep clone; do sleep 0.1; done; sleep 1; for of in /proc/[0-9]*; do grep -qzx replace-main $of/cmdline && kill -INT ${of#/proc/}; done; true");
    let said = replace.wait_for(Duration::from_secs(600));
    load.kill();
    new.heal(0..new.sectors());
    assert!(said.stderr.contains("dmremap replace-main --continue home"), "{said:?}");
    assert!(
        said.stderr
            .contains("/etc/dmremap.conf says now that /dev/disk/by-id/virtio-new is its main"),
        "{said:?}"
    );
    KINDS[0].check(&machine, &new);
    system = updated(system, &machine);
    machine.shutdown();

    // All spares come late, and only now. What is half copied is not taken for what it is not.
    spares.set_gone(true);
    let machine = boot(&system, all());
    come_up(&machine);
    nothing_uses_raw_mains(&machine);
    spares.set_gone(false);
    machine.ok("blockdev --rereadpt /dev/disk/by-id/virtio-spares");
    for path in ["/dev/vg/lv", "/dev/mapper/parts-part2"] {
        machine.ok(&format!("for i in $(seq 200); do udevadm settle --timeout=600; [ ! -e {path} ] || exit 0; sleep 1; done; exit 1"));
    }
    machine.ok("systemctl start systemd-cryptsetup@safe");
    assert!(machine.ok("dmremap scan").contains("set home"), "it is there");
    let said = machine.fails("dmremap assemble home");
    assert!(said.contains("'dmremap replace-main --continue home'"), "{said}");
    assert!(machine
        .ok("journalctl -b -u 'dmremap-assemble@*'")
        .contains("'dmremap replace-main --continue home'"));
    // With nofail nothing is said.
    machine.run("mount /home");
    machine.fails("findmnt /home");
    let said = machine.ok("dmremap replace-main --continue --clear home");
    assert!(said.contains("nothing was lost"), "{said}");
    machine.ok("mount -a");
    for (kind, drive) in KINDS.iter().zip([&new, &drives[1], &drives[2], &drives[3]]) {
        kind.check(&machine, drive);
    }
    machine.shutdown();

    // From then on all is as it was, though the old drive is still there.
    let machine = boot(&system, all());
    come_up(&machine);
    for (kind, drive) in KINDS.iter().zip([&new, &drives[1], &drives[2], &drives[3]]) {
        kind.check(&machine, drive);
    }
    machine.shutdown();
}

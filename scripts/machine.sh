# Sourced by what makes machines, after lib.sh and debian.sh: of a folder with a Debian that has dm-remap installed, a disk that boots.
# shellcheck shell=bash

# What the agent is, which the harness talks to.
GUEST=build/cargo/x86_64-unknown-linux-gnu/release/guest
# The root filesystem of a machine is found by this.
MACHINE_UUID=7d1e7b52-6f0b-4f3a-9b51-0c4a5c0de001

# Makes ROOT a machine of the harness that runs the kernel RELEASE, and OUT/image, OUT/initrd and OUT/env of it; ROOT is used up.
machine_of() {
    local stage=$1 release=$2 kernel=$3 out=$4 log=$5 unit size
    install -m 755 "$GUEST" "$stage/usr/bin/guest"
    cp -a --no-preserve=ownership tests/userland/machine/. "$stage/"
    # Services that a machine of a minute has no use for, and that cost it seconds.
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
        getty@.service serial-getty@.service console-getty.service getty-static.service ldconfig.service lvm2-monitor.service modprobe@.service \
        systemd-binfmt.service systemd-firstboot.service systemd-hwdb-update.service systemd-journal-catalog-update.service \
        systemd-journal-flush.service systemd-logind.service systemd-networkd.service systemd-pstore.service systemd-random-seed.service \
        systemd-tpm2-setup.service systemd-tpm2-setup-early.service systemd-udev-load-credentials.service systemd-update-done.service \
        systemd-update-utmp.service systemd-user-sessions.service dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount \
        sys-kernel-config.mount sys-kernel-tracing.mount; do
        ln -sf /dev/null "$stage/etc/systemd/system/$unit"
    done
    echo 5b1f3c0de57a4f0b8d0e2f6a7c9b1d35 >"$stage/etc/machine-id"
    echo machine >"$stage/etc/hostname"
    : >"$stage/etc/fstab"
    touch "$stage/etc/.updated" "$stage/var/.updated"
    # The few modules that a disk of a machine needs; `most` would be unpacked anew at each boot.
    sed -i 's/^MODULES=.*/MODULES=list/' "$stage/etc/initramfs-tools/initramfs.conf"
    printf '%s\n' virtio_pci virtio_blk ext4 >>"$stage/etc/initramfs-tools/modules"
    rm -f "$stage/boot"/initrd.img-*
    export IN_ROOT_DIR=$stage
    logged "$log" scripts/in-root depmod "$release"
    logged "$log" scripts/in-root systemctl enable remap-agent.service
    logged "$log" scripts/in-root update-initramfs -c -k "$release"
    unset IN_ROOT_DIR
    mv "$stage/boot/initrd.img-$release" "$out/initrd"
    # in-root has made the folders that it binds.
    rmdir --ignore-fail-on-non-empty -p "$stage$CHECKOUT" "$stage$DMREMAP_CACHE" 2>/dev/null || true
    size=$(($(du -sm "$stage" | cut -f1) + 400))
    logged "$log" scripts/in-root mke2fs -q -t ext4 -d "$stage" -U "$MACHINE_UUID" -L machine -O ^has_journal "$out/image" "${size}M"
    cp "$kernel" "$out/vmlinuz"
    discard "$stage"
    cat >"$out/env" <<ENV
MACHINE_IMAGE=$CHECKOUT/$out/image
MACHINE_INITRD=$CHECKOUT/$out/initrd
MACHINE_KERNEL=$CHECKOUT/$out/vmlinuz
MACHINE_ROOT=UUID=$MACHINE_UUID
ENV
}

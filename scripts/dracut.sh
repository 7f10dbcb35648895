# Sourced by what makes machines, after lib.sh: an initramfs by dracut, of a folder with a Debian that has dm-remap installed.
# shellcheck shell=bash

# Other than in one by initramfs-tools, what would be there on any machine is left out: a machine of a test unpacks it anew at each boot.
DRACUT_WITHOUT="crypt hwdb i18n kernel-modules-extra lunmask lvm nvdimm overlay-root qemu terminfo virtfs virtiofs"

# Makes OUT/dracut for the kernel RELEASE; it has to hold what finds and assembles sets.
dracut_of() {
    local stage=$1 release=$2 out=$3 log=$4 part
    export IN_ROOT_DIR=$stage
    logged "$log" scripts/in-root depmod "$release"
    logged "$log" scripts/in-root dracut --quiet --no-hostonly --kver "$release" --tmpdir /tmp --omit "$DRACUT_WITHOUT" \
        --drivers "virtio_pci virtio_blk ext4" /boot/dracut
    scripts/in-root lsinitrd /boot/dracut >"$out/dracut.list"
    unset IN_ROOT_DIR
    for part in "updates/dm-remap.ko" "md/dm-clone.ko[.a-z]*" "usr/sbin/dmremap" "usr/lib/dmremap/assemble" "usr/lib/dmremap/look-again" "usr/bin/partx" \
        "usr/sbin/kpartx" "usr/sbin/dmsetup" "usr/bin/udevadm" "rules.d/61-dmremap.rules" "dmremap-assemble@.service" "etc/dmremap.conf" \
        "etc/blkid.conf" "initqueue/timeout/50-again.sh"; do
        grep -q "/$part\$\| $part\$" "$out/dracut.list" || die "dracut's initramfs lacks $part; what it has is in $out/dracut.list"
    done
    mv "$stage/boot/dracut" "$out/dracut"
}

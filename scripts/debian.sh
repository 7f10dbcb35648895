# Sourced by what makes Debian roots, after lib.sh: a bare root of a suite, with others beside it for the kernel alone.
# shellcheck shell=bash

# Removes a half-made folder, and never follows a mount that something else left in it.
discard() { [ ! -e "$1" ] || rm -rf --one-file-system -- "$1"; }

# A bare Debian in the folder PARTIAL, which must not be there; what apt is configured with on this machine holds in it too.
bare_debian() {
    local partial=$1 log=$2
    need_host_tool debootstrap debootstrap
    # shellcheck disable=SC2016
    logged "$log" unshare --mount --propagation private --pid --fork --kill-child \
        env PATH="$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase --include=ca-certificates "$ROOT_SUITE" "$partial"

    # The suites beside it are for the kernel alone: at this priority nothing comes from there that is not asked for by its version.
    local sources=$partial/etc/apt/sources.list suite name
    for suite in $ROOT_BESIDE; do
        sed -n "s/^\(deb .*\) $ROOT_SUITE main.*/\1 $suite main/p" "$sources" | grep . >"$partial/etc/apt/sources.list.d/$suite.list" ||
            die "no line for $ROOT_SUITE in $sources"
        # By the name of the release, or by that of its state.
        for name in n a; do
            printf 'Package: *\nPin: release %s=%s\nPin-Priority: 1\n\n' $name "$suite"
        done >"$partial/etc/apt/preferences.d/$suite"
    done
    # No services in here, and no need to survive a power cut: an interrupted root is made anew.
    printf '#!/bin/sh\nexit 101\n' >"$partial/usr/sbin/policy-rc.d"
    chmod +x "$partial/usr/sbin/policy-rc.d"
    printf 'force-unsafe-io\n' >"$partial/etc/dpkg/dpkg.cfg.d/unsafe-io"
    printf 'path-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n' >"$partial/etc/dpkg/dpkg.cfg.d/lean"
    # Suites that move have a date of expiry, which a machine may look past: its mirror may be a snapshot. Signatures are checked all the same.
    apt-config dump 2>/dev/null | grep -E '^Acquire::((http|https)::Proxy|Check-Valid-Until|Check-Date) ' >"$partial/etc/apt/apt.conf.d/90host" || true
    touch "$partial/etc/resolv.conf"
}

# Installs packages into the root DIR, which is bare.
install_packages() {
    local dir=$1 log=$2
    shift 2
    IN_ROOT_DIR=$dir logged "$log" scripts/in-root apt-get update
    IN_ROOT_DIR=$dir logged "$log" scripts/in-root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
    IN_ROOT_DIR=$dir logged "$log" scripts/in-root apt-get clean
}

# What packages are built in: what debian/control asks for, and nothing else.
# shellcheck disable=SC2034
PACKAGE_ROOT=$DMREMAP_CACHE/package-$(key_of "$ROOT_SUITE" "$(sed -n '/^Build-Depends/,/^[^ ]*:/p' "$CHECKOUT/debian/control")" 1)

# Sourced by what makes Debian roots, after lib.sh: a bare root of the suite, with backports for the kernel alone.
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

    # Backports are for the kernel alone: at this priority nothing comes from there that is not asked for by its version.
    local sources=$partial/etc/apt/sources.list
    sed -n "s/^\(deb .*\) $ROOT_SUITE main.*/\1 $ROOT_SUITE-backports main/p" "$sources" >"$partial/etc/apt/sources.list.d/backports.list"
    [ -s "$partial/etc/apt/sources.list.d/backports.list" ] || die "no line for $ROOT_SUITE in $sources"
    printf 'Package: *\nPin: release n=%s-backports\nPin-Priority: 1\n' "$ROOT_SUITE" >"$partial/etc/apt/preferences.d/backports"
    # No services in here, and no need to survive a power cut: an interrupted root is made anew.
    printf '#!/bin/sh\nexit 101\n' >"$partial/usr/sbin/policy-rc.d"
    chmod +x "$partial/usr/sbin/policy-rc.d"
    printf 'force-unsafe-io\n' >"$partial/etc/dpkg/dpkg.cfg.d/unsafe-io"
    printf 'path-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n' >"$partial/etc/dpkg/dpkg.cfg.d/lean"
    apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https)::Proxy ' >"$partial/etc/apt/apt.conf.d/90host" || true
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

# Shared by the scripts beside it: where things are, how progress is told, how steps stay all-or-nothing.
# shellcheck shell=bash

set -euo pipefail

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
DMREMAP_CACHE=${DMREMAP_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dm-remap}
mkdir -p "$DMREMAP_CACHE"
DMREMAP_CACHE=$(cd "$DMREMAP_CACHE" && pwd -P)
export CHECKOUT DMREMAP_CACHE

. "$CHECKOUT/scripts/rows.sh"

say() { printf 'dm-remap: %s\n' "$*" >&2; }
# What scripts/setup ends with when Debian has no such kernel.
# shellcheck disable=SC2034
NOT_OFFERED=3
die() {
    say "error: $*"
    exit 1
}

# The first twelve digits of a hash over the arguments: a name for "made from exactly this".
key_of() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }

# A step's output goes to a log in the cache; its end is shown when the step fails.
logged() {
    local log=$1
    shift
    if ! "$@" >>"$log" 2>&1; then
        tail -n 25 "$log" >&2
        die "the step above failed; all of its output is in $log"
    fi
}

need_root() { [ "$(id -u)" = 0 ] || die "this needs root: it makes a Debian root and mounts into it"; }

# Takes the cache's lock for the rest of the script, so that two makes do not build the same thing at once. What the rows of a matrix need is made
# while all else goes on.
lock_cache() {
    exec 9>"$DMREMAP_CACHE/lock${DMREMAP_ROW:+-rows}"
    if ! flock -n 9; then
        say "waiting for another make that is filling the cache"
        flock 9
    fi
}

# The host's own package names of what the scripts use before there is a root.
need_host_tool() {
    local tool=$1 package=$2
    command -v "$tool" >/dev/null || [ -x "/usr/sbin/$tool" ] && return
    say "installing $package"
    if [ -z "${APT_UPDATED:-}" ]; then
        logged "$DMREMAP_CACHE/log/host.log" apt-get update
        APT_UPDATED=1
    fi
    logged "$DMREMAP_CACHE/log/host.log" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package"
}

# What the root and the kernel are made from; a change here makes them anew beside the old ones.
ROOT_SUITE=trixie
# What else its apt knows of, and takes only what is asked for by its version from: kernels.
ROOT_BESIDE=trixie-backports
ROOT_PACKAGES="ca-certificates build-essential gcc-14 rustc cargo rust-src rustfmt rust-clippy bindgen libclang-dev clang lld llvm
 flex bison bc libelf-dev libssl-dev cpio kmod xz-utils zstd pahole rsync shellcheck busybox-static dmsetup fio e2fsprogs xfsprogs
 util-linux qemu-system-x86 nbdkit pkgconf libblkid-dev uuid-dev libdevmapper-dev btrfs-progs cryptsetup-bin lvm2
 dosfstools smartmontools gddrescue lowdown python3-docutils"
KERNEL_FROM=trixie-backports
KERNEL_SERIES="7.3 7.2"
KERNEL_FLAVOUR=amd64

root_dir() { echo "$DMREMAP_CACHE/root-$(key_of "$ROOT_SUITE" "$ROOT_PACKAGES" 1)"; }
ROOT_DIR=$(root_dir)
# The prepared kernel tree remembers where it stands and which compilers made it.
# shellcheck disable=SC2034
KERNEL_DIR=$DMREMAP_CACHE/kernel-$(key_of "$KERNEL_SERIES" "$KERNEL_FLAVOUR" "$ROOT_DIR" 1)
# The kernel that looks for faults, of the same source.
# shellcheck disable=SC2034
DEBUG_DIR=$DMREMAP_CACHE/debug-$(key_of "$KERNEL_DIR" "$(cat "$CHECKOUT/scripts/debug.config")" 1)
# What tests the tests; a version that the root's compiler can build.
MUTANTS_VERSION=25.3.1
# shellcheck disable=SC2034
TOOLS_DIR=$DMREMAP_CACHE/tools-$(key_of "$MUTANTS_VERSION" "$ROOT_DIR" 1)

# With DMREMAP_DEBUG=1, what runs in a machine is built for the kernel that looks for faults, beside what is built for the stock one.
BUILD=$CHECKOUT/build
VM_KERNEL_DIR=$KERNEL_DIR
# The root that its tree is prepared in.
VM_KERNEL_ROOT=$ROOT_DIR
# The arguments of every make for that kernel's tree.
KERNEL_MAKE=()
if [ -n "${DMREMAP_DEBUG:-}" ]; then
    BUILD=$CHECKOUT/build/debug
    VM_KERNEL_DIR=$DEBUG_DIR
    # shellcheck disable=SC2034
    KERNEL_MAKE=(LLVM=1)
fi

# With DMREMAP_ROW, for the kernel of that row of `make matrix`, which scripts/setup has linked to there.
# shellcheck disable=SC2034
if [ -n "${DMREMAP_ROW:-}" ]; then
    BUILD=$CHECKOUT/build/matrix/$DMREMAP_ROW
    VM_KERNEL_DIR=$(readlink -m "$BUILD/kernel")
    # shellcheck disable=SC2030
    VM_KERNEL_ROOT=$(
        row "$DMREMAP_ROW"
        root_dir
    )
fi

# Machines and drives have their files in build/vm by the name of the test, so two runs of one checkout would share them.
one_run_at_a_time() {
    mkdir -p "$CHECKOUT/build"
    exec 7>"$CHECKOUT/build/vm.lock"
    flock --nonblock 7 && return
    say "another run of tests in this checkout is under way, waiting for it"
    flock 7
}

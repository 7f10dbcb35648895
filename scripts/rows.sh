# Sourced by lib.sh: the rows of `make matrix`, which are the kernels with Rust that Debian's suites offer. What differs between them is here; what
# the module's source has to do with it is in src/dm/compat.rs.
# shellcheck shell=bash

ALL_ROWS="backports-7.3 backports-7.2 testing sid experimental"

# Sets what the row NAME is made from: KERNEL_FROM the suite of the kernel, KERNEL_SERIES its series (the newest, where that is "any"), and of the root
# with the compilers that fit it ROOT_SUITE, ROOT_BESIDE, ROOT_PACKAGES.
row() {
    case $1 in
    backports-7.3) KERNEL_FROM=trixie-backports KERNEL_SERIES=7.3 ;;
    backports-7.2) KERNEL_FROM=trixie-backports KERNEL_SERIES=7.2 ;;
    testing) KERNEL_FROM=testing KERNEL_SERIES=any ;;
    sid) KERNEL_FROM=sid KERNEL_SERIES=any ;;
    experimental) KERNEL_FROM=experimental KERNEL_SERIES=any ;;
    *) return 1 ;;
    esac
    # A kernel's Rust symbols have names that its compiler made, so a module is built by the same release of rustc. Stable has had one all along, and the
    # others follow sid. There is nothing else in the root of sid: tools and tests are built in the one of stable, and machines run from there.
    case $1 in
    backports-*) ;;
    *)
        ROOT_SUITE=sid
        ROOT_BESIDE="testing experimental"
        ROOT_PACKAGES="ca-certificates build-essential rustc rust-src bindgen libclang-dev clang flex bison bc libelf-dev libssl-dev cpio kmod xz-utils pahole python3"
        ;;
    esac
}

# dm-remap: every command that the project has. Each works from a fresh checkout, as root, with no step before it.
#
# The work is in scripts/; this file says what needs what. The kernel module's own rules are in Kbuild.

SHELL := /bin/bash
export KDIR V SEED RUNS MINUTES MIGRATE TIME KEEP ROWS DMREMAP_CACHE
ifeq ($(DMREMAP_CACHE),)
unexport DMREMAP_CACHE
endif

.PHONY: all module tools setup pages install uninstall demo test test-userland test-package test-debug test-debug-few matrix lint torture crashes soak activations simulate fuzz coverage mutants bench shell clean help

all: module tools

# With KDIR= the machine's own tools build for a tree of its own, so nothing has to be set up.
module: $(if $(KDIR),,setup)
	@scripts/build-module

tools: $(if $(KDIR),,setup)
	@scripts/build-tools

setup:
	@scripts/setup
	@scripts/libraries take

# What runs in a machine runs on the stock kernel, so KDIR is not for it.
demo test test-userland test-package test-debug test-debug-few matrix torture crashes soak activations bench shell: export KDIR :=

demo torture crashes soak activations shell: module tools
	@scripts/vm-run $@

bench: module tools
	@scripts/bench $(T)

test: module tools
	@scripts/test $(T)
	-@scripts/libraries keep test

test-debug test-debug-few: export DMREMAP_DEBUG := 1
test-debug: setup tools
	@scripts/setup-debug
	@scripts/build-module
	@scripts/test $(T)

test-debug-few: setup tools
	@scripts/setup-debug
	@scripts/build-module
	@scripts/test $$(grep -v '^#' scripts/debug.few)

# The program is built in the root of stable, the module in that of each row.
matrix: setup tools
	@scripts/matrix $(T)

test-userland: module tools
	@scripts/test-userland $(T)

# Manual pages and completions, in build/pages, made by the tools of the root whatever the module was built by.
pages: export KDIR :=
pages: setup tools
	@scripts/in-root scripts/pages build/pages

# What is installed below DESTDIR, with PREFIX before the paths that are not the system's; WITHOUT= leaves parts out.
install: module tools $(if $(filter pages,$(WITHOUT)),,pages)
	@scripts/install "DESTDIR=$(DESTDIR)" "PREFIX=$(or $(PREFIX),/usr/local)" "WITHOUT=$(WITHOUT)"

test-package: module tools
	@scripts/test-package

uninstall:
	@scripts/install "DESTDIR=$(DESTDIR)" "PREFIX=$(or $(PREFIX),/usr/local)" "WITHOUT=$(WITHOUT)" uninstall

lint: export KDIR :=
lint: setup
	@scripts/lint
	-@scripts/libraries keep lint

simulate: export KDIR :=
simulate: setup
	@scripts/simulate

fuzz: export KDIR :=
fuzz: setup
	@scripts/fuzz $(T)

coverage: export KDIR :=
coverage: setup
	@scripts/coverage

mutants: export KDIR :=
mutants: setup
	@scripts/setup-tools
	@scripts/mutants $(T)

print-%: export KDIR :=
print-%: setup
	@scripts/vars $*

clean:
	rm -rf build

help:
	@echo 'make              build/dm-remap.ko and build/dmremap (KDIR= builds against a given prepared kernel tree)'
	@echo 'make demo         files survive their failing drive, in a virtual machine, told as it happens'
	@echo 'make test         every test that the stock kernel can run (T=name runs some of them)'
	@echo 'make test-debug   the tests in virtual machines on a kernel that looks for faults, and faults put in (T=name runs some of them)'
	@echo 'make test-debug-few  those of them that every change has to pass'
	@echo 'make matrix       the tests in virtual machines on every kernel with Rust that Debian offers (ROWS="sid ..." on some of them, T=name runs some tests)'
	@echo 'make test-userland  those in machines with systemd and udev: what happens at boot (T=name runs some of them)'
	@echo 'make install      module, program, what finds sets at boot, pages (DESTDIR=, PREFIX=/usr/local, WITHOUT="module ..."); uninstall takes them away'
	@echo 'make test-package   Debian packages: built, installed into a fresh Debian, built by DKMS, loaded, removed'
	@echo 'make lint         rustfmt, clippy, shellcheck, and how much of the stack the module takes'
	@echo 'make torture      random load, remaps and power cuts (SEED= to begin with, RUNS= or MINUTES= long; MIGRATE=1: spares come and go)'
	@echo 'make crashes      the power fails at every flush of what a machine did, replayed from journals (SEED= to begin with, RUNS= machines)'
	@echo 'make soak         an hour of load, moves and failing places, and memory at the end as at the start (MINUTES=, SEED=)'
	@echo 'make activations  damaged and forged spares, activated by the kernel and judged by the host (SEED= to begin with, RUNS= images)'
	@echo 'make simulate     the commit and the recovery on disks that lose power (SEED= to begin with, RUNS= crash states of each of three kinds)'
	@echo 'make fuzz         a fuzzer makes up headers, tables, images, old spares, lines and messages (TIME= seconds or RUNS= inputs each, T=name some, SEED=, KEEP=1)'
	@echo 'make coverage     how many lines of the pure code its tests reach, which have to be more than 95 of 100'
	@echo 'make mutants      the table, the places, the commit and the recovery, changed in one small way after the other: a test has to notice (T=name some, RUNS= crash states)'
	@echo 'make bench        what I/O costs beside dm-linear, linear pieces, RAID1 and dm-dust, and what is done to a set; into docs/performance.md and build/bench (T="reads loads ..." runs some of its parts)'
	@echo 'make shell        a virtual machine on this terminal, with small failing drives'
	@echo 'make -s print-VAR KERNEL_RELEASE, KERNEL_IMAGE, KERNEL_MODULES, KERNEL_SOURCE, KDIR, ROOT_DIR, DMREMAP_CACHE'
	@echo 'make clean        removes build/, not the cache'
	@echo
	@echo 'The toolchain and the kernel are kept in DMREMAP_CACHE ($${XDG_CACHE_HOME:-~/.cache}/dm-remap).'

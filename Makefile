# dm-remap: every command that the project has. Each works from a fresh checkout, as root, with no step before it.
#
# The work is in scripts/; this file says what needs what. The kernel module's own rules are in Kbuild.

SHELL := /bin/bash
export KDIR V SEED RUNS MINUTES DMREMAP_CACHE
ifeq ($(DMREMAP_CACHE),)
unexport DMREMAP_CACHE
endif

.PHONY: all module setup test lint clean help

all: module

# With KDIR= the machine's own tools build for a tree of its own, so nothing has to be set up.
module: $(if $(KDIR),,setup)
	@scripts/build-module

setup:
	@scripts/setup

test: export KDIR :=
test: module
	@scripts/test $(T)

lint: export KDIR :=
lint: setup
	@scripts/lint

print-%: export KDIR :=
print-%: setup
	@scripts/vars $*

clean:
	rm -rf build

help:
	@echo 'make              build/dm-remap.ko (KDIR= builds against a given prepared kernel tree)'
	@echo 'make test         every test that the stock kernel can run (T=name runs some of them)'
	@echo 'make lint         rustfmt, clippy, shellcheck'
	@echo 'make -s print-VAR KERNEL_RELEASE, KERNEL_IMAGE, KERNEL_MODULES, KERNEL_SOURCE, KDIR, ROOT_DIR, DMREMAP_CACHE'
	@echo 'make clean        removes build/, not the cache'
	@echo
	@echo 'The toolchain and the kernel are kept in DMREMAP_CACHE ($${XDG_CACHE_HOME:-~/.cache}/dm-remap).'

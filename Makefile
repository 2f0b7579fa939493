# For a Debian machine, as root; nothing needs to be installed before.
#
#   make try       a boot and a replacement in a chroot, in under a minute
#   make shell     a shell with an EC2 on loopback: type the README and the guides in it
#   make demo      the story, on a virtual EC2, with virtual machines
#   make check     what needs no virtual machine (under 2 minutes)
#   make test      check, the packages, the chroots and the virtual machines
#                  of RELEASE (under 30 minutes)
#   make test-all  the same with what is slow, and the other releases
#   make machines  chroots and virtual machines of RELEASE, side by side
#   make chroot    the chroots alone (RELEASE=bookworm, trixie, sid, bullseye)
#   make distros   the stages of releases of cloud-init, and of the lists that each
#                  distribution has (CLOUD_INIT=PATH…, docs/reference/distributions.md)
#   make shown     prints what cloud-init says of the module in RELEASE
#   make packages  deb, rpm, wheel and source archive in dist/, with SHA256SUMS;
#                  without the lab's tools (says which tools are missing)
#   make repo      a signed repository for apt and dnf in dist/repo (KEY= of gpg,
#                  URL= where it will be found)
#   make pictures  docs/*.svg of what status and plan print, from a node in a chroot
#   make deb       build/deb/cloud-init-kraken_VERSION_all.deb
#   make torture   100 power cuts (COUNT=, SEED=, JOBS=)
#   make random    random worlds and values, many more than check draws
#                  (SEED=, EXAMPLES=: so many times as many)
#   make mutations breaks the guards one by one: which test sees it
#   make bench     how long a boot waits, beside the floor (RUNS=, CASES=)
#                  and beside a program of yours (PEER="PATH ARGUMENT…")
#   make fleet     1,000 nodes that boot at once, simulated (NODES=)
#   make clean     away with what was built (images stay in their cache)

RELEASE ?= bookworm
export RELEASE
# Beside RELEASE, in test-all: the chroots, and one story on machines.
OTHERS = trixie sid
# Best effort: its chroot has the contract tests alone.
OLD = bullseye
VM_TESTS ?= tests/vm

# Virtual environments of the caller must not leak in.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PATH := /usr/sbin:/usr/bin:/sbin:/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE = 1

PYTHON = .venv/bin/python
# What Python has compiled is kept beside what is built: a test that starts a program
# would compile all of it anew.
PYTEST = PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/build/pycache \
	$(PYTHON) -m pytest
READY = .venv/ready

SOURCES := $(shell find cc_kraken -name '*.py') $(shell find schema -type f) setup.cfg pyproject.toml \
	MANIFEST.in README.md LICENSE
DOCS := CHANGELOG.md $(shell find docs examples packaging/completion -type f)
VERSION := $(shell sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)
DEB = build/deb/cloud-init-kraken_$(VERSION)_all.deb
# Where packages and repo put their results.
DIST ?= dist
WHEEL = build/wheel/cc_kraken-$(VERSION)-py3-none-any.whl

.PHONY: help prepare check lint unit long chroot distros shown pictures test test-all vm machines try shell demo deb wheel packages repo clean torture random mutations fleet bench
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

prepare: $(READY)

# The stamp: packages of the distribution, then a virtual environment on the
# system's Python, and promtool in it.  A download that fails is tried again.
$(READY): tests/requirements.txt .ci/prepare .ci/promtool
	@.ci/prepare
	@echo "prepare: virtual environment (.venv): one to four minutes, once"
	@$(PYTHON) -m pip --version >/dev/null 2>&1 \
	    || /usr/bin/python3 -m venv --clear .venv
	@log=.venv/pip.log; for pause in 5 20 0; do \
	    $(PYTHON) -m pip install -q --disable-pip-version-check \
		--retries 5 -r tests/requirements.txt >$$log 2>&1 </dev/null \
		&& exit 0; \
	    [ $$pause = 0 ] || { echo "prepare: pip failed; once more in" \
		"$$pause s"; sleep $$pause; }; \
	done; cat $$log >&2; echo "prepare: pip failed (output above)" >&2; exit 1
	@.ci/promtool .venv/bin
	@touch $@

lint: $(READY)
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy --strict cc_kraken

unit: $(READY)
	$(PYTEST) -q -n 2 -m "not long and not slow" tests/unit tests/loop

# Whole runs on loop devices: each of them waits now and then.
long: $(READY)
	$(PYTEST) -q -n 3 -m "$(if $(ALL),long or slow,long and not slow)" tests/unit tests/loop

check: lint unit

deb: $(READY) $(DEB)

# Built from a copy: dpkg-buildpackage puts its results beside the tree.
$(DEB): $(SOURCES) $(DOCS) $(wildcard debian/* debian/source/* debian/tests/*)
	@echo "deb: building $(notdir $@)"
	@rm -rf build/deb && mkdir -p build/deb/tree
	@cp -a --parents $^ build/deb/tree/
	@cd build/deb/tree && dpkg-buildpackage -us -uc -b >../build.log 2>&1 \
	    || { cat ../build.log >&2; exit 1; }
	@rm -rf build/deb/tree
	@if command -v lintian >/dev/null; then \
	    set -x; lintian --allow-root --fail-on error,warning build/deb/*.changes; \
	else echo "deb: lintian is not installed; the package was not checked"; fi
	@touch $@

wheel: $(READY) $(WHEEL)

# The source archive first, the wheel out of it.
$(WHEEL): $(SOURCES)
	@echo "wheel: building $(notdir $@)"
	@rm -rf build/wheel && mkdir -p build/wheel
	@$(PYTHON) -m build --no-isolation --outdir build/wheel . \
	    >build/wheel.log 2>&1 || { cat build/wheel.log >&2; exit 1; }
	@rm -rf cc_kraken.egg-info
	@touch $@

# By the distribution's tools alone; what was there of other versions goes.
packages:
	@packaging/check-tools
	@$(MAKE) --no-print-directory $(DEB) $(WHEEL) PYTHON=/usr/bin/python3
	@mkdir -p $(DIST)
	@rm -f $(DIST)/*.deb $(DIST)/*.rpm $(DIST)/*.whl $(DIST)/*.tar.gz $(DIST)/SHA256SUMS
	@packaging/build-rpm $(DIST)
	@cp $(DEB) build/wheel/*.whl build/wheel/*.tar.gz $(DIST)/
	@cd $(DIST) && sha256sum *.deb *.rpm *.whl *.tar.gz >SHA256SUMS
	@echo "packages: in $(DIST)/, with SHA256SUMS:"
	@cd $(DIST) && ls *.deb *.rpm *.whl *.tar.gz

repo:
	@packaging/build-repo '$(DIST)' '$(KEY)' '$(URL)'

# cloud-init and dpkg of RELEASE, for real, without a machine of their own.
chroot: $(READY)
	$(PYTEST) -q -n 2 $(if $(ALL),,-m "not slow") tests/chroot

shown: $(READY)
	@exec $(PYTHON) -m tests.chroot.shown $(RELEASE)

pictures: $(READY)
	@exec $(PYTHON) -m tests.chroot.pictures docs

# A row a release and distribution; WRITE=1 puts the rows into docs/reference/distributions.md.
ON = bullseye
distros: $(READY)
	@exec $(PYTHON) -m tests.chroot.distros $(if $(WRITE),--docs) --on $(ON) \
	    $(addprefix --python=,$(PREFIX)) $(addprefix --variants=,$(VARIANTS)) $(CLOUD_INIT)

vm: $(READY) deb
	$(PYTEST) -q -n 2 --maxschedchunk=1 --durations=0 $(if $(ALL),,-m "not slow") $(VM_TESTS)

# Both together: while an image is built for one of them, the other goes on.
machines: $(READY) deb
	$(PYTEST) -q -n 2 --maxschedchunk=1 --durations=30 $(if $(ALL),,-m "not slow") \
	    tests/vm/test_story.py tests/chroot tests/vm

# One after another, whatever -j says: the later ones cost minutes.
test: $(READY)
	$(MAKE) check
	$(MAKE) long
	$(MAKE) deb wheel
	$(MAKE) machines

test-all: $(READY)
	$(MAKE) check
	$(MAKE) long ALL=1
	$(MAKE) deb wheel
	$(MAKE) machines ALL=1
	@set -e; for release in $(OTHERS); do \
	    $(MAKE) chroot ALL=1 RELEASE=$$release; \
	    $(MAKE) vm VM_TESTS=tests/vm/test_story.py RELEASE=$$release; done
	$(MAKE) chroot RELEASE=$(OLD)

# The first one builds the chroot, in a minute or two.
try: $(READY)
	@exec $(PYTHON) -m tests.trial

shell: $(READY)
	@exec $(PYTHON) -m tests.shell

demo: $(READY) deb
	@exec $(PYTHON) -m tests.demo

# Power cuts during a first boot: make torture COUNT=10 SEED=1
COUNT ?= 100
JOBS ?= $(shell nproc)
torture: $(READY) deb
	@exec $(PYTHON) -m tests.vm.torture $(COUNT) --jobs $(JOBS) $(addprefix --seed=,$(SEED))

# The property tests by a seed: check draws the same examples in every run.
EXAMPLES ?= 10
random: $(READY)
	@seed=$(or $(SEED),$$(shuf -n 1 -i 0-999999999)); \
	again="make random SEED=$$seed EXAMPLES=$(EXAMPLES)"; \
	echo "random: SEED=$$seed (to repeat: $$again)"; \
	EXAMPLES=$(EXAMPLES) $(PYTEST) -q -n 2 -m hypothesis \
	    --hypothesis-profile=random --hypothesis-seed=$$seed tests/unit tests/loop \
	    || { echo "random: to repeat: $$again" >&2; exit 1; }

# Broken guards, and which test sees it.
mutations: $(READY)
	@exec $(PYTHON) -m tests.mutations

# Module and floor on virtual machines; the tables go into docs/project/speed.md, unless
# there is a peer in them (which may have a patience of its own).
RUNS = 3
CASES = 1+3,1,8,24
bench: $(READY) deb
	@$(PYTHON) -m tests.bench --runs $(RUNS) --cases $(CASES) \
	    $(if $(PEER),--undilated --peer '$(PEER)',--docs)

NODES = 1000

fleet: $(READY)
	@$(PYTHON) -m tests.fleet --nodes $(NODES)

clean:
	rm -rf .venv build dist cc_kraken.egg-info .mypy_cache .ruff_cache \
	    .pytest_cache .hypothesis .pybuild
	rm -rf debian/.debhelper debian/cloud-init-kraken debian/files \
	    debian/*.substvars debian/*.debhelper debian/debhelper-build-stamp
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

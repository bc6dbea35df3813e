# make run: build, then run a miner and a development node until Ctrl-C.
# make run-fleet: the same with a hub, three rigs and a stratum miner.
# make test: run the checks and tests. CI also runs interop, test-fresh and test-systemd.
# make release: build, audit and try what a release publishes, in dist/ (as root).
# make bundle: one file to install from on machines without internet, in dist/.
# make interop: test the miner against a node built on the network's own code (needs cargo).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Of this checkout, without a build environment of its own; what was compiled before is kept.
BUILD := --no-build-isolation --no-deps --config-settings=build-dir=build/native
SOURCES := $(shell find src native pyproject.toml -type f -not -name '*.pyc')

# For GPUs: make install EXTRAS=cuda, or opencl, or cuda,opencl. What is installed from here always has the extras top and hub.
EXTRAS ?=
WHEELS := build/wheels$(if $(EXTRAS),-gpu)
REQUIREMENTS := requirements/$(if $(EXTRAS),gpu,run).txt
VARIANT := $(if $(EXTRAS),-$(EXTRAS))
DEB := build/debian$(VARIANT)
PORTABLE := build/portable$(VARIANT)
PACKAGES := build/packages$(VARIANT)
IMAGE := build/oci/quantus-miner$(VARIANT).tar

.PHONY: run run-fleet test coverage test-fresh test-packages test-systemd interop wheels install uninstall release bundle deb packages image bench bench-gpu bench-packages bench-peers check lock clean

run: $(VENV)/run.stamp
	@$(BIN)/quantus-miner dev-node --quic

run-fleet: $(VENV)/run.stamp
	@$(BIN)/quantus-miner dev-fleet

test: $(VENV)/test.stamp $(VENV)/release.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses=2 --dist=loadfile

# The lines that no test reaches. The tests take half as long again.
coverage: $(VENV)/test.stamp $(VENV)/release.stamp
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

interop: $(VENV)/test.stamp
	@command -v cargo >/dev/null || { echo "quantus-miner: cargo is missing; install Rust to build the node" >&2; exit 1; }
	cargo build --quiet --manifest-path tests/interop/Cargo.toml
	$(BIN)/pytest tests/interop

wheels: $(WHEELS).stamp

# As a system service, with systemd. As root; it builds only what `make wheels` has not built before.
install: $(WHEELS).stamp
	@systemd/install $(WHEELS) $(PYTHON) $(EXTRAS)

# A Debian package, for systems whose python3 has the same minor version as PYTHON.
deb: $(DEB).stamp

# Archives for HiveOS, mmpOS, RaveOS and SimpleMining, with a Python of their own.
packages: $(PACKAGES).stamp

# A container image, built with buildah, as root. docs/containers.md says how to build it with Docker.
image:
	@packaging/oci/build . $(IMAGE) $(EXTRAS)

uninstall:
	@systemd/install --uninstall

# Refuses a working tree with changes, and a tag that is not the version.
release: $(VENV)/release.stamp
	@$(BIN)/python packaging/release/release.py

# SYSTEM_CUDA=1 leaves out the compiler for CUDA kernels, for machines that have NVIDIA's toolkit.
bundle: $(VENV)/release.stamp
	@$(BIN)/python packaging/release/bundle.py $(if $(SYSTEM_CUDA),$(subst cuda,system-cuda,$(EXTRAS)),$(EXTRAS))

# The service under a real systemd, in a container of its own (as root; the first time it makes a Debian for that).
test-systemd: $(VENV)/test.stamp $(WHEELS).stamp $(DEB).stamp
	@tests/systemd/make-root build/systemd-root
	$(BIN)/pytest tests/systemd

# The container image, and the archives for rig systems in an old Debian (as root; needs what those need, and runc).
test-packages: $(VENV)/test.stamp $(PACKAGES).stamp image
	@tests/packages/make-root build/rig-root
	$(BIN)/pytest tests/packages

# The README's commands as a new user runs them, in a bare Debian 12 and a 13 (as root; the first time it makes those).
test-fresh: $(VENV)/test.stamp
	@tests/fresh/make-root bookworm build/fresh/bookworm
	@tests/fresh/make-root trixie build/fresh/trixie
	$(BIN)/pytest --capture=no tests/fresh

# Figures of this machine: the service's own cost, every kernel, and (with cargo) the network's own hash crate.
bench: $(VENV)/run.stamp
	$(BIN)/python -m benchmarks.service
	$(BIN)/python -m benchmarks.kernels

# Of a graphics card: make bench-gpu EXTRAS=cuda, or opencl.
bench-gpu: $(VENV)/run.stamp
	@case "$(EXTRAS)" in cuda | opencl) ;; *) echo "quantus-miner: name one of the extras: make bench-gpu EXTRAS=cuda" >&2; exit 1 ;; esac
	@$(PIP) install --requirement requirements/gpu.txt
	@if [ "$(EXTRAS)" = cuda ]; then $(PIP) install nvidia-cuda-nvdisasm; fi
	$(BIN)/python -m benchmarks.gpu --engine gpu-$(EXTRAS)

# Of every package, as root: its size, and the time from it to the first block on a bare system.
bench-packages: $(VENV)/release.stamp $(PORTABLE)
	@packaging/release/make-root bookworm amd64 build/roots/bookworm-amd64
	@packaging/release/make-root trixie amd64 build/roots/trixie-amd64
	@tests/systemd/make-root build/systemd-root
	@tests/packages/make-root build/rig-root
	@$(BIN)/python packaging/release/measure.py $(EXTRAS)

bench-peers: $(VENV)/run.stamp
	@command -v cargo >/dev/null || { echo "quantus-miner: cargo is missing; install Rust to build the peer" >&2; exit 1; }
	cargo build --quiet --release --manifest-path benchmarks/peers/Cargo.toml
	$(BIN)/python -m benchmarks.against_peers

$(VENV)/bin/python: | check
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements/run.txt $(SOURCES) | $(VENV)/bin/python
	@echo "Installing into $(VENV) (about a minute the first time)"
	@$(PIP) install --requirement requirements/run.txt
	@$(PIP) install $(BUILD) --force-reinstall .
	@touch $@

$(VENV)/test.stamp: requirements/test.txt $(VENV)/run.stamp
	@$(PIP) install --requirement requirements/test.txt
	@touch $@

$(VENV)/release.stamp: requirements/release.txt $(VENV)/run.stamp
	@$(PIP) install --requirement requirements/release.txt
	@touch $@

$(WHEELS).stamp: $(REQUIREMENTS) $(SOURCES) | $(VENV)/run.stamp
	@rm -rf $(WHEELS)
	@$(PIP) wheel --no-deps --requirement $(REQUIREMENTS) --wheel-dir $(WHEELS)
	@$(PIP) wheel $(BUILD) --wheel-dir $(WHEELS) .
	@touch $@

$(PORTABLE): $(DEB).stamp packaging/portable/build
	@packaging/portable/build $(DEB)/*.deb $@
	@touch $@

$(PACKAGES).stamp: $(PORTABLE) $(shell find packaging/rigs -type f)
	@rm -rf $(PACKAGES)
	@packaging/rigs/build $(PORTABLE) $(PACKAGES)
	@touch $@

$(DEB).stamp: $(WHEELS).stamp $(shell find packaging/debian systemd docs prometheus grafana CHANGELOG.md -type f)
	@rm -rf $(DEB)
	@packaging/debian/build $(WHEELS) $(BIN)/python $(DEB) $(EXTRAS)
	@touch $@

# One line that says what is missing and how to install it, instead of a page of build output.
check:
	@requirements/check "$(PYTHON)"

# Writes the lock files anew from pyproject.toml.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --extra top --extra hub --group build --output-file requirements/run.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --extra cuda --extra opencl --extra top --extra hub --group build --constraints requirements/run.txt --output-file requirements/gpu.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group build --group test --constraints requirements/gpu.txt --output-file requirements/test.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group build --group release --constraints requirements/test.txt --output-file requirements/release.txt

clean:
	rm -rf $(VENV) build

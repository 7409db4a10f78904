# Every target does its own set-up: on a fresh clone `make demo` and `make test` just work.
#
#   make setup     .venv with pinned requirements, native libraries built in place
#   make demo      faces -> train -> guide -> compare; writes runs/demo
#   make attention-demo  faces -> attention network -> all its analyses; writes runs/attention-demo
#   make test      pytest, and the C++ tests through CMake
#   make test-long the slowest tests, which make test leaves out, and the C++ tests as released
#   make test-oldest  the Python tests with the oldest versions that pyproject.toml allows (CPU)
#   make test-cuda the GPU tests (needs a GPU; a minute or two)
#   make bench     ops, training step and other libraries' Grad-CAM side by side: runs/bench/cpu.md, plots
#   make lint      ruff, clang-format, mypy
#   make cuda-all  CUDA library for all architectures, warnings as errors (needs nvcc, no GPU)
#   make cuda-sanitize  the CUDA tests under compute-sanitizer (needs a GPU)
#   make sanitize-python  the op tests on CPU libraries built with AddressSanitizer and UBSan
#   make clean     remove build outputs (and with `make distclean` the .venv too)
#
# Variables: PYTHON (3.11 or newer), VENV, CUDA_ARCHS, PYTEST_ARGS, PYTEST_WORKERS, DEMO_ARGS, BENCH_ARGS, MAX_JOBS.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := setup

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VENV_PYTHON := $(BIN)/python

# A checkout builds two architectures to save time, plus those of the GPUs in this machine; an
# installation with pip builds them all.
GPU_ARCHS := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null \
	| grep -E '^[0-9]+\.[0-9]+$$' | sort -u | tr '\n' ';')
CUDA_ARCHS ?= $(GPU_ARCHS)8.0;9.0+PTX

export MAX_JOBS ?= $(shell nproc)
# Here, not for those who install with pip: their compilers may warn of other things.
export FASTCAM_WERROR ?= 1

PYTEST_WORKERS ?= $(shell nproc)
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

BUILD_ENV = TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-$(CUDA_ARCHS)}"

.PHONY: setup build demo attention-demo test test-long test-oldest test-cuda test-python test-cpp test-cpp-release bench lint format cuda-all cuda-sanitize sanitize-python clean distclean

# --- set-up ---------------------------------------------------------------------------------------

setup: build

$(BIN)/.created:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) not found: make PYTHON=... "; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "The pinned requirements need Python 3.11 or newer: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(BIN)/.requirements: $(BIN)/.created requirements/dev.txt requirements/build.txt requirements/torch.txt
	$(VENV_PYTHON) -m pip install --disable-pip-version-check -r requirements/dev.txt
	@touch $@

# Incremental: compiles what changed (ninja), which is nothing on a second call.
build: $(BIN)/.requirements
	$(BUILD_ENV) $(VENV_PYTHON) setup.py build_ext --inplace
	@$(MAKE) --no-print-directory $(BIN)/.installed

# Editable: the package is this folder; the console script `fastcam` lands in $(BIN).
$(BIN)/.installed: $(BIN)/.requirements pyproject.toml
	$(BUILD_ENV) $(VENV_PYTHON) -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# --- use ------------------------------------------------------------------------------------------

demo: build
	$(BIN)/fastcam demo --out runs/demo $(DEMO_ARGS)

attention-demo: build
	$(BIN)/fastcam attention demo --out runs/attention-demo $(DEMO_ARGS)

# The other libraries are installed for this alone. BENCH_ARGS: --quick, -k "not step", --out …
bench: build $(BIN)/.bench-requirements
	$(VENV_PYTHON) -m bench cpu $(BENCH_ARGS)

$(BIN)/.bench-requirements: $(BIN)/.requirements requirements/bench.txt
	$(VENV_PYTHON) -m pip install --disable-pip-version-check -r requirements/bench.txt
	@touch $@

# --- checks ---------------------------------------------------------------------------------------

# What the build had to leave out is said once more after pytest, whatever its outcome.
test: test-cpp build
	@status=0; $(MAKE) --no-print-directory test-python || status=$$?; \
		$(VENV_PYTHON) build_config.py report; exit $$status

# A worker a core, each with one thread; what measures time runs alone afterwards.
test-python: build
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -m "not long" --ignore=tests/bench/test_speed.py $(WORKERS) $(PYTEST_ARGS)
	$(VENV_PYTHON) -m pytest tests/bench/test_speed.py

test-long: test-cpp-release build
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -m long $(WORKERS) $(PYTEST_ARGS)

# A copy with an environment of its own. What tests and builds need may be the newest.
OLDEST = build/oldest
test-oldest:
	rm -rf $(OLDEST) && mkdir -p $(OLDEST)
	git ls-files -z | xargs -0 tar cf - | tar xf - -C $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)/.venv
	$(PYTHON) requirements/oldest.py > $(OLDEST)/oldest.txt
	cd $(OLDEST) && .venv/bin/python -m pip install --disable-pip-version-check -r oldest.txt \
		'setuptools>=77' wheel ninja pybind11 hypothesis playwright pytest pytest-timeout pytest-xdist
	cd $(OLDEST) && FASTCAM_CPU_ONLY=1 .venv/bin/python -m pip install --no-deps --no-build-isolation -e .
	cd $(OLDEST) && OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "not long" --ignore=tests/bench --ignore=tests/cpp \
		--ignore=tests/cuda --ignore=tests/packaging $(WORKERS) $(PYTEST_ARGS)

# A kernel that hangs cannot be interrupted, so each worker ends by itself; last, in a process of their
# own, the kernels that have not yet run on a GPU.
test-cuda: build
	$(VENV_PYTHON) -m pytest --device cuda -o timeout_method=thread $(WORKERS) -k "not ring and not opcheck" \
		tests/ops $(wildcard tests/cuda/test_cuda_gpu*.py) tests/bench/test_bench_gpu_parts.py $(PYTEST_ARGS)
	timeout 120 $(VENV_PYTHON) -m pytest --device cuda -k ring tests/cuda/test_cuda_gpu_onepass.py

WORKERS = $(if $(filter-out 0 1,$(PYTEST_WORKERS)),-n $(PYTEST_WORKERS) --dist loadfile)

# Under AddressSanitizer; as released it is what the Python tests call, and a part of test-long.
test-cpp: $(BIN)/.requirements
	$(call ctest,build/cmake-asan,-DFASTCAM_SANITIZE=address)

test-cpp-release: $(BIN)/.requirements
	$(call ctest,build/cmake,)

define ctest
	$(BIN)/cmake -S . -B $(1) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja $(2)
	$(BIN)/cmake --build $(1) -j $(MAX_JOBS)
	$(BIN)/ctest --test-dir $(1) --output-on-failure --no-tests=error
endef

CXX_FILES = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cuh' -o -name '*.cu')

lint: $(BIN)/.requirements
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy

format: $(BIN)/.requirements
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)
	$(VENV_PYTHON) docs/map.py

# Registers, stack, local memory, atomics: a kernel that breaks a rule fails the build.
cuda-all: $(BIN)/.requirements
	env -u TORCH_CUDA_ARCH_LIST FORCE_CUDA=1 $(VENV_PYTHON) setup.py build_ext --only _C_cuda \
		--build-lib build/cuda-all --build-temp build/cuda-all/temp
	$(VENV_PYTHON) -m bench resources --check --library build/cuda-all/fastcam/_C_cuda*.so

# Torch's caching allocator would hide what lies outside a tensor. Only our kernels are watched: torch's
# would take hours. A bounds error fails, and so does a race. Graphs need the allocator, and counting
# launches the profiler, which cannot share the GPU with a sanitizer.
cuda-sanitize: build
	@$(VENV_PYTHON) -c 'import sys; from bench.gpu import missing_gpu; sys.exit(missing_gpu())'
	sanitizer=$$(PATH="$$PATH:$$($(VENV_PYTHON) build_config.py cuda-home)/bin" command -v compute-sanitizer) \
		|| { echo "compute-sanitizer (CUDA toolkit) not found"; exit 1; }; \
	for tool in memcheck racecheck synccheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$$sanitizer" --tool $$tool --error-exitcode 1 \
			--kernel-name kns=fastcam $(VENV_PYTHON) -m pytest --device cuda -x -o timeout=0 -k "not graph and not launch" \
			tests/cuda/test_cuda_gpu.py tests/cuda/test_cuda_gpu_attend.py tests/cuda/test_cuda_gpu_onepass.py tests/ops/test_attend.py tests/ops/test_cam_iou.py tests/ops/test_cam_iou_edges.py tests/ops/test_grad_cam.py \
			|| exit 1; \
	done

# A copy of the package with libraries of its own. PYTHONSAFEPATH: not the checkout's, which lies in
# the working folder. torch leaks what it registers, so leaks are not looked for.
SANITIZED = build/sanitize
sanitize-python: $(BIN)/.requirements
	FASTCAM_SANITIZE=address,undefined FASTCAM_CPU_ONLY=1 $(VENV_PYTHON) setup.py build_ext --only _C,_regions \
		--build-lib $(SANITIZED) --build-temp $(SANITIZED)/temp
	find fastcam bench -name "*.py" | tar cf - -T - | tar xf - -C $(SANITIZED)
	OMP_NUM_THREADS=1 PYTHONSAFEPATH=1 PYTHONPATH=$(SANITIZED) \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		$(VENV_PYTHON) -m pytest -p no:cacheprovider -o timeout=0 -m "not long" \
		-o pythonpath="tests/support tests/ops" tests/ops tests/regions $(PYTEST_ARGS)

clean:
	rm -rf build dist *.egg-info fastcam/*.so fastcam/_build_info.json .pytest_cache .mypy_cache .ruff_cache
	find fastcam tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f $(BIN)/.installed

distclean: clean
	rm -rf $(VENV)

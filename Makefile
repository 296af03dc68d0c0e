# Every chore is one command. A newcomer needs two, and both install what is missing: `make demo` and `make test`.
PYTHON := .venv/bin/python
# What cog fills in docs/: the tables of keys and routes.
COG := PYTHONPATH=.:src $(PYTHON) -m cogapp -I . --markers='<<<cog >>> <<<end>>>'
# All routes as OpenAPI: docs/openapi.json.
OPENAPI := PYTHONPATH=.:src $(PYTHON) -m docs.openapi
# Tests mostly wait for servers to end: more at a time than there are processors. What fails in that crowd is run once more,
# alone: servers that had to wait for a processor are no defect, whatever fails alone is one.
AT_A_TIME ?= 12
# For what only root may do.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Python keeps what it has compiled, also in a container whose image says not to: else each of the twelve compiles all tests.
unexport PYTHONDONTWRITEBYTECODE
ALONE := -n 0 --last-failed --last-failed-no-failures none

.PHONY: build demo dev test test-all image-test fresh-debian mutate mutate-wide torture coverage audit-packages check docs docs-answers docs-images gallery bench release help clean

demo:  ## Combines the scripts, and shows real studies travel through them (DEMO_ARGS=--exit ends after the table)
	@testing/install demo
	@$(PYTHON) -m testing.demo $(DEMO_ARGS)

dev:  ## An Orthanc to write a script with: make dev SCRIPT=path.py; it starts again at each change (DEV_ARGS goes to it)
	@testing/install demo
	@$(PYTHON) -m testing.dev $(or $(SCRIPT),$(error say which: make dev SCRIPT=path.py)) $(DEV_ARGS)

# First, whether all test modules can be imported: one that can't would be in neither of the two runs.
test: check  ## Everything, on the installed Orthanc (TEST_ARGS goes to pytest)
	@$(PYTHON) -m pytest --collect-only -qq >/dev/null || $(PYTHON) -m pytest --collect-only -q $(TEST_ARGS)
	$(PYTHON) -m pytest -n $(AT_A_TIME) --dist worksteal $(TEST_ARGS) || $(PYTHON) -m pytest $(TEST_ARGS) $(ALONE)

test-all: check  ## Everything, on three versions of Orthanc, and the images
	OPENAPI_LONG=1 tests/all_versions -n $(AT_A_TIME) --dist worksteal $(TEST_ARGS)
	@$(MAKE) image-test

image-test:  ## Builds the Dockerfile on both base images and runs the README's container blocks; needs root, no engine
	@testing/install systems
	$(SUDO) $(PYTHON) -m tests.systems.image_test $(IMAGE_TEST_ARGS)

fresh-debian:  ## Does what the README says in a fresh Debian 12 and 13 (SUITES=trixie chooses); needs root
	@testing/install systems
	$(SUDO) $(PYTHON) -m tests.systems.fresh_debian $(SUITES) $(FRESH_DEBIAN_ARGS)

mutate:  ## Breaks guards on purpose, one at a time: a test has to notice each (MUTATE_ARGS: a word of a row, -j 2)
	@testing/install test
	$(PYTHON) -m tests.mutants $(MUTATE_ARGS)

mutate-wide:  ## Changes every condition of what must not fail: a unit test has to notice each (MUTATE_ARGS: a word of a subject or module, -j 2)
	@testing/install test
	@[ -x build/cosmic-ray/bin/cosmic-ray ] || { python3 -m venv --clear build/cosmic-ray && build/cosmic-ray/bin/pip -q install cosmic-ray==8.7.0; }
	$(PYTHON) -m tests.mutation $(MUTATE_ARGS)

coverage:  ## Which lines of src/ the tests run, inside the newest Orthanc too (TEST_ARGS goes to pytest)
	@testing/install test
	$(PYTHON) -m tests.coverage -n $(AT_A_TIME) --dist worksteal $(TEST_ARGS)

torture:  ## Kills, stops, full disks, wrong clocks, bad networks while studies flow; then an account (TORTURE_ARGS="--seed 2")
	@testing/install test
	PYTHONPATH=.:src $(PYTHON) -m tests.torture $(TORTURE_ARGS)

audit-packages:  ## Known vulnerabilities of the packages; says so and does not fail where the database can't be reached
	@[ -x build/pip-audit/bin/pip-audit ] || { python3 -m venv --clear build/pip-audit && build/pip-audit/bin/pip -q install pip-audit==2.10.1; }
	@build/pip-audit/bin/python tests/audit_packages.py

check:  ## Style, types, and whether the built files and the tables of docs/ are what src/ gives
	@testing/install test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) tests/sizes.py
	$(PYTHON) src/build.py --check
	$(COG) --check $(wildcard docs/*.md)
	$(OPENAPI) --check

build:  ## Builds the scripts at the top from src/, and the tables of docs/ from the scripts
	python3 src/build.py
	@testing/install test
	$(COG) -r $(wildcard docs/*.md)
	$(OPENAPI)

release: check  ## What people download, in dist/: the scripts, all of them combined, and checksums (CONTRIBUTING.md, "A release")
	$(PYTHON) src/build_release.py dist

docs:  ## The pages as a site, in build/site/; a warning, a dead link or a dead anchor is an error
	@testing/install docs
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

docs-answers:  ## Writes into README and docs/ what the commands there really answer, where that has another shape
	@testing/install test
	WRITE_ANSWERS=1 $(PYTHON) -m pytest -q tests/docs/test_blocks.py $(TEST_ARGS)

docs-images:  ## Takes the pictures of docs/images/ again, where they have changed
	@testing/install test
	$(PYTHON) -m docs.pictures

gallery:  ## The thumbnails of real files beside Orthanc's own, as a page for people: build/gallery/index.html
	@testing/install test
	$(PYTHON) -m tests.series_thumbnail.gallery

bench:  ## All benchmarks, an hour on an idle machine: benchmarks/RESULTS.md (BENCH_ARGS="purge audit" does these two anew)
	@testing/install test
	$(PYTHON) -m benchmarks $(BENCH_ARGS)

bench-%:  ## benchmarks/NAME.py, e.g. bench-combine; BENCH_ARGS goes to it
	@testing/install test
	$(PYTHON) -m benchmarks.$(subst -,_,$*) $(BENCH_ARGS)

help:  ## This list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r target text; do printf '%-19s %s\n' "$$target" "$$text"; done

clean:  ## Removes what the commands above made
	[ ! -d .orthancs/systems ] || $(SUDO) rm -rf .orthancs/systems
	rm -rf .venv .demo .orthancs dist .mypy_cache .ruff_cache .pytest_cache .hypothesis build testing/build testing/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# Every chore is one command. A newcomer needs two, and both install what is missing: `make demo` and `make test`.
PYTHON := .venv/bin/python
# What cog fills: scripts and _contained.py with the shared pieces, docs/ with the tables of keys and routes.
CONTAINING := $(filter-out combine.py,$(wildcard *.py)) $(wildcard */_contained.py) $(wildcard docs/*.md)
COG := PYTHONPATH=. $(PYTHON) -m cogapp -I . --markers='<<<cog >>> <<<end>>>'
# Tests mostly wait for servers to end: more at a time than there are processors. What fails in that crowd is run once more,
# alone: servers that had to wait for a processor are no defect, whatever fails alone is one.
AT_A_TIME ?= 6
ALONE := -n 0 --last-failed --last-failed-no-failures none

.PHONY: demo dev test test-all check sync clean

demo:  ## Combines the scripts, and shows real studies travel through them (DEMO_ARGS=--exit ends after the table)
	@testing/install demo
	@$(PYTHON) -m testing.demo $(DEMO_ARGS)

dev:  ## An Orthanc to write a script with: make dev SCRIPT=path.py; it starts again at each change (DEV_ARGS goes to it)
	@testing/install demo
	@$(PYTHON) -m testing.dev $(or $(SCRIPT),$(error say which: make dev SCRIPT=path.py)) $(DEV_ARGS)

test: check  ## Everything, on the installed Orthanc (TEST_ARGS goes to pytest)
	$(PYTHON) -m pytest -n $(AT_A_TIME) --dist worksteal $(TEST_ARGS) || $(PYTHON) -m pytest $(TEST_ARGS) $(ALONE)

test-all: check  ## Everything, on three versions of Orthanc
	tests/all_versions -n $(AT_A_TIME) --dist worksteal $(TEST_ARGS)

check:  ## Style, types, and whether the copies of the shared pieces are in sync
	@testing/install test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(COG) --check $(CONTAINING)

sync:  ## Puts the shared pieces of common/ into the scripts that contain them
	$(COG) -r $(CONTAINING)

bench-%:  ## benchmarks/NAME.py, e.g. bench-combine; BENCH_ARGS goes to it
	@testing/install test
	$(PYTHON) -m benchmarks.$(subst -,_,$*) $(BENCH_ARGS)

clean:  ## Removes what the commands above made
	rm -rf .venv .demo .orthancs .mypy_cache .ruff_cache .pytest_cache .hypothesis build
	find . -name __pycache__ -prune -exec rm -rf {} +

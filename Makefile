# `make help` lists the targets. Everything installs what it needs (as root on Debian).
PYTHON := .venv/bin/python

.PHONY: help venv lock check test soak demo serve bench pictures deb

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make venv    the Python environment, from uv.lock
venv:
	@scripts/setup

## make lock    resolve dependencies again into uv.lock
lock: venv
	@scripts/lock

## make check   lint, format and types
check: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Tests with clocks share two cores with each other and with strangers. What failed is run once more, alone, and both outcomes
# are printed; what fails alone has failed, as does whatever a seed or an example makes fail.
tested = { $(PYTHON) -m pytest $(1) $(2) \
	|| { [ $$? -eq 1 ] && $(PYTHON) -m pytest $(1) --last-failed --last-failed-no-failures none --maxfail 1; }; }

## make test    all tests: on a real Asterisk with SIP phones, the page in a real browser, the packages on a Debian of their own
test: venv
	@# Apart, so that what computes takes no time from what is timed; each also where one before fails.
	@status=0; \
	$(call tested,tests/unit tests/contract tests/simulation,--numprocesses 2 --dist worksteal) || status=1; \
	$(call tested,tests/switch,--numprocesses 2 --dist worksteal) || status=1; \
	$(call tested,tests/browser) || status=1; \
	$(call tested,tests/packages,--numprocesses 2 --dist loadfile) || status=1; \
	exit $$status

## make soak    long faults on a real Asterisk, attacks, then an hour of steady load (SOAK="--minutes 5 --rate 40")
soak: venv
	$(PYTHON) -m pytest tests/switch/test_faults.py -m soak -o log_cli=true -o log_cli_level=INFO
	FAIRDIAL_SIMULATED_RUNS=50000 $(PYTHON) -m pytest tests/simulation --numprocesses 2
	$(PYTHON) -m benchmarks.hostile
	$(PYTHON) -m benchmarks.soak $(SOAK)

## make demo    calls through a real Asterisk, one table, ends by itself
demo: venv
	$(PYTHON) -m testbed.demo

## make serve   the same, stays up for a softphone
serve: venv
	$(PYTHON) -m testbed.demo --stay

## make bench   what FairDial adds, beside the bare switch (BENCH="--rate 50 --seconds 10"), and decisions, replayed calls and ledger steps a second
bench: venv
	$(PYTHON) -m benchmarks.cut_off
	$(PYTHON) -m benchmarks.setup_time $(BENCH)
	$(PYTHON) -m benchmarks.decisions $(DECISIONS)
	$(PYTHON) -m benchmarks.conferences $(CONFERENCES)
	$(PYTHON) -m benchmarks.replay $(REPLAY)
	$(PYTHON) -m benchmarks.page $(PAGE)
	$(PYTHON) -m benchmarks.ledger_steps $(LEDGER_STEPS)
	$(PYTHON) -m benchmarks.accounts $(ACCOUNTS)

## make pictures   the README's pictures of the page anew, from a running system
pictures: venv
	$(PYTHON) -m tests.browser.pictures

## make deb     the Debian package, in dist/
deb: venv
	@scripts/deb

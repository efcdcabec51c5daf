# Moat: the two commands are `make demo` and `make test`; `make` alone lists all of them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Nothing below depends on the directory's place or on what the user has activated.
export PATH := $(CURDIR)/build/venv/bin:$(PATH)
# The lab's own settings of podman, its way into the machines, and its own customer database.
# MOAT_LAB_PREFIX, where it is set, begins the names of the containers and networks, so that a
# second lab of a scenario can stand beside the first.
export CONTAINERS_CONF := $(CURDIR)/build/containers.conf
export ANSIBLE_CONNECTION_PLUGINS := $(CURDIR)/molecule/shared/connection_plugins
lab_database := sqlite:///$(CURDIR)/build/lab/default.sqlite

reports := build/reports
# Programs in Python whose names do not say so.
python_programs := scripts/demo scripts/count-tests molecule/shared/files/web/usr/local/bin/lab-web
pytest := python -m pytest -p no:cacheprovider

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## Install Debian packages and the virtual environment, where missing
	@scripts/setup

demo: setup ## Bring the lab up, apply site.yml, show a tunnel at work
	@MOAT_DATABASE=$(lab_database) python scripts/demo up

demo-down: setup ## Remove the lab
	@MOAT_DATABASE=$(lab_database) python scripts/demo down

lint: setup ## Check style and types
	@ruff check . $(python_programs)
	ruff format --check . $(python_programs)
	mypy
	yamllint --strict .
	# Playbooks are read without any customer database.
	ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED=false ansible-lint --offline --profile production

unit: setup ## Run the tests of the code, the modules and the roles, which need no lab
	@mkdir -p $(reports)
	$(pytest) --numprocesses 2 --dist loadfile tests --ignore tests/netns --ignore tests/interop \
	    --junitxml $(reports)/unit.xml

netns: setup ## Run the tests of real daemons, between network namespaces
	@mkdir -p $(reports)
	$(pytest) tests/netns --junitxml $(reports)/netns.xml

interop: setup ## Meet strongSwan and the Linux kernel's ESP, and print a matrix of what works
	@scripts/setup peers
	mkdir -p $(reports)
	$(pytest) tests/interop --junitxml $(reports)/interop.xml

# Seconds for each of the fuzzers' targets.
FUZZ_SECONDS ?= 60

fuzz: setup ## Hunt for octets that do more than make counters go up, for FUZZ_SECONDS a target
	@for target in parser responder; do
	    PYTHONPATH=tests/exchange:tests/support python tests/fuzz/run.py $$target $(FUZZ_SECONDS) build/fuzz/$$target
	done

# The scenarios of `make molecule`. The fleet's is not among them: it has a command of its own, for
# with its 27 machines everything would take too long on two cores.
SCENARIOS ?= default kidnet lockdown

molecule: setup ## Prove a tunnel in the lab, from empty containers to their removal
	@mkdir -p $(reports)
	for scenario in $(SCENARIOS); do
	    molecule --base-config .config/molecule/config.yml test --scenario-name $$scenario
	done

fleet: ## Rotate keys, revoke and kill the controller, with traffic in 24 tunnels
	@$(MAKE) molecule SCENARIOS=fleet

test: ## Everything but the fleet's lab: lint, unit, interop, netns, molecule
	@scripts/run-tests

scale: setup ## Measure 10,000 moats and customers; figures go to build/scale.json and fleet.json
	@python benchmarks/scale.py
	python benchmarks/fleet.py

# Options of the comparison: --rounds N, --seconds S, --only NAME..., --profile.
BENCH ?=

bench: setup ## Compare throughput and latency with others' tunnels; figures go to build/bench.json
	@scripts/setup bench
	python benchmarks/bench.py $(BENCH)

clean: demo-down ## Remove the lab, its images, and all that was built
	@podman images --quiet --filter reference=localhost/moat-lab | xargs --no-run-if-empty podman rmi
	rm -rf build src/moatvpn.egg-info

.PHONY: help setup demo demo-down lint unit netns interop fuzz molecule test scale bench clean

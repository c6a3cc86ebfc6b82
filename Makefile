# make demo: the lab and the main job on it.  make test: all checks and tests.
BIN = .venv/bin

.PHONY: demo test check unit lab-test lab-fleet lab-layouts lab-up lab-down bench venv promtool lock

demo: lab-up
	$(BIN)/pyinfra inventories/lab.py deploy.py -y
	@echo "Again: make demo    Look around: $(BIN)/r1fleet lab ssh t4    End it: make lab-down"

test: check lab-test

check: venv
	@scripts/need aria2c:aria2 curl:curl ssh:openssh-client nginx:nginx-light openssl:openssl \
	  update-ca-certificates:ca-certificates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit tests/operations

lab-test: venv
	@echo "==> the lab's tests begin with bare hosts: a running lab is ended first"
	$(BIN)/r1fleet lab down
	$(BIN)/r1fleet lab up
	$(BIN)/pytest tests/lab
	@$(MAKE) --no-print-directory lab-fleet

# Rollouts in waves, on eight hosts of one kind in place of the default lab.
lab-fleet: venv
	$(BIN)/r1fleet lab up --file lab/eight.yaml
	$(BIN)/pytest tests/fleet

lab-up: venv
	$(BIN)/r1fleet lab up

lab-down: venv
	$(BIN)/r1fleet lab down

# Ten other layouts of cards in place of the default lab; `make lab-up` brings that back.
lab-layouts: venv
	$(BIN)/r1fleet lab up --file lab/layouts.yaml
	$(BIN)/pytest tests/lab/test_residency.py

bench: lab-up
	$(BIN)/python bench/noop.py
	$(BIN)/python bench/status.py

venv:
	@scripts/venv

# docs/monitoring before Prometheus' own tool; needs an apt-get that has its package.
promtool: venv
	R1_PROMTOOL="$$(scripts/promtool)" $(BIN)/pytest -q tests/monitoring

# After a change of the dependencies in pyproject.toml (needs uv).
lock:
	uv pip compile -q --universal --generate-hashes --no-header --no-annotate --all-extras \
	  --python-version 3.11 -o requirements.lock pyproject.toml

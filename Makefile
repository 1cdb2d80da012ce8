# `make help` lists the targets. Everything that is slow is built once, into .venv and $(CONCLAVE_CACHE).
.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-testbed test-integration test-serving lint verify golden bench bench-models bench-operator e2e e2e-smoke e2e-parts images cluster cluster-down clean lock

PYTHON_BIN := .venv/bin/python
PYTEST := $(PYTHON_BIN) -m pytest --durations=40 --durations-min=10

.NOTPARALLEL: # tests share two cores and one cluster

# Importing vLLM without byte code takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## from nothing to tokens on this machine: no cluster, no GPU
	@tools/environment.sh local
	@$(PYTHON_BIN) tools/demo.py

test: test-unit test-testbed test-serving test-integration ## all tests: unit, golden, a real vLLM under Ray Serve, a real API server with KubeRay

test-unit: ## only what needs neither Kubernetes nor an engine: seconds
	@tools/environment.sh dev
	$(PYTEST) tests/unit tests/golden

test-testbed: ## only the test bed's own, of make cluster and make images; not where they have passed on this content
	@tools/environment.sh dev
	@$(PYTHON_BIN) -m tools.suites testbed $(if $(FORCE),--force)

test-integration: ## only what needs the real API server and KubeRay
	@tools/environment.sh dev
	@$(PYTHON_BIN) tools/build_tools.py etcd controlplane kuberay helm minio
	$(PYTEST) tests/integration

test-serving: ## only what needs the real engine
	@tools/environment.sh dev
	$(PYTEST) tests/serving

e2e: ## from apply to tokens in real pods: all parts that have not passed on this content; PART=models, ONLY=words, FORCE=1, KEEP=1
	@tools/environment.sh dev
	@$(PYTHON_BIN) -m tools.suites e2e --part "$(PART)" --only "$(ONLY)" $(if $(FORCE),--force) $(if $(KEEP),--keep)

e2e-smoke: ## of it the one model that CI runs too
	@tools/environment.sh dev
	$(if $(KEEP),CONCLAVE_E2E_KEEP=1) $(PYTHON_BIN) -m pytest -v --durations=0 --durations-min=20 e2e/test_smoke.py

e2e-parts: ## build what test-integration and e2e-smoke need: programs first, then images
	@tools/environment.sh dev
	@$(PYTHON_BIN) tools/build_tools.py etcd controlplane kuberay helm minio nodes containerd dns networkpolicy
	@$(PYTHON_BIN) -m tools.images operator
	@$(PYTHON_BIN) -m tools.images --apart /opt/environment serving-e2e

lint: ## ruff, mypy strict, import-linter
	@tools/environment.sh dev
	$(PYTHON_BIN) -m ruff format --check .
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m mypy
	.venv/bin/lint-imports

verify: ## regenerate what is generated, fail on a difference and on what git does not track
	@tools/environment.sh dev
	$(PYTHON_BIN) tools/generate.py
	git diff --exit-code
	@untracked=$$(git ls-files --others -- $$($(PYTHON_BIN) -c 'from tools.generate import GENERATED; print(*GENERATED)')); \
	test -z "$$untracked" || { echo "generated but not tracked; git add, then commit:" $$untracked >&2; exit 1; }

golden: ## rewrite the golden files; read the difference before you commit it; SHOW=adapters prints a case whole
	@tools/environment.sh dev
	@$(if $(SHOW),$(PYTHON_BIN) -m tests.golden $(SHOW),$(PYTHON_BIN) -m pytest tests/golden --update-golden)

bench: ## the local path against bare vLLM, side by side
	@tools/environment.sh dev
	$(PYTHON_BIN) benchmarks/local_path.py

bench-models: ## our DBRX and Grok-1 against vLLM's Mixtral of the same shapes
	@tools/environment.sh dev
	$(PYTHON_BIN) -m benchmarks.models

bench-operator: ## the operator of 1,000 models on a real API server, before issue 13 and now; OPTIONS="--count 300" passes options on
	@tools/environment.sh dev
	@$(PYTHON_BIN) tools/build_tools.py etcd controlplane kuberay
	$(PYTHON_BIN) -m benchmarks.operator_scale $(OPTIONS)

images: ## images of the operator and of model pods (CPU), without a container engine: root on Debian
	@tools/environment.sh dev
	@$(PYTHON_BIN) -m tools.images operator serving-cpu

cluster: ## a real Kubernetes on this machine: two nodes with fake GPUs, KubeRay; Linux and root
	@tools/environment.sh dev
	@$(PYTHON_BIN) -m tools.cluster up $(CLUSTER)

cluster-down: ## end it, and check that nothing of it is left
	@tools/environment.sh dev
	@$(PYTHON_BIN) -m tools.cluster down

lock: ## resolve the requirements anew (needs the network)
	@tools/environment.sh dev
	tools/lock.sh

clean: ## remove what was made inside the tree; the cache outside stays
	rm -rf .venv build dist .run .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

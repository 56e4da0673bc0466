PYTHON ?= python
RESULTS ?= results.csv

SPHINX = $(PYTHON) -m sphinx -q -W --keep-going docs docs/_build/html

.PHONY: install lint test test-slow fuzz-loaders docs docs-quick docs-output docs-figures quickstart bench benchmark-smoke bench-retrieval bench-post-shift bench-speed bench-throughput bench-value-functions

install:
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev]"

lint:
	ruff check .
	ruff format --check .
	codespell
	mypy

test:
	$(PYTHON) -m pytest

test-slow:
	$(PYTHON) -m pytest -m "slow or data"

# 1,000 damaged files; CI loads some of them.
fuzz-loaders:
	$(PYTHON) -m pytest -s -m slow tests/test_loader_fuzz.py

# The site, in docs/_build/html; warnings are errors. The quick one shows the gallery without running it.
docs:
	$(SPHINX)

docs-quick:
	DOCS_GALLERY=0 $(SPHINX)

# Run the code of all pages, and write below it what it prints.
docs-output:
	$(PYTHON) -m tests.pages --write

docs-figures:
	$(PYTHON) docs/figures.py

quickstart:
	$(PYTHON) examples/quickstart.py

# Takes hours; goes on where it stopped. Needs SK_METRICOPT_DATA_HOME.
bench:
	$(PYTHON) -m benchmarks.run --suite gain --out gain.csv
	$(PYTHON) -m benchmarks.run --suite gain --tasks confirm --settings labelled,either --budgets 25,50,500 \
		--methods ours,mixbias,mixloss,bias,cma_.02,cma_.05,cma_.1 --out gain.csv
	$(PYTHON) -m benchmarks.run --suite guidance --out guidance.csv
	$(PYTHON) -m benchmarks.gain_report gain.csv guidance.csv

# Two tasks on data that ships with scikit-learn, every method, and their report: two minutes.
benchmark-smoke:
	folder=$$(mktemp -d) && \
	$(PYTHON) -m benchmarks.run --tasks digits/macro_f1/0.2,breast_cancer/precision_at_recall_95 \
		--seeds 1 --jobs 2 --out $$folder/gain.csv && \
	$(PYTHON) -m benchmarks.gain_report $$folder/gain.csv --docs $$folder && \
	rm -r $$folder

# Takes hours too. Needs the extra `bench`; results of the committed code are in docs/benchmarks.
bench-retrieval:
	$(PYTHON) -m benchmarks.retrieval --out $(RESULTS)
	$(PYTHON) -m benchmarks.retrieval_report $(RESULTS)

# An hour; goes on where it stopped. Needs SK_METRICOPT_DATA_HOME and, as the above, `bench`.
bench-post-shift:
	$(PYTHON) -m benchmarks.post_shift --tasks all --out $(RESULTS)
	$(PYTHON) -m benchmarks.post_shift --setting adult --seeds 10 --budgets 50,150 --out $(RESULTS)
	$(PYTHON) -m benchmarks.post_shift_report $(RESULTS)

# Two hours; results of the committed code are in docs/benchmarks. Needs SK_METRICOPT_DATA_HOME.
bench-value-functions:
	$(PYTHON) -m benchmarks.value_functions --settings labelled,opaque --tasks confirm --out $(RESULTS)
	$(PYTHON) -m benchmarks.value_functions_report $(RESULTS) > docs/benchmarks/value_functions.md

# Ten minutes; results of the committed code are in docs/benchmarks.
bench-speed:
	$(PYTHON) -m benchmarks.run --suite speed --out $(RESULTS)
	$(PYTHON) -m benchmarks.speed_report $(RESULTS)

# Five minutes, on a machine that does little else. Needs SK_METRICOPT_DATA_HOME.
bench-throughput:
	$(PYTHON) -m benchmarks.throughput --out $(RESULTS)
	$(PYTHON) -m benchmarks.throughput_report $(RESULTS)

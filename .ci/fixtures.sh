#!/usr/bin/env bash
# Slow suite: make the cross-check fixtures again, with the pinned versions, and compare them with the committed ones; make
# traces of transformers again and judge them.
#
# Needs Python 3.11 (or PYTHON=…), cc and binutils, and PyPI. The environment is kept in .cache/fixtures-venv until
# what is installed changes. Measured on 2 cores, x86_64 Linux:
#   download 961 MB, of which torch 900 MB (PyPI's CUDA build without the nvidia-* wheels that it
#   declares, some GB more: fixtures/crosscheck/torch_stubs.py stands in for them)
#   environment on disk 2.1 GB; install 45 s at about 80 MB/s; making and comparing 12 s (57 s in all).
set -euo pipefail
cd "$(dirname "$0")/.."

.ci/fixtures-venv.sh
venv=$PWD/.cache/fixtures-venv

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=
"$venv/bin/python" fixtures/make.py --out "$made"
(cd fixtures && "$venv/bin/python" -m crosscheck.compare "$made" .)
"$venv/bin/python" fixtures/gate_values.py --check

# Traces depend on the CPU, so they are not compared but judged: all of them, of more steps than the committed ones.
(cd fixtures && "$venv/bin/python" -m tracing.orders)
"$venv/bin/python" fixtures/transformers_traces.py "$made/traces" --steps 3 >"$made/traces.txt"
diff --recursive "$made/traces/models" fixtures/transformers-traces/models
DRIFTPROBE_TRANSFORMERS_TRACES=$made/traces cargo test --test judging transformers_traces

# Dumps in other tools' layouts, written and read again.
"$venv/bin/python" fixtures/import_dumps.py "$made/import"
DRIFTPROBE_IMPORT_DUMPS=$made/import cargo test --test imports

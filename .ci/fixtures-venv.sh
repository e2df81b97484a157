#!/usr/bin/env bash
# Makes the environment of the slow Python suites, with pinned versions of torch and transformers, in .cache/fixtures-venv. It
# is kept until what is installed changes.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=fixtures/requirements.txt
venv=$PWD/.cache/fixtures-venv
stamp=$venv/installed.sha256

# Python 3.11 made the fixtures; the pinned versions install on later ones too.
python=${PYTHON:-$(command -v python3.11 || command -v python3)}

if ! sha256sum --check --status "$stamp" 2>/dev/null; then
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet --no-cache-dir --no-deps --requirement "$requirements"
  (cd fixtures && "$venv/bin/python" -m crosscheck.torch_stubs)
  sha256sum "$requirements" fixtures/crosscheck/torch_stubs.py >"$stamp"
fi

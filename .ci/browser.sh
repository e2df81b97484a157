#!/usr/bin/env bash
# Slow suite: drift.html in a real headless Chromium: filters, keys, what is heard and seen, hostile text, no script, print.
#
#   .ci/browser.sh                  checks
#   .ci/browser.sh --screenshots    checks, and makes the pictures of docs/images again
#
# Needs Python 3.9 or later and PyPI; Chromium is installed by apt-get where it is missing. The environment is kept in
# .cache/browser-venv.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/.cache/browser-venv
requirements=.ci/browser/requirements.txt

chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}
if [ -z "$chromium" ]; then
  apt-get update -qq && apt-get install -y -qq chromium
  chromium=$(command -v chromium)
fi
if ! sha256sum --check --status "$venv/installed.sha256" 2>/dev/null; then
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet --no-cache-dir --requirement "$requirements"
  sha256sum "$requirements" >"$venv/installed.sha256"
fi

cargo build --quiet
binary=${CARGO_TARGET_DIR:-$PWD/target}/debug/driftprobe
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# A PASS, a FAIL whose fault lies in a layer that was not recorded, a run of hostile names, and one that no model judged.
run() {
  local expected=$1 status=0
  shift
  "$binary" "$@" >/dev/null || status=$?
  [ "$status" = "$expected" ] || { echo "exit status $status in place of $expected: driftprobe $*" >&2; exit 1; }
}
run 0 run --out "$dir/pass"
run 1 run --fault GQA_MAP@decode:layer3 --out "$dir/fail"
run 0 run --prompts .ci/browser/hostile.json --layers 0 --out "$dir/hostile"
run 3 analyze crates/driftprobe-trace/tests/fixtures/greta/drift --out "$dir/greta/report"

screenshots=
[ "${1:-}" != --screenshots ] || screenshots=$PWD/docs/images
env CHROMIUM="$chromium" RUNS="$dir" SCREENSHOTS="$screenshots" PYTHONDONTWRITEBYTECODE=1 \
  "$venv/bin/python" -m pytest --quiet -p no:cacheprovider .ci/browser

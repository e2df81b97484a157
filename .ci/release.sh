#!/usr/bin/env bash
# What a release consists of, as far as it can be checked without the network: packages, bill of materials, workflows, and an
# archive's contents. DRIFTPROBE names a binary to use instead of building one.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo xtask release check
if [ -z "${DRIFTPROBE:-}" ]; then
  cargo build --release --quiet -p driftprobe-cli
  DRIFTPROBE=${CARGO_TARGET_DIR:-$PWD/target}/release/driftprobe
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo xtask release stage --binary "$DRIFTPROBE" --out "$work/archive"
for page in "$work"/archive/man/*.1; do
  grep -q '^\.TH ' "$page" || { echo "$page is no manual page" >&2; exit 1; }
done
bash -n "$work/archive/completions/driftprobe.bash"
test "$("$work/archive/bin/driftprobe" --version)" = "$("$DRIFTPROBE" --version)"

# Where there is a parser.
for python in .cache/fixtures-venv/bin/python python3; do
  if "$python" -c 'import yaml' 2>/dev/null; then
    "$python" - .github/workflows/*.yml <<'PY'
import sys, yaml

for path in sys.argv[1:]:
    workflow = yaml.safe_load(open(path))
    # YAML 1.1 reads the key `on` as true.
    assert {"name", True, "permissions", "jobs"} <= set(workflow), path
    for name, job in workflow["jobs"].items():
        assert "uses" in job or ("runs-on" in job and job["steps"]), f"{path}: {name}"
        for needed in [job.get("needs", [])] if isinstance(job.get("needs"), str) else job.get("needs", []):
            assert needed in workflow["jobs"], f"{path}: {name} needs {needed}"
PY
    exit
  fi
done
echo "no YAML parser here: the workflows were not parsed" >&2

#!/usr/bin/env bash
# The GitHub Action and the pre-commit hook: their YAML parses, and the commands in it run, as a runner would run them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if [ -n "${DRIFTPROBE:-}" ]; then binary=$DRIFTPROBE; else
  cargo build --release --quiet --manifest-path "$root/Cargo.toml"
  binary=${CARGO_TARGET_DIR:-$root/target}/release/driftprobe
fi
mkdir bin && ln -s "$binary" bin/driftprobe
export PATH=$PWD/bin:$PATH

# The `run:` blocks of a step by its name, as YAML has them: indented by more than their key.
block() {
  awk -v name="- name: $2" '
    index($0, name) { on = 1 }
    on && /^ *run: \|/ { match($0, /^ */); depth = RLENGTH; reading = 1; next }
    on && /^ *run: / { sub(/^ *run: /, ""); print; exit }
    reading { match($0, /^ */); if (RLENGTH <= depth && length($0) > 0) exit; print substr($0, depth + 3) }
  ' "$root/examples/$1"
}

# The workflow's steps in their order: what records needs the program.
grep -n -- '- name: Install\|- name: Record' "$root/examples/github-action/workflow.yml" | head -1 | grep -q Install
block github-action/workflow.yml Install >first.sh
expect 0 bash -e first.sh
block github-action/workflow.yml Record >record.sh
expect 0 bash -e record.sh
cp "$root/examples/github-action/matrix.toml" .
block github-action/action.yml "Install driftprobe" >install.sh
expect 0 bash -e install.sh
block github-action/action.yml Gate >gate.sh
export RUNS=runs/nightly ARGUMENTS="--matrix matrix.toml --preset guardrail,flash-attn"
export GITHUB_OUTPUT=$PWD/output GITHUB_STEP_SUMMARY=$PWD/summary.md
expect 0 bash -e gate.sh
grep -qx 'verdict=PASS' output
grep -q '^# Gate: PASS' summary.md
test -s driftprobe-gate/junit.xml
rm -r runs/nightly/seed-2
expect 3 bash -e gate.sh
grep -qx 'verdict=INCONCLUSIVE' output

cp -r "$root/examples/pre-commit" hook
(cd hook && expect 0 ./drift.sh)

# Where there is a YAML parser, the files themselves.
if python3 -c 'import yaml' 2>/dev/null; then
  python3 - "$root"/examples/github-action/*.yml "$root"/examples/pre-commit/.pre-commit-config.yaml <<'PY'
import sys, yaml

for path in sys.argv[1:]:
    parsed = yaml.safe_load(open(path))
    assert isinstance(parsed, dict) and parsed, path
PY
fi

#!/usr/bin/env bash
# How many mutants of the judging core its tests notice: mutants/run.sh [FILE…], files of crates/driftprobe/src. Prints the
# survivors, and a line a file. Works in a copy (MUTANTS_DIR, or a new folder in /tmp), which is left for another look.
#
# A mutant is caught if a unit test of the core or one of the tests listed here fails, or if they take too long with it. TESTS
# names other files of crates/driftprobe/tests/judging: those in which a model judges runs take minutes a mutant.
set -euo pipefail
cd "$(dirname "$0")/.."
files=("$@")
[ $# -gt 0 ] || files=(pair.rs pair/coverage.rs evidence/metrics.rs judge.rs judge/attribute.rs verdict.rs verdict/grounds.rs digest/merge.rs)
read -ra tests <<<"${TESTS:-vacuity first_failure properties digest greta undeserved rules}"
filters=${tests[*]/%/::}
work=${MUTANTS_DIR:-$(mktemp -d)}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target}

mkdir -p "$work/tree"
git ls-files -z | xargs -0 tar -c | tar -x -C "$work/tree"
core=$work/tree/crates/driftprobe
cat >>"$core/src/lib.rs" <<'RS'

/// Whether this mutant was chosen.
#[doc(hidden)]
pub fn mutated(number: usize) -> bool {
    static CHOSEN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| std::env::var("MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(0)) == number
}
RS
cargo run --quiet --release --manifest-path mutants/Cargo.toml -- "$work/tree" "${files[@]/#/crates/driftprobe/src/}" >"$work/mutants.tsv"
(cd "$work/tree" && cargo test --quiet --package driftprobe --lib --test judging --no-run --message-format json) 2>"$work/build.log" |
  grep -o '"executable":"[^"]*"' | cut -d'"' -f4 >"$work/programs"

# Without a mutant everything passes; its time is what the limit is taken from.
suite() {
  cd "$core"
  while read -r program; do
    case $program in */judging-*) only=$filters ;; *) only= ;; esac
    # shellcheck disable=SC2086  # several filters
    timeout "$limit" "$program" --quiet $only || return 1
  done <"$work/programs"
}
limit=900 started=$SECONDS
(MUTANT=0 suite) >"$work/clean.log" 2>&1 || { echo "the tests fail without a mutant: $work/clean.log" >&2; exit 1; }
limit=$((5 * (SECONDS - started) + 20))
one() {
  if (MUTANT=$1 suite) >"$work/log.$1" 2>&1; then echo "missed"; else echo "caught"; rm "$work/log.$1"; fi
}
export -f one suite
export work core limit filters
touch "$work/results"
cut -f1 "$work/mutants.tsv" | grep -vxFf <(cut -f1 "$work/results") |
  xargs -P "${JOBS:-1}" -I{} bash -c 'printf "%s\t%s\n" {} "$(one {})" >>"$work/results"' || true

join -t $'\t' <(sort "$work/mutants.tsv") <(sort "$work/results") | sort -n >"$work/all.tsv"
awk -F'\t' '$4 == "missed" { print "missed: " $2 ": " $3 }' "$work/all.tsv"
awk -F'\t' '{ split($2, at, ":"); all[at[1]]++; caught[at[1]] += $4 == "caught" }
  END { for (file in all) printf "%s: %d mutants, %d caught\n", file, all[file], caught[file] }' "$work/all.tsv" | sort

#!/usr/bin/env bash
# How many mutants of the judging core its tests notice: mutants/run.sh [FILE…], files of crates/driftprobe/src. Prints the
# survivors, and a line a file. Works in a copy (MUTANTS_DIR, or a new folder in /tmp), which is left for another look; the same
# folder again goes on where it was interrupted.
#
# A mutant is caught if one of the tests of its file fails or takes too long with it: those of mutants/tests.txt, in that order, or
# those of TESTS for all files. EVERY=3 tries the first mutant of each file and every third after it, JOBS=2 two at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
files=("$@")
[ $# -gt 0 ] || files=(pair.rs pair/coverage.rs evidence/metrics.rs judge.rs judge/attribute.rs verdict.rs verdict/grounds.rs digest/merge.rs)
work=${MUTANTS_DIR:-$(mktemp -d)}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target} INSTA_UPDATE=no

# The tests of a file; a line that begins with * is for all the others.
tests_of() {
  [ -z "${TESTS:-}" ] || { echo "$TESTS"; return; }
  awk -v file="$1" '$1 == file { own = 1; $1 = ""; print } $1 == "*" { $1 = ""; other = $0 } END { if (!own) print other }' mutants/tests.txt
}

core=$work/tree/crates/driftprobe
if [ ! -e "$work/programs" ]; then
  mkdir -p "$work/tree"
  git ls-files -z | xargs -0 tar -c | tar -x -C "$work/tree"
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
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4 >"$work/programs.new" || { cat "$work/build.log" >&2; exit 1; }
  mv "$work/programs.new" "$work/programs"
fi
unit=$(grep -v '/judging-' "$work/programs") judging=$(grep '/judging-' "$work/programs")
for file in "${files[@]}"; do printf 'crates/driftprobe/src/%s\t%s\n' "$file" "$(tests_of "$file" | xargs)"; done >"$work/tests.tsv"

# One step of the tests: the unit tests, or a filter.
step() {
  cd "$core"
  if [ "$1" = unit ]; then timeout "$2" "$unit" --quiet; else timeout "$2" "$judging" --quiet "$1"; fi
}
# Without a mutant everything passes; the limit of each step is taken from its time.
for name in $(cut -f2 "$work/tests.tsv"); do
  ! grep -qs "^$name	" "$work/limits" || continue
  started=$SECONDS
  (MUTANT=0 step "$name" 900) >"$work/clean.log" 2>&1 || { echo "$name fails without a mutant: $work/clean.log" >&2; exit 1; }
  grep -q ' [1-9][0-9]* passed' "$work/clean.log" || { echo "$name: no such test" >&2; exit 1; }
  printf '%s\t%s\n' "$name" $((5 * (SECONDS - started) + 20)) >>"$work/limits"
done
one() {
  local file name
  file=$(awk -F'\t' -v n="$1" '$1 == n { split($2, at, ":"); print at[1] }' "$work/mutants.tsv")
  for name in $(awk -F'\t' -v f="$file" '$1 == f { print $2 }' "$work/tests.tsv"); do
    if ! (MUTANT=$1 step "$name" "$(awk -F'\t' -v n="$name" '$1 == n { print $2 }' "$work/limits")") >"$work/log.$1" 2>&1; then
      rm "$work/log.$1"
      printf 'caught\t%s' "$name"
      return
    fi
  done
  printf 'missed\t'
}
export -f one step
export work core unit judging
touch "$work/results"
awk -F'\t' -v every="${EVERY:-1}" 'NR == FNR { files[$1]; next } { split($2, at, ":") }
  at[1] in files && all[at[1]]++ % every == 0 { print $1 }' "$work/tests.tsv" "$work/mutants.tsv" >"$work/chosen"
grep -vxFf <(cut -f1 "$work/results") "$work/chosen" |
  xargs -P "${JOBS:-1}" -I{} bash -c 'found=$(one {}); printf "%s\t%s\n" {} "$found" >>"$work/results"' || true

join -t $'\t' <(sort "$work/mutants.tsv") <(sort "$work/results") | join -t $'\t' - <(sort "$work/chosen") | sort -n >"$work/all.tsv"
awk -F'\t' '$4 == "missed" { print "missed: " $2 ": " $3 }' "$work/all.tsv"
awk -F'\t' '{ split($2, at, ":"); all[at[1]]++; caught[at[1]] += $4 == "caught" }
  END { for (file in all) printf "%s: %d mutants, %d caught\n", file, all[file], caught[file] }' "$work/all.tsv" | sort

#!/usr/bin/env bash
# Recording less: within a budget, in two passes, compressed. A clean run still passes, and a fault between the layers that were
# kept is still found and named; what was left out is said in every report.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

small=(--prompts 'The quick brown fox' --repeats 0 --mode as_designed)
fault=(--fault SCALE_WRONG@decode:layer5)
# Bytes of a run without its reports.
size_of() { find "$1" -type f -not -path '*/report/*' -printf '%s\n' | awk '{ all += $1 } END { print all }'; }

# A budget holds for all that is recorded; one that is too small for the statistics of all rows is refused before any work.
expect 0 driftprobe run "${small[@]}" --budget 350kB --out budget >said
grep -q LEFT_OUT said
test "$(size_of budget)" -le 350000
expect 2 driftprobe run "${small[@]}" --budget 20kB --out nothing
test ! -e nothing
expect 1 driftprobe run "${small[@]}" --budget 480kB "${fault[@]}" --out budget-fault
grep -q SCALE_WRONG budget-fault/report/drift.md

# In two passes: fingerprints of every layer, then whole rows around the place at which the phases part.
expect 0 driftprobe run "${small[@]}" --two-pass --out two
test -f two/search-1/manifest.json
expect 1 driftprobe run "${small[@]}" --two-pass "${fault[@]}" --out two-fault
grep -q SCALE_WRONG two-fault/report/drift.md
# The first pass by itself is half of a run, and does not pass.
rm -r two/search-1
expect 3 driftprobe analyze two >said
grep -q NO_SECOND_PASS said
# It is one way or the other.
expect 2 driftprobe run "${small[@]}" --two-pass --budget 1MB --out both

# Compressed: the same rows and the same verdicts in fewer bytes; `zstd -d` gives the plain files.
long=(--prompt-tokens 96 --layers 0,8 --steps 2)
expect 0 driftprobe run "${small[@]}" "${long[@]}" --out plain
expect 0 driftprobe run "${small[@]}" "${long[@]}" --compress --out packed
cmp plain/report/drift.tsv packed/report/drift.tsv
test "$(size_of packed)" -lt "$(size_of plain)"

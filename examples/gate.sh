#!/usr/bin/env bash
# A gate for CI: the noise model decides, other tools' gates stand beside it. PASS (0), FAIL (1), INCONCLUSIVE (3).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
small=(--prompts 'The quick brown fox' --layers 0,1,2 --repeats 0)

# A healthy engine: bit equality would call it broken, since rounding parts most rows.
expect 0 driftprobe run "${small[@]}" --seed 1 --out runs/seed-1
expect 0 driftprobe gate runs/seed-1 --preset batch-invariant,sglang,flash-attn --out gate
grep -q 'batch-invariant.*no.*FAIL' gate/gate.tsv
expect 1 driftprobe gate runs/seed-1 --preset batch-invariant --decide preset

# A bug that cosine does not see: the noise model names it.
expect 1 driftprobe run "${small[@]}" --fault NORM_EPS:attn:0.001@decode:layer1 --out runs/faulty
expect 0 driftprobe gate runs/faulty --preset cosine --decide preset
expect 1 driftprobe gate runs/faulty --format junit >junit.xml
grep -q '<failure' junit.xml

# No worse than last night's run; a run of other prompts is no baseline.
expect 0 driftprobe run "${small[@]}" --seed 1 --out runs/tonight
expect 0 driftprobe gate runs/tonight --baseline runs/seed-1 --decide baseline
expect 1 driftprobe gate runs/faulty --baseline runs/seed-1 --decide baseline
expect 0 driftprobe run --prompts 'Something else' --layers 0,1,2 --repeats 0 --out runs/other
expect 3 driftprobe gate runs/other --baseline runs/seed-1 --decide baseline

# A matrix: what is there is what manifests say, and a cell that no run fills is no pass.
mkdir nightly && mv runs/seed-1 nightly/whatever
cat >matrix.toml <<'TOML'
prompts = ["text_0"]
seeds = [1, 2]
kv_aligned = [0, 1]
dtype = "f32"
TOML
expect 3 driftprobe gate nightly --matrix matrix.toml --preset guardrail
expect 0 driftprobe run "${small[@]}" --seed 2 --out nightly/another
expect 0 driftprobe gate nightly --matrix matrix.toml --preset guardrail --format json >gate.json
grep -q '"guardrail": "PASS_GUARDRAIL"' gate.json

# Dumps of logits that GRETA wrote.
for mode in prefill decode; do
  mkdir -p "logits/$mode"
  echo "{\"mode\": \"$mode\", \"kv_aligned\": 1, \"token_span\": {\"start\": 3, \"count\": 2}}" >"logits/$mode/metadata.json"
  printf '{"token_idx": %s, "token_id": 7, "logits": [%s, 1.5, 0]}\n' 3 2 4 1 | gzip >"logits/$mode/logits.jsonl.gz"
done
expect 0 driftprobe gate logits --preset guardrail
# A span that is shorter than promised does not pass.
printf '{"token_idx": 3, "token_id": 7, "logits": [2, 1.5, 0]}\n' | gzip >logits/decode/logits.jsonl.gz
expect 3 driftprobe gate logits --preset guardrail

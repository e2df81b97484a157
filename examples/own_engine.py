#!/usr/bin/env python3
"""The smallest run that can PASS: own_engine.py RUN. Put your engine's two ways to compute a row in place of `row`."""
import json, pathlib, struct, sys

TOKENS = [7, 11, 13]  # one prompt; its last token is traced


def row():
    return [token / (i + 1) for i, token in enumerate(TOKENS * 4)]


def event(phase, step, seq_len, values):
    h = 1469598103934665603  # greta-fnv1a-256 of docs/trace-format.md: covers rows of up to 256 values whole
    for (word,) in struct.iter_unpack("<I", struct.pack(f"<{len(values)}f", *values)):
        h = (h ^ word) * 1099511628211 % 2**64
    return {"event": "stage_trace", "prompt_id": "hello", "phase": phase, "point": "attn_out", "layer": 0, "step": step,
            "pos_id": 2, "logical_tok_idx": 2, "token_id": TOKENS[2], "seq_len": seq_len, "dtype": "f32",
            "shape": [len(values)], "hash": h, "hash_algo": "greta-fnv1a-256", "nan": 0, "inf": 0}


run = pathlib.Path(sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__))
(run / "traces").mkdir(parents=True)
prefill, decode = event("prefill_last", 0, len(TOKENS), row()), event("decode0", 1, 1, row())
(run / "traces/hello_trace.jsonl").write_text(json.dumps(prefill) + "\n")
(run / "traces/hello_decode_trace.jsonl").write_text(json.dumps(decode) + "\n")
manifest = {"schema": 1, "prompts": [{"id": "hello", "tokens": TOKENS}], "layers": [0], "points": ["attn_out"],
            "steps": 1, "complete": True}  # written last: whatever stands there before it cannot PASS
(run / "manifest.json").write_text(json.dumps(manifest))

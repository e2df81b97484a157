"""What the fuzzers begin with: `python3 fuzz/corpus.py CORPUS` makes a folder a target in CORPUS, as fuzz/run.sh does.

Most of it is cut from the fixtures; what only other programs can write is taken from fuzz/seeds/, which make_seeds.py wrote. A
fuzzer's inputs are short, so of a large file its beginning is taken, and of a GGUF or safetensors file one that says the
same with fewer tensors.
"""

import gzip
import json
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/hostile"))
from make import gguf, text  # noqa: E402

FIXTURES = ROOT / "fixtures"
OUT = Path(sys.argv[1])
SIZE_MAX = 1024


def put(target, data, size_max=SIZE_MAX):
    folder = OUT / target
    folder.mkdir(parents=True, exist_ok=True)
    data = data[:size_max]
    name = f"{len(list(folder.iterdir())):03d}"
    (folder / name).write_bytes(data)


def safetensors(tensors):
    header, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def texts(values):
    return struct.pack("<IQ", 8, len(values)) + b"".join(text(v) for v in values)


def built_llama():
    """What crates/driftprobe-hostile/src/built.rs makes a whole model of: one layer, four wide, with a tokenizer."""
    pairs = [[0, 1, 0]] + [[key, 0, value] for key, value in [(2, 4), (3, 2), (4, 1), (5, 1), (6, 4), (7, 2)]]
    pairs += [[8, 3, *struct.pack(">f", 1e-5)], [16, 1, 0], [17, 5, 3, 1, 97, 1, 98, 2, 97, 98], [18, 6, 3, 0, 0, 1],
              [19, 7, 3, 1, 1, 1]]
    tensors, at = [], 0
    for name, shape in [(0, (4, 2)), (1, (4,)), (4, (4,)), (5, (4, 4)), (6, (4, 2)), (7, (4, 2)), (8, (4, 4)), (9, (4,)),
                        (10, (4, 4)), (11, (4, 4)), (12, (4, 4))]:
        tensors.append([name, len(shape), *shape, 0, at])
        at += 2 if len(shape) == 2 and shape[1] == 4 else 1
    return bytes([len(tensors), len(pairs)] + sum(pairs + tensors, []) + [at, 0])


def main():
    manifests = sorted(FIXTURES.glob("transformers-traces/*/manifest.json"))[::8]
    for path in manifests:
        manifest = json.loads(path.read_text())
        for key in ("config", "env", "host"):
            manifest.pop(key, None)
        put("manifest", json.dumps(manifest).encode(), 2048)
        put("contract", json.dumps(manifest.get("contract", {})).encode())
    small = {"schema": 1, "complete": True, "steps": 1, "layers": [0], "points": ["x_in", "logits"],
             "prompts": [{"id": "p", "tokens": [1, 2]}, {"id": "q", "tokens": [3]}]}
    put("manifest", json.dumps(small).encode())
    for path in sorted((ROOT / "crates/driftprobe-trace/tests").rglob("*.jsonl")) + sorted(
        FIXTURES.glob("transformers-traces/*/traces/*.jsonl")
    )[::8]:
        lines = path.read_bytes().split(b"\n")[:2]
        for line in lines:
            put("events", line + b"\n")
        put("events", b"\n".join(lines) + b"\n")
        put("index", json.dumps(small).encode() + b"\n\n" + b"\n".join(lines) + b"\n", 2048)
        put("index", b"\n\n" + b"\n".join(lines))
        put("events_gz", gzip.compress(b"\n".join(lines)))
    rows = safetensors({"a": ("F32", [2], bytes(8)), "b": ("BF16", [2, 1], bytes(4)), "c": ("F16", [0], b"")})
    for target in ("payload", "safetensors"):
        put(target, rows)
        put(target, safetensors({"x": ("F64", [], bytes(8))}))
    part = {"search": 0, "mode": "as_designed", "repeat": 0, "files": {"a.parquet": {"rows": 3, "hash": "xxh3-128:0"}}}
    put("inventory", json.dumps({"schema": 1, "run": "r", "parts": [part]}).encode())
    put("weight_files", b'{"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    for path in sorted(FIXTURES.glob("hf/*/config.json")):
        put("config", json.dumps(json.loads(path.read_text())).encode(), 2048)
    number = lambda n: struct.pack("<I", n)
    llama = [("general.architecture", 8, text("llama"))] + [
        (f"llama.{key}", 4, number(value))
        for key, value in [("embedding_length", 4), ("block_count", 1), ("feed_forward_length", 4), ("vocab_size", 2),
                           ("attention.head_count", 2), ("attention.head_count_kv", 1)]
    ] + [("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5))]
    words = [("tokenizer.ggml.model", 8, text("llama")), ("tokenizer.ggml.tokens", 9, texts(["<s>", "a", "b", "ab"])),
             ("tokenizer.ggml.scores", 9, struct.pack("<IQ4f", 6, 4, 0, 1, 2, 3)),
             ("tokenizer.ggml.token_type", 9, struct.pack("<IQ4I", 4, 4, 3, 1, 1, 1))]
    bpe = [("tokenizer.ggml.model", 8, text("gpt2")), ("tokenizer.ggml.pre", 8, text("llama-bpe")),
           ("tokenizer.ggml.tokens", 9, texts(["a", "b", "ab"])), ("tokenizer.ggml.merges", 9, texts(["a b"]))]
    put("gguf", gguf(llama, []))
    put("gguf", gguf(words, [("a", [2], 0, 0)]) + bytes(32))
    put("gguf", gguf(bpe, [("a", [32], 8, 0)]) + bytes(64))
    put("gguf_built", bytes(range(200)))
    put("gguf_built", built_llama())
    tokenizer = json.loads((FIXTURES / "tokenizer/tokenizer.json").read_text())
    kinds = {"BPE": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}, "WordPiece": {"vocab": {"[UNK]": 0},
             "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
             "WordLevel": {"vocab": {"a": 0}, "unk_token": "a"}, "Unigram": {"unk_id": 0, "vocab": [["a", 0.5]]}}
    for kind, model in kinds.items():
        put("tokenizer", json.dumps({**{k: None for k in tokenizer}, "version": "1.0", "added_tokens": [],
                                     "model": {"type": kind, **model}}).encode(), 2048)
    tokenizer["model"] |= kinds["BPE"]
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:1]
    put("tokenizer", json.dumps(tokenizer).encode(), 4096)
    for descr, size in (("<f4", 4), ("<f2", 2), ("<i8", 8), ("|b1", 1)):
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 3), }}".ljust(117) + "\n"
        put("npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(6 * size))
    import zipfile
    for path in sorted(FIXTURES.rglob("*.pt"))[:12]:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    put("pickle", archive.read(name), 4096)
        if path.stat().st_size <= 4096:
            put("torch", path.read_bytes(), 4096)
    put("torch_built", bytes([32, 5, 26, 31, 34, 12, 0, 14, 1, 0, 13, 1, 35, 8]))
    put("torch_built", bytes(range(38)))
    for path in sorted((ROOT / "crates/driftprobe-import/src/maps").glob("*.toml")):
        put("map", path.read_bytes())
    logits = {"token_idx": 5, "token_id": 42, "logits": [0.5, -1e3, 2]}
    put("logits", (json.dumps(logits) + "\n").encode() * 2)
    put("logits", b'{"token_idx":0,"logits":[NaN,-Infinity,"inf",null]}\n')
    for more in ({}, {"phase": "decode"}):
        line = {"sequence": "s", "index": 17, "token_id": 42, "logprob": -1.25, **more}
        put("logprobs", (json.dumps(line) + "\n").encode() * 2)
    for path in sorted(FIXTURES.rglob("*FULL_TENSORS.json")) + sorted(FIXTURES.rglob("dump.json")):
        put("trees", path.read_bytes(), 4096)
    put("trees", b'{"module_path":"M","inputs":{"args":[{"shape":"x","dtype":"f","value":"./a.safetensors"}],"kwargs":{}},'
                 b'"outputs":null,"children":[{"module_path":"M.a","outputs":{"value":"b","dtype":"f"}}]}')
    put("trees", b'{"data":{"Module.m.L.forward.0":{"input_args":[{"data_name":"a.npy"}],"output":[{"data_name":"b.pt"}]}}}')
    for path in sorted((Path(__file__).parent / "seeds").glob("*/*")):
        put(path.parent.name, path.read_bytes(), 4096)
    put("archive", bytes([1, 1, 0, 1, 0, 0, 1, 1]) + b"x")
    put("archive", bytes([2, 1, 0, 0, 1, 3, 2, 3, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 0]) + b"x")
    put("prompts", b'[{"id":"p","text":"a"},{"id":"q","tokens":[1,2]}]')
    put("prompts", b"[1,72,101]")
    put("prompts", struct.pack("<3i", 1, 2, 3))
    put("matrix", b'prompts = ["p0"]\nseeds = [0, 1]\nkv_aligned = [0, 1]\ndtype = "bf16"\n')
    put("matrix", b'{"prompts":["p0"],"steps":4,"context":[1,2]}')
    put("plan", b'{"schema":1,"generator":"x","shard":{"index":1,"of":2},"promise":{"r":["p","q"]}}')
    noise = {"compared": 8, "rms": 0.9, "cell": [0, 1.5], "element": [3, 2.5], "unrounded": [0, 0], "score": 0.1, "noise": 1e-7}
    outcomes = [
        {"clean": noise}, {"exact": {"compared": 8}}, {"flagged": {"flags": [{"mask": 3}, {"score": ["gain", 9.5]}], "statistics": noise}},
        {"mismatch": {"compared": 8, "differing": 1, "first": 3, "largest": "Infinity"}},
        {"unjudged": {"only_part": {"compared": 1, "values": 8, "rest": {"inputs_missing": [["k_cache", 1]]}}}},
    ]
    for outcome in outcomes:
        row = {"pos": 3, "values": 8, "assumed": ["scores"], "inputs": [["q_post_rope", 1]], "outcome": outcome}
        tests = [["temperature", [0.5, 1e-3, "NaN"], 4]]
        stage = {"phase": "prefill", "point": "attn_scores", "layer": 1, "tests": tests, "rows": [row]}
        put("layers", json.dumps({"schema": 1, "generator": "driftprobe 0.1.0", "modes": [[stage], []]}).encode(), 1024)


main()

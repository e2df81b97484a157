"""Writes fuzz/seeds/, which is kept with the sources: small Parquet files by Arrow, compressed payloads by zstd.

Needs pyarrow and the program zstd; fuzzing does not, whose corpus corpus.py makes with what lies in fuzz/seeds/.
"""
import json, pathlib, struct, subprocess
import pyarrow as pa, pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent / "seeds"


def put(target, name, form, data):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(bytes([form]) + data)


def parquet():
    event = {"event": ["stage_trace"] * 2, "prompt_id": ["p"] * 2, "phase": ["prefill", "decode"], "point": ["final_norm_in"] * 2}
    numbers = {"point": ["attn_out"] * 2, "layer": pa.array([0, 1], pa.int32()), "step": pa.array([None, 1], pa.int64()), "hash": pa.array([1, 2], pa.uint64()),
               "min": [0.5, None]}
    lists = {"shape": [[2], None], "sample": [[0.5, float("nan")], []]}
    payload = {"payload_file": ["t"] * 2, "payload_key": ["a", "b"], "payload": [b"12345678", b"abcdefgh"],
               "payload_dtype": ["f32"] * 2, "payload_shape": [[2], [2]]}
    plain = dict(compression="none", use_dictionary=False)
    for name, columns, options in [
        ("plain", {}, plain),
        ("numbers", numbers, plain),
        ("lists", lists, plain),
        ("payload", payload, plain),
        ("dictionary", {}, dict(compression="none")),
        ("snappy", numbers, dict(compression="snappy", use_dictionary=False)),
        ("zstd", lists, dict(compression="zstd")),
        ("v2", lists, dict(compression="none", data_page_version="2.0")),
        ("lengths", {}, dict(plain, column_encoding="DELTA_LENGTH_BYTE_ARRAY")),
        ("deltas", {"point": ["attn_out"] * 2, "layer": [0, 1]}, dict(plain, column_encoding={"layer": "DELTA_BINARY_PACKED"})),
        ("groups", {}, dict(plain, row_group_size=1)),
    ]:
        table = pa.table(event | columns)
        out = pa.BufferOutputStream()
        pq.write_table(table, out, store_schema=False, write_statistics=False, **options)
        data = out.getvalue().to_pybytes()
        footer = struct.unpack("<I", data[-8:-4])[0]
        # The form of fuzz/fuzz_targets/parquet.rs: the end is put on again.
        put("parquet", name, 1, struct.pack(">H", footer) + data[4:-8])
        if name == "plain":
            put("parquet", "as-it-lies", 0, data)


def zst():
    tensors = {"a": ("F32", 64), "b": ("F16", 32)}
    header, at = {}, 0
    for key, (dtype, count) in tensors.items():
        size = count * (4 if dtype == "F32" else 2)
        header[key] = {"dtype": dtype, "shape": [count], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    parts = [struct.pack("<Q", len(text)) + text, struct.pack("<64f", *range(64)), bytes(64)]
    pack = lambda part, *how: subprocess.run(["zstd", "-c", "-q", *how], input=part, capture_output=True, check=True).stdout
    for name, how in [("level-3", ["-3"]), ("level-19-no-check", ["-19", "--no-check"])]:
        packed = [pack(part, *how) for part in parts]
        table = b"".join(struct.pack("<II", len(p), len(q)) for p, q in zip(packed, parts))
        end = struct.pack("<II", 0x184D2A5E, len(table) + 9) + table + struct.pack("<IBI", len(parts), 0, 0x8F92EAB1)
        put("payload_zst", name, 0, b"".join(packed) + end)
    put("payload_zst", "built", 1, bytes([2, 0, 4, 0, 1, 2, 0, 0, 0, 0, 7, 0, 9, 253]))
    put("payload_zst", "built-window", 1, bytes([1, 0, 4, 0, 0, 0, 254, 0x40, 7, 254, 0x50]))


parquet()
zst()

"""Writes the files of this folder that no editor would write: `python3 tests/hostile/make.py`."""

import gzip
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent


def put(name, data):
    path = HERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def packed(pieces):
    """gzip of pieces, of which there may be many."""
    out, packer = io.BytesIO(), zlib.compressobj(9, zlib.DEFLATED, 31)
    for piece in pieces:
        out.write(packer.compress(piece))
    out.write(packer.flush())
    return out.getvalue()


def gz(data):
    return gzip.compress(data, mtime=0)


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(pairs, tensors):
    """pairs: (key, type, bytes); tensors: (name, shape, type, offset)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, kind, value in pairs:
        out += text(key) + struct.pack("<I", kind) + value
    for name, shape, kind, offset in tensors:
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % 32)


def entry(name, kind, content=b"", size=None):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def npy(shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def pickled_text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(key, shape, strides):
    sizes = lambda all: b"(" + b"".join(map(number, all)) + b"t"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n((" + pickled_text("storage") + b"ctorch\nFloatStorage\n"
            + pickled_text(key) + pickled_text("cpu") + number(8) + b"tQ" + number(0) + sizes(shape) + sizes(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR")


def runs():
    many = {"schema": 1, "complete": True, "steps": 4000, "layers": list(range(1500)), "points": ["x_in", "q_proj_out",
            "k_proj_out", "v_proj", "attn_out", "mlp_out"], "prompts": [{"id": "p", "tokens": [0] * 4001}]}
    put("run/promises-36-million-rows/manifest.json", json.dumps(many, separators=(",", ":")))
    event = b'{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"x_in","layer":0}\n'
    # Past the 64 MiB that are always let pass: 96 MB.
    block = b'{"event":"other","of":"' + b"a" * (1 << 20) + b'"}\n'
    put("run/bomb-of-lines.jsonl.gz", packed(block for _ in range(96_000_000 // len(block))))
    put("run/bomb-of-one-line.jsonl.gz", packed(b" " * (1 << 20) for _ in range(65)))
    put("run/member-after-damage.jsonl.gz", gz(event) + b"\x1f\x8b\x08\x00" + b"\xff" * 64)


def models():
    put("gguf/length-overflows.gguf", gguf([("a", 8, struct.pack("<Q", 2**64 - 1))], []))
    put("gguf/list-of-2-to-the-60.gguf", gguf([("a", 9, struct.pack("<IQ", 0, 2**60))], []))
    put("gguf/tensors-overlap.gguf", gguf([], [("a", [16], 0, 0), ("b", [16], 0, 32)]) + bytes(128))
    put("gguf/shape-overflows.gguf", gguf([], [("a", [2**40, 2**40], 0, 0)]) + bytes(128))
    put("gguf/key-twice.gguf", gguf([("a", 7, b"\0"), ("a", 7, b"\1")], []))
    put("gguf/lists-in-lists.gguf", gguf([("a", 9, struct.pack("<IQ", 9, 1) * 40)], []))
    words = ["a" * n for n in range(1, 640)]
    scores = struct.pack("<IQ", 6, len(words)) + struct.pack(f"<{len(words)}f", *range(len(words)))
    tokens = struct.pack("<IQ", 8, len(words)) + b"".join(map(text, words))
    put("gguf-tokenizer/tokens-begin-each-other.gguf", gguf([("tokenizer.ggml.model", 8, text("llama")),
        ("tokenizer.ggml.tokens", 9, tokens), ("tokenizer.ggml.scores", 9, scores)], []))
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
    pads = {"strategy": {"Fixed": 10**15}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a"}
    put("tokenizer/pads-to-a-quadrillion.json", json.dumps(base | {"padding": pads}))
    charsmap = lambda data: base | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": data}}
    put("tokenizer/character-map-without-a-table.json", json.dumps(charsmap("AAAAAA==")))
    put("tokenizer/character-map-of-4-gigabytes.json", json.dumps(charsmap("/////w==")))
    cuts = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}
    put("tokenizer/cuts-by-an-impossible-stride.json", json.dumps(base | {"truncation": cuts}))


def dumps():
    put("npy/no-values-on-endless-axes.npy", npy((2**62, 0)))
    put("npy/no-values-in-endless-columns.npy", npy((0, 2**63)))
    put("npy/claims-4-exabytes.npy", npy((2**60,)))
    head, end = b"\x80\x02", b"."
    name = "n" * 5000
    put("pickle/name-of-5000-bytes.pkl", head + b"}" + pickled_text(name) + tensor("0", [1], [1]) + b"s" + end)
    one = pickled_text("k" * 4000) + b"q\x00" + b"0"
    names = b"}(" + b"".join(b"h\x00K\x01" for _ in range(20_000)) + b"u"
    put("pickle/one-long-key-20000-times.pkl", head + one + names + end)
    put("pickle/storage-key-of-5000-bytes.pkl", head + tensor(name, [1], [1]) + end)
    put("pickle/no-values-on-endless-axes.pkl", head + tensor("0", [2**62, 0], [1, 1]) + end)
    tree = {"dtype": "f", "value": "./a.safetensors"}
    for _ in range(100):
        tree = {"k" * 100: tree}
    put("tree/name-of-10000-bytes.json", json.dumps({"inputs": {}, "outputs": tree, "children": []}))
    put("tree/file-above-its-folder.json",
        json.dumps({"outputs": {"dtype": "f", "value": "../../etc/passwd.safetensors"}}))
    put("logprobs/line-without-end.jsonl", b'{"sequence": "' + b"a" * (1 << 17))


def archives():
    put("archive/leaves-its-folder.tar.gz", gz(entry("run/../../evil", b"0", b"x") + bytes(1024)))
    put("archive/absolute.tar.gz", gz(entry("/tmp/evil", b"0", b"x") + bytes(1024)))
    put("archive/link.tar.gz", gz(entry("run/a", b"2") + bytes(1024)))
    put("archive/not-announced.tar.gz", gz(entry("run/b", b"0", b"x") + bytes(1024)))
    put("archive/name-of-8-megabytes.tar.gz",
        gz(entry("././@LongLink", b"L", b"a" * (8 << 20)) + entry("run/a", b"0", b"x") + bytes(1024)))
    put("archive/1500-folders.tar.gz", gz(b"".join(entry(f"run/{n}/", b"5") for n in range(1500))))
    put("archive/claims-8-gigabytes.tar.gz", gz(entry("run/a", b"0", b"x", size=8**11 - 1) + bytes(1024)))


# Parquet, by hand: Thrift's compact protocol, one row group, texts alone.
I32, I64, TEXT, LIST, STRUCT = 5, 6, 8, 9, 12
PLAIN, RLE, DELTA_LENGTHS, DICTIONARY = 0, 3, 6, 8


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def thrift(kind, value):
    if kind in (I32, I64):
        return varint(value << 1 if value >= 0 else (-value << 1) - 1)
    if kind == TEXT:
        return varint(len(value)) + value.encode()
    if kind == LIST:
        return bytes([0xF0 | value[0]]) + varint(len(value[1])) + b"".join(thrift(value[0], one) for one in value[1])
    out, last = b"", 0
    for number, (of, field) in sorted(value.items()):
        out, last = out + bytes([(number - last) << 4 | of]) + thrift(of, field), number
    return out + b"\0"


def page(content, values, encoding=PLAIN, dictionary=False, plain=None):
    header = {1: (I32, 2 if dictionary else 0), 2: (I32, len(content) if plain is None else plain), 3: (I32, len(content))}
    if dictionary:
        header[7] = (STRUCT, {1: (I32, values), 2: (I32, PLAIN)})
    else:
        header[5] = (STRUCT, {1: (I32, values), 2: (I32, encoding), 3: (I32, RLE), 4: (I32, RLE)})
    return thrift(STRUCT, header) + content


def plain(*texts):
    return b"".join(struct.pack("<I", len(one)) + one.encode() for one in texts)


def same(values, text, claimed=1):
    """Pages of one text many times, in a few bytes."""
    return page(plain(text), claimed, dictionary=True), page(b"\x01" + varint(values << 1) + b"\0", values, DICTIONARY)


def table(rows, columns, codec=0):
    """columns: name to (pages of a dictionary or none, pages)."""
    out, chunks = b"PAR1", []
    for name, (dictionary, data) in columns.items():
        of = {1: (I32, 6), 2: (LIST, (I32, [PLAIN, RLE])), 3: (LIST, (TEXT, [name])), 4: (I32, codec), 5: (I64, rows),
              6: (I64, len(dictionary + data)), 7: (I64, len(dictionary + data)), 9: (I64, len(out + dictionary))}
        if dictionary:
            of[11] = (I64, len(out))
        chunks.append({2: (I64, len(out)), 3: (STRUCT, of)})
        out += dictionary + data
    schema = [{4: (TEXT, "schema"), 5: (I32, len(columns))}]
    schema += [{1: (I32, 6), 3: (I32, 0), 4: (TEXT, name)} for name in columns]
    group = {1: (LIST, (STRUCT, chunks)), 2: (I64, len(out)), 3: (I64, rows)}
    footer = thrift(STRUCT, {1: (I32, 1), 2: (LIST, (STRUCT, schema)), 3: (I64, rows), 4: (LIST, (STRUCT, [group]))})
    return out + footer + struct.pack("<I", len(footer)) + b"PAR1"


def nested(depth, children=1):
    """Groups within groups."""
    group = {3: (I32, 0), 4: (TEXT, "g"), 5: (I32, children)}
    footer = thrift(STRUCT, {1: (I32, 1), 2: (LIST, (STRUCT, [group] * depth)), 3: (I64, 0), 4: (LIST, (STRUCT, []))})
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def zeros(size):
    """A Zstandard frame of so many zeros, four bytes for 128 KiB of them."""
    out, block = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size), 128 << 10
    blocks = [min(block, size - at) for at in range(0, size, block)]
    for number, of in enumerate(blocks):
        out += struct.pack("<I", of << 3 | 2 | (number == len(blocks) - 1))[:3] + b"\0"
    return out


def tables():
    event = {"event": "stage_trace", "prompt_id": "p", "phase": "decode", "point": "final_norm_in"}

    def rows(count, **others):
        put_in = {name: others.get(name) or same(count, text) for name, text in event.items()}
        return table(count, put_in | others)

    put("parquet/one-row.parquet", rows(1))
    put("parquet/a-billion-rows.parquet", rows(10**9))
    put("parquet/dictionary-of-2-billion.parquet", rows(1, point=same(1, "final_norm_in", 2**31 - 1)))
    put("parquet/20000-groups-in-groups.parquet", nested(20_000))
    put("parquet/group-of-2-billion-columns.parquet", nested(2, 2**31 - 1))
    lengths = varint(128) + varint(4) + varint(2**40) + varint(0)
    put("parquet/2-to-the-40-lengths.parquet", rows(1, point=(b"", page(lengths, 1, DELTA_LENGTHS))))
    put("parquet/page-outside-the-column.parquet", rows(1, point=(b"", page(plain("final_norm_in"), 1)[:-4])))
    put("parquet/text-of-8-kilobytes-16000-times.parquet", rows(16_000, point=same(16_000, "x" * 8192)))
    claims = {"point": (b"", page(b"\x28\xb5\x2f\xfd", 1, plain=2**31 - 1))}
    put("parquet/page-of-4-bytes-claims-2-gigabytes.parquet", table(1, {"event": claims["point"]} | claims, codec=6))
    bomb = {"event": (b"", page(zeros(600 << 20), 1, plain=600 << 20))}
    put("parquet/bomb-of-600-megabytes.parquet", table(1, bomb, codec=6))


def compressed():
    def packed(frames):
        sizes = b"".join(struct.pack("<II", len(frame), plain) for frame, plain in frames)
        end = struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
        table = struct.pack("<II", 0x184D2A5E, len(sizes) + 9) + sizes + end
        return b"".join(frame for frame, _ in frames) + table

    def stored(content):
        return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", len(content)) + struct.pack("<I", len(content) << 3 | 1)[:3] + content

    def payload(size, *frames):
        header = json.dumps({"a": {"dtype": "F64", "shape": [size // 8], "data_offsets": [0, size]}}).encode()
        header = struct.pack("<Q", len(header)) + header
        return packed([(stored(header), len(header)), *frames])

    put("payload-zst/16-zeros.safetensors.zst", payload(16, (zeros(16), 16)))
    put("payload-zst/bomb-of-128-megabytes.safetensors.zst", payload(128 << 20, (zeros(128 << 20), 128 << 20)))
    put("payload-zst/frame-of-more-than-it-says.safetensors.zst", payload(16, (zeros(128 << 20), 16)))
    put("payload-zst/table-of-4-billion-frames.safetensors.zst",
        payload(16, (zeros(16), 16))[:-9] + struct.pack("<IBI", 2**32 - 1, 0, 0x8F92EAB1))
    window = b"\x28\xb5\x2f\xfd\x00\xf8" + struct.pack("<I", 16 << 3 | 3)[:3] + b"\0"
    put("payload-zst/window-of-2-terabytes.safetensors.zst", payload(16, (window, 16)))
    many = packed([(zeros(2**32 - 1), 2**32 - 1)])
    put("payload-zst/header-of-4-gigabytes.safetensors.zst", many)


if __name__ == "__main__":
    runs()
    models()
    dumps()
    archives()
    tables()
    compressed()

"""The numbers of two rows, as one writes them with numpy and with torch, on one core.

Usage: compare.py FILE FILE ROUNDS (files of little-endian float32). Answers with one JSON object: versions, the numbers, and the time of each round.
"""

import json
import math
import os
import sys
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
import torch

torch.set_num_threads(1)


def numpy_ordinals(row):
    signed = {2: np.int16, 4: np.int32, 8: np.int64}[row.itemsize]
    bits = row.view(signed)
    magnitude = (bits & np.iinfo(signed).max).astype(np.int64)
    return np.where(bits < 0, -magnitude, magnitude)


def with_numpy(p, d):
    """All differences and sums in float64."""
    differing = int(np.count_nonzero(p.view(np.int32) != d.view(np.int32)))
    ulp = int(np.abs(numpy_ordinals(p) - numpy_ordinals(d)).max())
    p, d = p.astype(np.float64), d.astype(np.float64)
    difference = d - p
    magnitude = np.abs(difference)
    at = int(magnitude.argmax())
    squares, pp, dd = np.dot(difference, difference), np.dot(p, p), np.dot(d, d)
    return {
        "max_abs": float(magnitude[at]), "max_abs_at": at, "differing": differing, "max_ulp": ulp,
        "rel_l2": math.sqrt(squares / pp), "nmse": float(squares / pp), "cosine": float(np.dot(p, d) / math.sqrt(pp * dd)),
    }


def with_torch(p, d):
    """All differences and sums in float64."""
    p_bits, d_bits = p.view(torch.int32), d.view(torch.int32)
    differing = int((p_bits != d_bits).sum())

    def ordinals(bits):
        magnitude = (bits & 0x7FFFFFFF).to(torch.int64)
        return torch.where(bits < 0, -magnitude, magnitude)

    ulp = int((ordinals(p_bits) - ordinals(d_bits)).abs().max())
    p, d = p.to(torch.float64), d.to(torch.float64)
    difference = d - p
    magnitude = difference.abs()
    at = int(magnitude.argmax())
    squares, pp, dd = (float(torch.dot(x, x)) for x in (difference, p, d))
    return {
        "max_abs": float(magnitude[at]), "max_abs_at": at, "differing": differing, "max_ulp": ulp,
        "rel_l2": math.sqrt(squares / pp), "nmse": squares / pp, "cosine": float(torch.dot(p, d)) / math.sqrt(pp * dd),
    }


def with_numpy_f32(p, d):
    """As most scripts have it: in the rows' own float32, and without units in the last place."""
    difference = d - p
    magnitude = np.abs(difference)
    at = int(magnitude.argmax())
    squares, pp, dd = np.dot(difference, difference), np.dot(p, p), np.dot(d, d)
    return {
        "max_abs": float(magnitude[at]), "max_abs_at": at, "differing": int(np.count_nonzero(p != d)),
        "rel_l2": math.sqrt(squares / pp), "nmse": float(squares / pp), "cosine": float(np.dot(p, d) / math.sqrt(pp * dd)),
    }


def main():
    files, rounds = sys.argv[1:3], int(sys.argv[3])
    p, d = (np.fromfile(file, dtype=np.float32) for file in files)
    ways = {
        "numpy": lambda: with_numpy(p, d),
        "torch": lambda: with_torch(torch.from_numpy(p), torch.from_numpy(d)),
        "numpy_f32": lambda: with_numpy_f32(p, d),
    }
    answer = {"versions": {"python": sys.version.split()[0], "numpy": np.__version__, "torch": torch.__version__}}
    for name, way in ways.items():
        way()
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            numbers = way()
            seconds.append(time.perf_counter() - started)
        answer[name] = {"seconds": seconds, "numbers": numbers}
    print(json.dumps(answer))


main()

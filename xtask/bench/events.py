"""Two phases of a trace compared as one writes it in Python: json, a dict a phase, and a loop.

Usage: events.py TRACES-FOLDER [HOW]. With any HOW, Python's garbage collector is off. Answers with one JSON object: the version, the counts, and what each part took.
"""

import gc
import glob
import json
import os
import sys
import time

STATS = ("min", "max", "mean", "abs_sum", "nan", "inf", "nz_count")


def read(folder):
    events = []
    for path in sorted(glob.glob(os.path.join(folder, "*.jsonl"))):
        with open(path) as file:
            for line in file:
                line = line.strip()
                if line:
                    events.append(json.loads(line))
    return events


def pair(events):
    phases = {"prefill": {}, "decode": {}}
    for event in events:
        key = (
            event["prompt_id"], event["layer"], event["point"],
            event.get("logical_tok_idx"), event.get("pos_id"), event.get("token_id"),
        )
        phases[event["phase"]][key] = event
    prefill, decode = phases["prefill"], phases["decode"]
    pairs = [(event, decode[key]) for key, event in prefill.items() if key in decode]
    return pairs, len(prefill) + len(decode) - 2 * len(pairs)


def compare(pairs):
    counts = {"pairs": len(pairs), "differing": 0, "statistics": 0, "samples": 0, "largest": 0.0}
    for p, d in pairs:
        if p["hash"] != d["hash"]:
            counts["differing"] += 1
        if any(p.get(name) != d.get(name) for name in STATS):
            counts["statistics"] += 1
        ours, theirs = p.get("sample"), d.get("sample")
        if ours is not None and theirs is not None:
            largest = max(abs(a - b) for a, b in zip(ours, theirs))
            if largest > 0:
                counts["samples"] += 1
                counts["largest"] = max(counts["largest"], largest)
    return counts


def main():
    if len(sys.argv) > 2 and sys.argv[2]:
        gc.disable()
    times = [time.perf_counter()]
    events = read(sys.argv[1])
    times.append(time.perf_counter())
    pairs, unpaired = pair(events)
    times.append(time.perf_counter())
    counts = compare(pairs)
    times.append(time.perf_counter())
    parts = [after - before for before, after in zip(times, times[1:])]
    print(json.dumps({
        "python": sys.version.split()[0], "events": len(events), "unpaired": unpaired, **counts,
        "read_s": parts[0], "pair_s": parts[1], "compare_s": parts[2],
    }))


main()

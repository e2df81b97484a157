"""The command line: `python -m driftprobe …` is the same program as `driftprobe …`, and has `cluster` besides."""

import sys

from ._native import main


def _main(words: list[str]) -> int:
    if words[:1] == ["cluster"]:
        from .cluster.command import main as on_cluster

        return on_cluster(words[1:])
    return main(words)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))

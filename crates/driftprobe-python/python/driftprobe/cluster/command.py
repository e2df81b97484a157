"""`python -m driftprobe cluster …`: the command line of what runs on a cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from ..errors import Error
from .fan import Resources
from .judging import analyze
from .recording import run
from .storage import S3

EXIT_PASS, EXIT_COULD_NOT_RUN, EXIT_INTERRUPTED = 0, 2, 130

SHOWN_MAX = 5
"""Of things that went wrong in one way, as many are shown."""

RUN_EXAMPLES = """\
Examples:
  driftprobe cluster run matrix.toml --out /shared/night
  driftprobe cluster run matrix.toml --out /shared/night --num-gpus 1 -- --model /shared/model.gguf --engine llama-cpp
  driftprobe cluster run lines.json --address head:6379 --out /shared/night
  driftprobe cluster run matrix.toml --out s3://bucket/night --s3-endpoint https://storage:9000

MATRIX is the gate's matrix (docs/gate.md), each combination a run; or a JSON list of
`driftprobe run` command lines: [["--dtype", "bf16"], ["--dtype", "f16"]].
What follows -- is given to every `driftprobe run`.

Exit status: 0 every probe is recorded, 2 some are not"""

ANALYZE_EXAMPLES = """\
Examples:
  driftprobe cluster analyze /shared/night --out /shared/night-report
  driftprobe cluster analyze /shared/a /shared/b --out /shared/report -- --model /shared/model
  driftprobe cluster analyze s3://bucket/night --out s3://bucket/night-report
  driftprobe cluster analyze /shared/long --out /shared/report --layer-parts 4

The reports are those of `driftprobe analyze --by-prompt`, byte for byte.
What follows -- is given to every `driftprobe analyze`.

Exit status: 0 PASS, 1 FAIL, 2 could not run, 3 INCONCLUSIVE"""


def main(words: Sequence[str]) -> int:
    """Runs the command line `driftprobe cluster WORDS` and returns its exit status."""
    own, given = list(words), []
    if "--" in own:
        at = own.index("--")
        own, given = own[:at], own[at + 1 :]
    asked = _parser().parse_args(own)
    try:
        resources = Resources(asked.num_cpus, asked.num_gpus, asked.retries)
        return _run(asked, resources, given) if asked.command == "run" else _analyze(asked, resources, given)
    except Error as e:
        print(f"error: {e}", file=sys.stderr)
        return EXIT_COULD_NOT_RUN
    except KeyboardInterrupt:
        print("error: interrupted\nhint: what is done stays; the same command goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(asked: argparse.Namespace, resources: Resources, given: list[str]) -> int:
    of = {"args": given, "prompts_per_task": asked.prompts_per_task, "resources": resources}
    of["s3"] = S3(asked.s3_endpoint, asked.cache)
    # Ray has words of its own, and a report may be piped.
    with redirect_stdout(sys.stderr):
        done = run(asked.matrix, asked.out, asked.address, **of)
    print(f"probes: {done.recorded} recorded, {done.known} known already: {done.folder}")
    _complain("could not be recorded", done.refused)
    _complain("was lost with its worker, again and again", done.lost)
    if done.refused or done.lost:
        print("hint: the same command tries again what is missing", file=sys.stderr)
    return EXIT_PASS if done.complete else EXIT_COULD_NOT_RUN


def _analyze(asked: argparse.Namespace, resources: Resources, given: list[str]) -> int:
    show = ["--format", asked.format]
    if sys.stdout.isatty():
        show += ["--color", "always"]
    with redirect_stdout(sys.stderr):
        of = {"args": given, "parts": asked.parts, "layer_parts": asked.layer_parts, "resources": resources, "show": show}
        merged = analyze(asked.runs, asked.out, asked.address, s3=S3(asked.s3_endpoint, asked.cache), **of)
    print(merged.printed, end="")
    _complain("was lost with its worker, again and again", {f"part {part}": why for part, why in merged.lost.items()})
    _complain("was to be recorded and is not there", dict.fromkeys(merged.unrecorded, ""))
    return merged.exit_code


def _complain(what: str, whom: dict[str, str]) -> None:
    for name, why in list(whom.items())[:SHOWN_MAX]:
        print(f"error: {name} {what}" + (f": {why.removeprefix('error: ')}" if why else ""), file=sys.stderr)
    if len(whom) > SHOWN_MAX:
        print(f"error: and {len(whom) - SHOWN_MAX} more {what}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("driftprobe cluster", description="Record and judge on a Ray cluster.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|analyze")
    raw = argparse.RawDescriptionHelpFormatter
    record = commands.add_parser("run", help="record a matrix of runs", epilog=RUN_EXAMPLES, formatter_class=raw)
    record.add_argument("matrix", metavar="MATRIX", help="the gate's matrix, or a JSON list of command lines")
    record.add_argument("--prompts-per-task", type=int, default=1, metavar="N", help="of the matrix's prompts [default: 1]")
    judge = commands.add_parser("analyze", help="judge runs", epilog=ANALYZE_EXAMPLES, formatter_class=raw)
    judge.add_argument("runs", nargs="+", metavar="RUN", help="runs, and folders of runs; or s3://bucket/prefix")
    judge.add_argument("--parts", type=int, metavar="N", help="tasks [default: four for each that can run at once]")
    judge.add_argument(
        "--layer-parts", type=int, default=1, metavar="N", help="tasks before them, each for a range of layers [default: none]"
    )
    judge.add_argument("--format", default="text", choices=("text", "json", "md", "tsv"), help="what to print")
    for command in (record, judge):
        command.add_argument("--out", required=True, metavar="DIR", help="a folder that all nodes see, or s3://bucket/prefix")
        command.add_argument(
            "--address", default="auto", help="host:port; auto: the cluster on this machine; local: start one [default: auto]"
        )
        command.add_argument("--s3-endpoint", metavar="URL", help="storage that is not AWS's [default: AWS_ENDPOINT_URL]")
        command.add_argument("--cache", metavar="DIR", help="each node's, for copies of what lies on s3:// [default: in /tmp]")
        command.add_argument("--num-cpus", type=float, default=1, metavar="N", help="cores a task [default: 1]")
        command.add_argument("--num-gpus", type=float, default=0, metavar="N", help="accelerators a task [default: 0]")
        command.add_argument("--retries", type=int, default=5, metavar="N", help="further tries of a lost task [default: 5]")
    return parser

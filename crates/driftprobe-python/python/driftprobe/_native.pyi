"""The native half of the package."""

from os import PathLike

__version__: str

Path = str | PathLike[str]
Place = tuple[int, int, int, int, int | None]

class Writer:
    """Writes one run. Closed without `finish`, it leaves a run that is marked incomplete."""

    def __init__(self, dir: Path, manifest_json: str, overwrite: bool = False) -> None: ...
    def describe(self, manifest_json: str) -> None:
        """Replaces the manifest that will be written at the end."""

    def begin(self, prompt_id: str, phase: str) -> None:
        """Starts a prompt's phase, `prefill` or `decode`; what is pending of another is written first."""

    def row(self, point: tuple[str, int], place: Place, values: tuple[str, list[int], bytes], payload: bool = True) -> None:
        """Takes one row: (point, layer); (step, position, token, tokens in the pass, keys); (dtype, shape, bytes)."""

    def finish(self, complete: bool) -> None:
        """Ends the run."""

def main(args: list[str]) -> int:
    """Runs the command line `driftprobe ARGS` and returns its exit status."""

def analyze(
    run: Path, model: Path | None = None, contract: str | None = None, simulate: float | None = None
) -> tuple[str, str, str, str]:
    """Judges a run and returns drift.json, drift.md, drift.tsv and drift.html as texts."""

def logprobs(
    prefill: Path,
    decode: Path,
    limits: tuple[float | None, float | None, float | None, list[str]],
    known: tuple[str | None, str | None, list[tuple[str, int, Path]]],
    report: Path | None = None,
) -> tuple[str, str, str]:
    """Judges two files and returns logprobs.json, logprobs.md and logprobs.tsv as texts. Limits: mean of abs(Δ), ratio, mean of
    k3, presets; known: the engine, how tokens were chosen, and (sequence, index, run) of those that were traced."""

def shows_delta(run: Path, token_id: int, measured: float) -> bool:
    """Whether the run in this folder shows the Δ of a token that was measured: a half of it at least."""

def describe_model(path: Path) -> str:
    """`manifest.model` of the model at `path`, as JSON."""

def describe_machine() -> str:
    """`host` and `env` of a manifest for this machine and process, as JSON."""

def points() -> list[tuple[str, bool]]:
    """Every point in the order of the computation, and whether it exists once a layer."""

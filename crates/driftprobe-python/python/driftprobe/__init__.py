"""Do an LLM engine's prefill and decode compute the same tokens?

    import driftprobe
    run = driftprobe.trace(model, tokenizer, ["The quick brown fox"], out="runs/mine")
    report = driftprobe.analyze(run)
    print(report.verdict, report.root_cause)

`trace` records both phases of a Hugging Face causal LM through hooks; `analyze` judges a run, whoever wrote it; `logprobs` holds
the log-probabilities of whole generations by decode against those by prefill. Importing this package imports neither torch nor
transformers nor pandas.
"""

from ._native import __version__
from .analysis import analyze
from .errors import Error
from .generation import logprobs
from .mismatch import Mismatch
from .report import Report
from .tracing import trace

__all__ = ["Error", "Mismatch", "Report", "__version__", "analyze", "logprobs", "trace"]

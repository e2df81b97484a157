"""driftprobe on a Ray cluster: many probes recorded at once, many prompts judged at once.

    from driftprobe import cluster
    cluster.run("matrix.toml", out="/shared/night", address="auto", args=["--model", "/shared/model"])
    merged = cluster.analyze(["/shared/night"], out="/shared/night-report", address="auto")
    print(merged.verdict, merged.exit_code)

Needs `pip install driftprobe[ray]` on every node, and a folder that all of them see. Importing it does not import Ray.
"""

from .fan import Resources
from .judging import Merged, analyze
from .matrix import Probe, probes
from .recording import Recorded, run

__all__ = ["Merged", "Probe", "Recorded", "Resources", "analyze", "probes", "run"]

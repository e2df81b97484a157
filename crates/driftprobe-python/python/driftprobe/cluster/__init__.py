"""driftprobe on a Ray cluster: many probes recorded at once, many prompts judged at once.

    from driftprobe import cluster
    cluster.run("matrix.toml", out="/shared/night", address="auto", args=["--model", "/shared/model"])
    merged = cluster.analyze(["/shared/night"], out="/shared/night-report", address="auto")
    print(merged.verdict, merged.exit_code)

Needs `pip install driftprobe[ray]` on every node, and a folder that all of them see; or `driftprobe[ray,s3]` and a bucket.
Importing it imports neither Ray nor boto3.
"""

from .fan import Resources
from .judging import Merged, analyze
from .matrix import Probe, probes
from .recording import Recorded, run
from .storage import S3

__all__ = ["S3", "Merged", "Probe", "Recorded", "Resources", "analyze", "probes", "run"]

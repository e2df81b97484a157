"""The command line: `python -m driftprobe …` is the same program as `driftprobe …`."""

import sys

from ._native import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

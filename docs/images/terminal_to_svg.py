#!/usr/bin/env python3
"""Turns terminal output with colours (standard input) into an SVG picture (standard output).

    CLICOLOR_FORCE=1 cargo run --release --quiet | python3 docs/images/terminal_to_svg.py 'cargo run --release' > docs/images/demo.svg

Understands what driftprobe prints: text, line feeds and the SGR codes 0, 1, 2, 31, 32 and 33. Anything else is an error.
The text is not changed; the first argument is shown as the command line above it.
"""
import re
import sys
from xml.sax.saxutils import escape

CHARACTER_WIDTH, LINE_HEIGHT, MARGIN = 8.0, 17, 16
STYLES = {"1": "b", "2": "d", "31": "r", "32": "g", "33": "y"}
CSS = """text{font:13.3px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d4d7dc;white-space:pre}
.b{font-weight:bold}.d{fill:#8b929c}.r{fill:#ff7b72}.g{fill:#7ee787}.y{fill:#e3b341}"""


def spans(line):
    """Yields (column, text, classes) of a line; spaces before a text only move it."""
    column, classes = 0, ""
    for text, sgr in re.findall(r"([^\x1b]+)|\x1b\[([0-9;]*)m", line):
        if text:
            start = column + len(text) - len(text.lstrip(" "))
            if text.strip(" "):
                yield start, text.strip(" "), classes
            column += len(text)
        else:
            codes = [code for code in sgr.split(";") if code not in ("", "0")]
            classes = " ".join(STYLES[code] for code in codes)


def main():
    command = [f"\x1b[2m$\x1b[0m \x1b[1m{sys.argv[1]}\x1b[0m", ""] if len(sys.argv) > 1 else []
    lines = command + sys.stdin.read().rstrip("\n").split("\n")
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    if any("\x1b" in line for line in plain):
        sys.exit("an escape sequence that is not a colour")
    width = max(map(len, plain)) * CHARACTER_WIDTH + 2 * MARGIN
    height = len(lines) * LINE_HEIGHT + 2 * MARGIN
    print(f'<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">')
    print(f"<style>{CSS}</style>\n" f'<rect width="100%" height="100%" rx="8" fill="#16191d"/>')
    for number, line in enumerate(lines):
        y = MARGIN + number * LINE_HEIGHT + 13
        for column, text, classes in spans(line):
            x, length = MARGIN + column * CHARACTER_WIDTH, len(text) * CHARACTER_WIDTH
            style = f' class="{classes}"' if classes else ""
            print(f'<text x="{x:g}" y="{y}" textLength="{length:g}" lengthAdjust="spacingAndGlyphs"{style}>{escape(text)}</text>')
    print("</svg>")


main()

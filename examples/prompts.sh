#!/usr/bin/env bash
# Prompts from a folder (one a file), from JSON with token ids, and as text on the command line.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mkdir prompts
echo 'PEACE, n.  In international affairs, a period of' >prompts/peace.txt
echo '[{"id": "ids", "tokens": [0, 5, 9, 300]}, {"id": "wit", "text": "WIT, n."}]' >prompts/more.json

expect 0 driftprobe run --prompts prompts 'A text' --layers 0,8 --points attn_out,logits --out run
# The ids: the file's name, those of the JSON file, and a number for a text.
for id in peace ids wit text_3; do grep -q "\"id\": \"$id\"" run/manifest.json; done

# A file that is not there is an error, not a text.
expect 2 driftprobe run --prompts prompts/absent.txt --out other

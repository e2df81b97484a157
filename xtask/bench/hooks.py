"""Prefill and decode of one prompt compared as one does it with PyTorch hooks: one program puts each hooked output of each phase
into a file of its own, and another compares the files.

Usage: hooks.py make FOLDER LAYERS HIDDEN           writes a random Llama, by transformers
       hooks.py dump FOLDER WORK LAYERS IDS STEPS   runs both phases; the last STEPS tokens are decoded one by one
       hooks.py compare WORK

LAYERS of `dump` and IDS are numbers with commas between them. `dump` and `compare` answer with one JSON object.
"""

import glob
import json
import os
import sys
import time

import torch

POINTS = {
    "attn_norm_out": "input_layernorm",
    "q_proj_out": "self_attn.q_proj",
    "k_proj_out": "self_attn.k_proj",
    "v_proj_out": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ffn_norm_out": "post_attention_layernorm",
    "gate_out": "mlp.gate_proj",
    "up_out": "mlp.up_proj",
    "act_out": "mlp.act_fn",
    "mlp_out": "mlp.down_proj",
    "residual_post_mlp": "",
}
THRESHOLD = 1e-3


def make(folder, layers, hidden):
    import transformers

    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128, vocab_size=32000, num_hidden_layers=layers, max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


class Dumper:
    """Writes the rows of the traced positions, a file a tensor."""

    def __init__(self, work):
        self.work, self.phase, self.positions, self.first, self.seconds = work, "", [], 0, 0.0

    def hook(self, name):
        def write(_, __, output):
            started = time.perf_counter()
            output = output[0] if isinstance(output, tuple) else output
            for position in self.positions:
                row = output[0, position - self.first].detach().clone().cpu()
                torch.save(row, os.path.join(self.work, self.phase, f"name={name}___pos={position}.pt"))
            self.seconds += time.perf_counter() - started

        return write


def trace(model, work, layers, ids, steps):
    from transformers import DynamicCache

    dumper = Dumper(work)
    inner = model.model
    for phase in ("prefill", "decode"):
        os.makedirs(os.path.join(work, phase), exist_ok=True)
    modules = {"embedding.-1": inner.embed_tokens, "final_norm_out.-1": inner.norm, "logits.-1": model.lm_head}
    for layer in layers:
        for point, path in POINTS.items():
            modules[f"{point}.{layer}"] = inner.layers[layer].get_submodule(path)
    for name, module in modules.items():
        module.register_forward_hook(dumper.hook(name))
    first = len(ids) - steps
    tokens = torch.tensor([ids])
    with torch.no_grad():
        dumper.phase, dumper.positions, dumper.first = "prefill", list(range(first, len(ids))), 0
        logits = model(tokens, use_cache=False).logits
        assert logits.shape[1] == len(ids)
        dumper.phase, dumper.positions = "decode", []
        cache = DynamicCache()
        model(tokens[:, :first], past_key_values=cache, use_cache=True, logits_to_keep=1)
        for position in range(first, len(ids)):
            dumper.positions, dumper.first = [position], position
            model(tokens[:, position : position + 1], past_key_values=cache, use_cache=True)
    return dumper.seconds


def compare(work):
    rows, worst, first = 0, 0.0, None
    for path in sorted(glob.glob(os.path.join(work, "prefill", "*.pt")), key=os.path.getmtime):
        other = os.path.join(work, "decode", os.path.basename(path))
        p, d = torch.load(path).double(), torch.load(other).double()
        difference = (p - d).abs()
        relative = 1 - 2 * (p * d).sum() / (p * p + d * d).sum()
        numbers = (difference.max().item(), difference.mean().item(), relative.item())
        rows += 1
        worst = max(worst, numbers[2])
        if not numbers[2] <= THRESHOLD and first is None:
            first = os.path.basename(path)
    return {"rows": rows, "worst": worst, "first": first, "verdict": "PASS" if rows and first is None else "FAIL"}


def dump(folder, work, layers, ids, steps):
    import transformers

    imported = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    loaded = time.perf_counter()
    dumping = trace(model, work, layers, ids, steps)
    ended = time.perf_counter()
    versions = f"torch {torch.__version__} transformers {transformers.__version__} python {sys.version.split()[0]}"
    return {"load_s": loaded - imported, "passes_s": ended - loaded - dumping, "dump_s": dumping, "versions": versions}


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    what, folder, *rest = sys.argv[1:]
    if what == "make":
        make(folder, *map(int, rest))
        answer = {}
    elif what == "dump":
        work, layers, ids, steps = rest
        answer = dump(folder, work, numbers(layers), numbers(ids), int(steps))
    else:
        started = time.perf_counter()
        answer = compare(folder)
        answer["compare_s"] = time.perf_counter() - started
    print(json.dumps(answer))


main()

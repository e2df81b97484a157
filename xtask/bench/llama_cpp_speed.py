"""Prefill and decode speed of llama.cpp on one GGUF file, as JSON. Needs llama-cpp-python."""

import json
import sys
import time

import llama_cpp


def main() -> None:
    model, prompt_tokens, decoded_tokens, threads = sys.argv[1], *map(int, sys.argv[2:5])
    llm = llama_cpp.Llama(
        model_path=model,
        n_ctx=prompt_tokens + decoded_tokens + 8,
        n_batch=prompt_tokens,
        n_ubatch=prompt_tokens,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=False,
        verbose=False,
    )
    vocab = llm.n_vocab()
    tokens = [((i * 2654435761 & 0xFFFFFFFF) >> 7) % vocab for i in range(prompt_tokens + decoded_tokens)]
    llm.eval(tokens[:prompt_tokens])  # Pages the weights in and warms the pool.
    llm.reset()
    started = time.perf_counter()
    llm.eval(tokens[:prompt_tokens])
    prefilled = time.perf_counter()
    for token in tokens[prompt_tokens:]:
        llm.eval([token])
    ended = time.perf_counter()
    answer = {
        "version": f"llama-cpp-python {llama_cpp.__version__}",
        "prefill_tokens_per_s": prompt_tokens / (prefilled - started),
        "decode_tokens_per_s": decoded_tokens / (ended - prefilled),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

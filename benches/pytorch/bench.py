"""The peer's side of `ferrotune bench`: PyTorch + Transformers + PEFT on the same work, at its best.

    python bench.py step    [--shape roberta-base|minilm-l6] [--precision f32|bf16] [--nf4]
    python bench.py epoch   --data train.jsonl [--recipe best|reference] [--shape …] [--batch 32]
    python bench.py predict --data test.jsonl [--engine torch|onnxruntime] [--shape …] [--cache FOLDER]

Random weights throughout. `step` is one optimizer step on 32 sequences of 128 tokens. `epoch` is one pass
over the texts of a JSONL file: `reference` pads everything to 128 tokens in f32 with batches of 256
(`--batch 256`, and `--micro 32` where they do not fit: each batch as 8 × 32, gradients accumulated);
`best` sorts neighbouring rows by length, computes in bf16 autocast, and uses sdpa attention, as does
`step`. `predict` is the logits of all texts, rows sorted by length over the whole file, each batch padded
to its longest: `torch` is eager PyTorch in inference mode, `onnxruntime` the same network exported once
(kept in `--cache`), fused, in f32. Prints seconds (median, least, most), tokens per second, peak memory.

`--part 0.1` times a tenth of the batches and tells the whole. That is fair: a batch's time follows from
its padded tokens, by which the measured seconds are scaled up. Under `reference` all batches cost the same
but the last and smaller one; under `best` they differ, are drawn evenly, and count by their tokens.

tcmalloc makes PyTorch much faster on CPUs: LD_PRELOAD=…/libtcmalloc_minimal.so.4 python bench.py …
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import batches as work

SHAPES = ["roberta-base", "minilm-l6"]
TRAIN_ROWS = 32
PREDICT_ROWS = {"torch": 32, "onnxruntime": 32}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=["step", "epoch", "predict"])
    parser.add_argument("--shape", choices=SHAPES, default="roberta-base")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--nf4", action="store_true", help="bitsandbytes' 4-bit encoder")
    parser.add_argument("--recipe", choices=["best", "reference"], default="best")
    parser.add_argument("--engine", choices=["torch", "onnxruntime"], default="torch", help="of predict")
    parser.add_argument("--cache", type=Path, help="existing folder that keeps the exported network")
    parser.add_argument("--data", help="JSONL with `text`")
    parser.add_argument("--batch", type=int, help="rows, by default 32; predict: the engine's best")
    parser.add_argument("--micro", type=int, help="rows computed at a time under --recipe reference")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", type=float, default=1.0, help="share of the batches to time")
    options = parser.parse_args()
    if options.workload != "step" and not options.data:
        parser.error(f"{options.workload} needs --data")
    return options


def compute(options: argparse.Namespace):
    """What computes a batch, its precision, its number of threads (None: onnxruntime's own choice).

    PyTorch is imported only where it computes: its libraries take 0.8 GiB of memory.
    """
    if options.workload == "predict" and options.engine == "onnxruntime":
        from onnx_engine import Session

        with tempfile.TemporaryDirectory() as folder:
            session = Session(options.shape, options.cache or Path(folder), options.threads)
        return lambda parts: [session.logits(*part) for part in parts], "f32", options.threads

    import torch

    from networks import Predictor, Trainer

    if options.threads:
        torch.set_num_threads(options.threads)
    threads = torch.get_num_threads()
    if options.workload == "predict":
        predictor = Predictor(options.shape, options.precision)
        return lambda parts: [predictor.logits(*part) for part in parts], options.precision, threads
    reference = options.workload == "epoch" and options.recipe == "reference"
    precision = "f32" if reference else options.precision
    return Trainer(options.shape, options.nf4, precision).step, precision, threads


def batches(options: argparse.Namespace) -> tuple[list, int]:
    """The workload's batches, and its tokens without padding."""
    if options.workload == "step":
        return work.step_batches(), 32 * 128
    rows = work.rows_of(options.data)
    if options.workload == "predict":
        found = work.predict_batches(rows, options.batch or PREDICT_ROWS[options.engine])
    elif options.recipe == "reference":
        batch = options.batch or TRAIN_ROWS
        found = work.reference_batches(rows, batch, options.micro or batch)
    else:
        found = work.best_batches(rows, options.batch or TRAIN_ROWS)
    return found, sum(map(len, rows))


def main() -> None:
    options = arguments()
    whole, tokens = batches(options)
    timed, share = work.sample(whole, options.part)
    run, precision, threads = compute(options)
    # A prediction's whole pass first: oneDNN and onnxruntime prepare something for every new shape.
    for parts in timed if options.workload == "predict" else [parts[:2] for parts in timed[:2]]:
        run(parts)
    seconds = []
    for _ in range(options.repeats):
        started = time.perf_counter()
        for parts in timed:
            run(parts)
        seconds.append((time.perf_counter() - started) / share)
    median = statistics.median(seconds)
    print(json.dumps(dict(
        workload=options.workload, engine=options.engine, shape=options.shape, precision=precision,
        nf4=options.nf4, recipe=options.recipe, threads=threads, part=share, median_seconds=median,
        least=min(seconds), most=max(seconds), tokens_per_second=tokens / median,
        peak_memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )))


if __name__ == "__main__":
    main()

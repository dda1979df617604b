"""Loads a checkpoint that `ferrotune export --format merged` wrote, and compares the logits.

    python check_merged.py FOLDER LOGITS.jsonl

LOGITS.jsonl holds what ferrotune computed: one {"ids": [...], "logits": [...]} a line. Exit code 0 if no
tensor is missing or too many and every logit agrees to 1e-4 of the largest.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("logits", type=Path, metavar="LOGITS.jsonl")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.logits.read_text().splitlines() if line.strip()]
    if not rows:
        sys.exit(f"{options.logits}: no rows")

    model, info = AutoModelForSequenceClassification.from_pretrained(
        options.folder, attn_implementation="eager", output_loading_info=True
    )
    wrong = {kind: sorted(keys) for kind, keys in info.items() if keys}
    if wrong:
        sys.exit(f"{options.folder}: {wrong}")
    if model.dtype != torch.float32:
        sys.exit(f"{options.folder}: loaded as {model.dtype}")
    labels = AutoTokenizer.from_pretrained(options.folder) and model.config.id2label
    if len(labels) != len(rows[0]["logits"]):
        sys.exit(f"{options.folder}: labels {labels}")

    worst, scale = 0.0, 0.0
    with torch.no_grad():
        for row in rows:
            theirs = model.eval()(input_ids=torch.tensor([row["ids"]])).logits[0].double()
            ours = torch.tensor(row["logits"], dtype=torch.float64)
            worst = max(worst, (ours - theirs).abs().max().item())
            scale = max(scale, theirs.abs().max().item())
    error = worst / scale
    verdict = "agree" if error <= TOLERANCE else "DIFFER"
    print(f"{type(model).__name__}: {len(rows)} rows {verdict}: {error:.2e} of the largest logit {scale:.3f}")
    return 0 if error <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

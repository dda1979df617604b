"""Loads an adapter that ferrotune wrote with PEFT and compares the logits.

    python check_adapter.py BASE_DIR ADAPTER_DIR LOGITS.jsonl

BASE_DIR is the Hugging Face folder of the base model, LOGITS.jsonl holds what ferrotune computed: one
{"ids": [...], "logits": [...]} a line. Exit code 0 if every logit agrees to 1e-4 of the largest.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, metavar="BASE_DIR")
    parser.add_argument("adapter", type=Path, metavar="ADAPTER_DIR")
    parser.add_argument("logits", type=Path, metavar="LOGITS.jsonl")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.logits.read_text().splitlines() if line.strip()]
    if not rows:
        sys.exit(f"{options.logits}: no rows")

    num_labels = len(rows[0]["logits"])
    base = AutoModelForSequenceClassification.from_pretrained(
        options.base, num_labels=num_labels, dtype=torch.float32, attn_implementation="eager"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, options.adapter).eval()
    # PEFT only warns when the adapter lacks a weight, and then computes with a random one.
    absent = [str(w.message) for w in caught if "missing" in str(w.message).lower()]
    if absent:
        sys.exit("\n".join(absent))

    worst, scale = 0.0, 0.0
    with torch.no_grad():
        for row in rows:
            theirs = model(input_ids=torch.tensor([row["ids"]])).logits[0].double()
            ours = torch.tensor(row["logits"], dtype=torch.float64)
            if not torch.isfinite(ours).all():
                sys.exit(f"{options.logits}: logits that are not finite: {row['logits']}")
            worst = max(worst, (ours - theirs).abs().max().item())
            scale = max(scale, theirs.abs().max().item())
    error = worst / scale
    verdict = "agree" if error <= TOLERANCE else "DIFFER"
    print(f"{len(rows)} rows {verdict}: largest difference {worst:.2e}, {error:.2e} of the largest logit {scale:.3f}")
    return 0 if error <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

"""Compares sentence embeddings with those of Transformers.

    python check_embeddings.py ids MODEL_DIR IDS.jsonl
    python check_embeddings.py compare MODEL_DIR EMBEDDINGS.jsonl

The first writes the token ids of a few texts, the last as long as the model can read; the second compares what
`embeddings MODEL_DIR < IDS.jsonl` made of them: the means of the last hidden states, scaled to length 1. Exit code
0 if every number agrees to 1e-4 of the largest.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from random_adapter import TEXTS, longest
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

TOLERANCE = 1e-4


def write_ids(model: Path, file: Path) -> int:
    most = longest(AutoConfig.from_pretrained(model))
    rows = AutoTokenizer.from_pretrained(model)(TEXTS, truncation=True, max_length=most)["input_ids"]
    file.write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))
    return 0


def compare(folder: Path, file: Path) -> int:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if not rows:
        sys.exit(f"{file}: no rows")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    worst, largest, least = 0.0, 0.0, 1.0
    with torch.no_grad():
        for row in rows:
            hidden = model(input_ids=torch.tensor([row["ids"]])).last_hidden_state[0]
            theirs = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0).double()
            ours = torch.tensor(row["embedding"], dtype=torch.float64)
            if not torch.isfinite(ours).all():
                sys.exit(f"{file}: numbers that are not finite")
            worst = max(worst, (ours - theirs).abs().max().item())
            largest = max(largest, theirs.abs().max().item())
            least = min(least, torch.nn.functional.cosine_similarity(ours, theirs, dim=0).item())
    agree = worst <= TOLERANCE * largest
    print(
        f"{len(rows)} embeddings {'agree' if agree else 'DIFFER'}: largest difference {worst:.2e} "
        f"({worst / largest:.2e} of the largest number), least cosine {least:.9f}"
    )
    return 0 if agree else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["ids", "compare"])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    options = parser.parse_args()
    logging.set_verbosity_error()
    return (write_ids if options.step == "ids" else compare)(options.model, options.file)


if __name__ == "__main__":
    sys.exit(main())

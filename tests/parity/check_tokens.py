"""Compares token ids with those of Transformers' AutoTokenizer.

    python check_tokens.py TOKENIZER_DIR FILE.jsonl... IDS.jsonl

The FILEs hold a `text` a line; IDS.jsonl holds ferrotune's ids for all of them in the same order, one
{"ids": [...]} a line, special tokens included and nothing truncated. Exit code 0 if all are equal.
"""

import argparse
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer
from transformers.utils import logging


def read(path: Path) -> list[dict]:
    # Not splitlines(): it also splits at U+2028 and its kin, which JSON leaves unescaped inside strings.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER_DIR")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.jsonl")
    parser.add_argument("ids", type=Path, metavar="IDS.jsonl")
    options = parser.parse_args()
    logging.set_verbosity_error()  # texts longer than the model are meant here
    texts = [row["text"] for path in options.files for row in read(path)]
    ours = [row["ids"] for row in read(options.ids)]
    if len(texts) != len(ours):
        print(f"{len(texts)} texts but {len(ours)} lines of ids")
        return 1
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    theirs = tokenizer(texts, truncation=False, padding=False)["input_ids"]
    wrong = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
    for i in wrong[:5]:
        print(f"text {i + 1}: {texts[i][:80]!r}\n  ours   {ours[i]}\n  theirs {theirs[i]}")
    print(f"{len(texts)} texts, {sum(map(len, theirs))} ids, {len(wrong)} texts differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

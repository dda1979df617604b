"""LexGLUE's TF-IDF baseline on UNFAIR-ToS in scikit-learn: what `lexglue` of crates/linear stands beside.

    python unfair_tos_svm.py DATA_DIR [--jobs 2] [--seed 1] [--whole-texts] [--stop-words scikit-learn]

DATA_DIR holds {train,validation,test}.jsonl with `text` and `labels` (a list; empty means fair). The protocol
is that of models/tfidf_svm.py in coastalcph/lex-glue: NLTK's stop words, n-grams of 1 to 3 tokens in 5 texts
or more, 18 combinations chosen by exact match on validation, a fit on the training rows alone, F1 with the
further class "none". Its text_limit of -1 drops the last word of each text; --whole-texts undoes that.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from linear_fixtures import stop_words
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC

LABELS = 8


def read_split(path: Path, whole: bool) -> tuple[list[str], np.ndarray]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    labels = np.zeros((len(rows), LABELS), dtype=int)
    for row, indicator in zip(rows, labels):
        indicator[row["labels"]] = 1
    return [row["text"] if whole else " ".join(row["text"].split()[:-1]) for row in rows], labels


def f1(truth: np.ndarray, predicted: np.ndarray) -> str:
    truth, predicted = (np.column_stack([rows, rows.sum(axis=1) == 0]) for rows in (truth, predicted))
    micro, macro = (f1_score(truth, predicted, average=average) for average in ("micro", "macro"))
    return f"micro-F1 {micro * 100:.2f}  macro-F1 {macro * 100:.2f}"


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--whole-texts", action="store_true")
    parser.add_argument("--stop-words", choices=["nltk", "scikit-learn"], default="nltk")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Your stop_words may be inconsistent")

    (train, train_truth), (validation, validation_truth), (test, test_truth) = (
        read_split(options.data / f"{split}.jsonl", options.whole_texts) for split in ("train", "validation", "test")
    )
    pipeline = Pipeline([
        ("vect", CountVectorizer(stop_words=stop_words(options.stop_words), ngram_range=(1, 3), min_df=5)),
        ("tfidf", TfidfTransformer()),
        ("clf", OneVsRestClassifier(LinearSVC(random_state=options.seed, max_iter=50_000))),
    ])
    grid = {
        "vect__max_features": [10_000, 20_000, 40_000],
        "clf__estimator__C": [0.1, 1, 10],
        "clf__estimator__loss": ("hinge", "squared_hinge"),
    }
    split = PredefinedSplit([-1] * len(train) + [0] * len(validation))
    found = GridSearchCV(pipeline, grid, cv=split, n_jobs=options.jobs, refit=False)
    found.fit(train + validation, np.vstack([train_truth, validation_truth]))
    model = pipeline.set_params(**found.best_params_).fit(train, train_truth)
    print(found.best_params_, f"exact match {found.best_score_:.5f}")
    print("validation:", f1(validation_truth, model.predict(validation)))
    print("test:", f1(test_truth, model.predict(test)))
    print(f"{time.perf_counter() - start:.3f} s")


if __name__ == "__main__":
    main()

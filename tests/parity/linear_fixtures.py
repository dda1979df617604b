"""What Python and scikit-learn make of small texts and rows, for the tests of crates/linear.

    python linear_fixtures.py FOLDER     # writes unicode.json, vectorizer.json, classifier.json, search.json

All texts are invented, all numbers drawn from fixed seeds. Every LinearSVC has dual=True: the solver
that LexGLUE's scikit-learn had by default.
"""

import itertools
import json
import random
import re
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer, TfidfTransformer
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC

WORD_LISTS = Path(__file__).resolve().parents[2] / "crates/linear/src/stop_words"
SIGMA = [("A", "Σ"), ("AΣ", ""), ("AΣ", "A")]

SCRIPTS = [
    "", " ", "a", "ab", "a b cd", "It's the user's own_account, isn't it?", "__init__ _ _a a_",
    "ΟΔΟΣ ΟΔΟΣ. ΟΔΥΣΣΕΥΣ Σ ΣΑΣ σΣ ΑΣ́ Α.Σ ΣΣ", "İstanbul IĞDIR ı ß ẞ ﬁ ǅ Ǆ", "naïve café cafe\u0301 re\u0301sume\u0301 Å A\u030a",
    "हिन्दी में नियम लागू हैं", "العَرَبِيَّة لُغَة ١٢٣", "ภาษาไทย ที่นี่", "日本語のテキスト、契約。", "한국어 조건",
    "x² y₃ ½ Ⅳ ⅷ ① Ⓐ ª º 10⁹ ೩೪", "co\u00adoperate zero\u200bwidth join\u200der non\u00a0break", "👍🏽 ok 👩\u200d⚖️ fair",
    "a\u0301b \u0301ab", "user@example.org http://example.org/a_b?c=1", "tab\tand\x0bline\x1cend\x85next\u2028last", "NUL\x00byte \ufeffbom",
    "𝔘𝔫𝔣𝔞𝔦𝔯 𝟜𝟚 𐐀𐐁", "Ā̈B Ⴀ Ꭰ ꭰ ᲀ Ω K Å", "don’t won't 3.5% §7(a) c++ e-mail",
]


def runs(flags):
    """The runs of true flags as [first, last]."""
    found = []
    for code, flag in flags:
        if not flag:
            continue
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def unicode():
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    assigned = [c for c in codes if unicodedata.category(chr(c)) not in ("Cn", "Co")]
    word = re.compile(r"(?u)\w")
    token = CountVectorizer().build_tokenizer()

    def is_final(before, after):
        return runs((c, chr(c) not in "Σς" and "ς" in (before + chr(c) + after).lower()) for c in assigned)

    return {
        "unicode": unicodedata.unidata_version,
        "assigned": runs((c, True) for c in assigned),
        "word": runs((c, word.match(chr(c)) is not None) for c in assigned),
        "lower": [[c, chr(c).lower()] for c in assigned if chr(c).lower() != chr(c)],
        "sigma": [{"before": b, "after": a, "is_final": is_final(b, a)} for b, a in SIGMA],
        "texts": [{"text": t, "lower": t.lower(), "tokens": token(t.lower())} for t in SCRIPTS],
    }


TOPICS = [
    "we may terminate your account at any time without notice and without liability",
    "the service may change these terms and the new terms apply once they are published",
    "any dispute shall be settled by binding arbitration and not by a court of law",
    "you agree to the terms by using the café or the naïve helper on this site",
]
FILLERS = (
    "please read this page with care before you order a lamp a chair or a table from our garden shop "
    "parcels travel for three days and the colour of wood differs between pieces of one series"
).split()


def corpus(count, seed):
    """Texts made of phrases of some topics between other words, and the topics as indicator rows."""
    draw = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        topics = [t for t in range(len(TOPICS)) if draw.random() < 0.25]
        parts = [draw.choices(FILLERS, k=draw.randint(2, 9))]
        for topic in topics:
            words = TOPICS[topic].split()
            start = draw.randint(0, 4)
            parts.append(words[start : start + draw.randint(4, 8)])
        draw.shuffle(parts)
        text = " ".join(itertools.chain(*parts))
        texts.append(draw.choice([str, str.upper, str.capitalize])(text) + draw.choice([".", " !", "", " \n"]))
        # One label in eight is wrong, so that no plane separates the rows.
        labels.append([int((t in topics) != (draw.random() < 0.125)) for t in range(len(TOPICS))])
    return texts, np.array(labels)


def stop_words(name):
    if name == "none":
        return None
    lines = (WORD_LISTS / f"{name.replace('-', '_')}.txt").read_text().splitlines()
    words = [line for line in lines if not line.startswith("#")]
    if name == "scikit-learn":
        assert set(words) == ENGLISH_STOP_WORDS and len(words) == len(ENGLISH_STOP_WORDS)
    return words


def counter(case):
    return CountVectorizer(
        stop_words=stop_words(case["stop_words"]), ngram_range=tuple(case["ngram_range"]),
        min_df=case["min_df"], max_features=case["max_features"],
    )


def fit(vectorizer, texts):
    with warnings.catch_warnings():
        # Words with an apostrophe are no tokens: scikit-learn says so.
        warnings.filterwarnings("ignore", message="Your stop_words may be inconsistent")
        return vectorizer.fit_transform(texts)


def clear_cut(texts, case, near):
    """A limit close to `near` that does not cut through n-grams that occur equally often."""
    counts = fit(counter({**case, "max_features": None}), texts)
    totals = np.sort(np.asarray(counts.sum(axis=0)).ravel())[::-1]
    return next(int(n) for n in range(near, len(totals)) if totals[n - 1] > totals[n])


def sparse(matrix):
    matrix = sp.csr_matrix(matrix)
    matrix.sort_indices()
    return [list(zip(row.indices.tolist(), row.data.tolist())) for row in matrix]


def vectorizer():
    train, _ = corpus(60, 1)
    other = corpus(6, 2)[0] + ["", "the and of", "nothing that was ever seen", "ΤΕΛΟΣ account ACCOUNT account"]
    cases = [
        {"stop_words": "nltk", "ngram_range": [1, 3], "min_df": 5, "max_features": None},
        {"stop_words": "scikit-learn", "ngram_range": [1, 2], "min_df": 2, "max_features": None},
        {"stop_words": "none", "ngram_range": [2, 4], "min_df": 4, "max_features": None},
        {"stop_words": "nltk", "ngram_range": [1, 3], "min_df": 1, "max_features": 40},
    ]
    found = []
    for case in cases:
        if case["max_features"]:
            case["max_features"] = clear_cut(train, case, case["max_features"])
        count, weigh = counter(case), TfidfTransformer()
        rows = weigh.fit_transform(fit(count, train))
        terms = count.get_feature_names_out().tolist()
        found.append({
            "config": case, "terms": terms, "idf": weigh.idf_.tolist(),
            "train": sparse(rows[:15]), "other": sparse(weigh.transform(count.transform(other))),
        })
    return {"train": train, "other": other, "cases": found}


def objective(svc, rows, positive, c, loss, weights):
    """½ w·w + Σ c loss, the intercept regularised as a weight."""
    coef, intercept = svc.coef_.ravel(), svc.intercept_[0]
    slack = np.maximum(0, 1 - np.where(positive, 1, -1) * (rows @ coef + intercept))
    costs = c * np.where(positive, weights[1], weights[0])
    return float((coef @ coef + intercept**2) / 2 + costs @ (slack if loss == "hinge" else slack**2))


def classifier():
    draw = np.random.RandomState(3)
    rows, features = 90, 24
    dense = draw.rand(rows + 20, features) * (draw.rand(rows + 20, features) < 0.3)
    dense[5] = 0
    planes = draw.randn(features, 3)
    scores = dense @ planes + 0.4 * draw.randn(rows + 20, 3)
    labels = (scores > 0.3).astype(int)
    classes = scores.argmax(axis=1)
    matrix = sp.csr_matrix(dense)
    train, other = matrix[:rows], matrix[rows:]

    def columns(estimators):
        return {
            "weights": [e.coef_.ravel().tolist() for e in estimators],
            "intercepts": [float(e.intercept_[0]) for e in estimators],
            "iterations": [int(e.n_iter_) for e in estimators],
        }

    cases = []
    for loss, c, tolerance in itertools.product(("hinge", "squared_hinge"), (0.1, 1.0, 10.0), (1e-4, 1e-9)):
        options = {"loss": loss, "C": c, "tol": tolerance, "dual": True, "max_iter": 10_000_000, "random_state": 1}
        case = {"loss": loss, "c": c, "tolerance": tolerance, "seed": 1}

        ovr = OneVsRestClassifier(LinearSVC(**options)).fit(train, labels[:rows])
        objectives = [
            objective(e, train, labels[:rows, k] == 1, c, loss, (1, 1)) for k, e in enumerate(ovr.estimators_)
        ]
        cases.append({
            **case, "task": "labels", "weight": "uniform", **columns(ovr.estimators_), "objectives": objectives,
            "decisions": ovr.decision_function(other).tolist(), "predicted": ovr.predict(other).tolist(),
        })
        for weight, name in ((None, "uniform"), ("balanced", "balanced"), ({0: 0.5, 1: 3.0}, "given")):
            seed = {"uniform": 7, "balanced": 0, "given": 4_294_967_295}[name]
            binary = LinearSVC(**{**options, "random_state": seed}, class_weight=weight).fit(train, labels[:rows, 0])
            shares = {"uniform": (1, 1), "balanced": rows / (2 * np.bincount(labels[:rows, 0])), "given": (0.5, 3.0)}
            cases.append({
                **case, "seed": seed, "task": "binary", "weight": name, **columns([binary]),
                "objectives": [objective(binary, train, labels[:rows, 0] == 1, c, loss, shares[name])],
                "decisions": [[d] for d in binary.decision_function(other).tolist()],
                "predicted": binary.predict(other).tolist(),
            })
        if tolerance < 1e-4:  # the classes share one generator there, so that only the optimum is comparable
            for weight, name in ((None, "uniform"), ("balanced", "balanced")):
                multi = LinearSVC(**options, class_weight=weight).fit(train, classes[:rows])
                cases.append({
                    **case, "task": "classes", "weight": name, "weights": multi.coef_.tolist(),
                    "intercepts": multi.intercept_.tolist(), "iterations": [], "objectives": [],
                    "decisions": multi.decision_function(other).tolist(), "predicted": multi.predict(other).tolist(),
                })
    return {
        "features": features, "train": sparse(train), "other": sparse(other),
        "labels": labels[:rows].tolist(), "classes": classes[:rows].tolist(), "cases": cases,
    }


def search():
    train, labels = corpus(120, 5)
    validation, truth = corpus(50, 6)
    base = {"stop_words": "nltk", "ngram_range": [1, 3], "min_df": 3, "max_features": None}
    limits = [clear_cut(train, base, 25), clear_cut(train, base, 60), 10_000, 20_000]
    pipeline = Pipeline([
        ("vect", counter(base)), ("tfidf", TfidfTransformer()),
        ("clf", OneVsRestClassifier(LinearSVC(random_state=1, max_iter=10_000_000, dual=True))),
    ])
    grid = {
        "vect__max_features": limits,
        "clf__estimator__C": [0.1, 1, 10],
        "clf__estimator__loss": ("hinge", "squared_hinge"),
    }
    split = PredefinedSplit([-1] * len(train) + [0] * len(validation))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your stop_words may be inconsistent")
        found = GridSearchCV(pipeline, grid, cv=split, refit=False).fit(train + validation, np.vstack([labels, truth]))
        best = pipeline.set_params(**found.best_params_).fit(train, labels)
    return {
        "train": train, "labels": labels.tolist(), "validation": validation, "truth": truth.tolist(),
        "limits": limits, "scores": found.cv_results_["mean_test_score"].tolist(), "best": int(found.best_index_),
        "decisions": best.decision_function(validation).tolist(), "predicted": best.predict(validation).tolist(),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    warnings.simplefilter("error", ConvergenceWarning)
    for make in (unicode, vectorizer, classifier, search):
        text = json.dumps(make(), ensure_ascii=False, separators=(",", ":"))
        (folder / f"{make.__name__}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

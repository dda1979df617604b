"""Compares two folders of fixtures: the same files and pickles, tensors within 1e-5, the same JSON but for
numbers with a fraction, which are within 1e-9.

    python compare_fixtures.py COMMITTED FRESH

The difference is relative to the largest value of each tensor, or to the number. Exit code 0 if all agree.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

TOLERANCE = 1e-5
# Exact gradient zero (softmax does not see a shift of all scores); what is stored is rounding of float64.
FLOOR = 1e-12


def load(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    return {name: value for name, value in torch.load(path).items() if torch.is_tensor(value)}


def tensors_differ(committed: Path, fresh: Path) -> list[str]:
    left, right = load(committed), load(fresh)
    if left.keys() != right.keys():
        return [f"tensors {sorted(left.keys() ^ right.keys())} are in one file only"]
    found = []
    for name in left:
        a, b = left[name].double(), right[name].double()
        if a.shape != b.shape:
            found.append(f"{name}: shape {tuple(a.shape)} against {tuple(b.shape)}")
            continue
        if not a.numel():
            continue
        error = (a - b).abs().max().item()
        if not error <= TOLERANCE * a.abs().max().item() + FLOOR:
            found.append(f"{name}: differs by {error:.2e}")
    return found


def json_agrees(a, b) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-9 * abs(a) + FLOOR
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(json_agrees(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(json_agrees, a, b))
    return type(a) is type(b) and a == b


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("committed", type=Path, metavar="COMMITTED")
    parser.add_argument("fresh", type=Path, metavar="FRESH")
    options = parser.parse_args()
    left, right = ({p.relative_to(root) for p in root.rglob("*") if p.is_file()}
                   for root in (options.committed, options.fresh))
    found = [f"{path}: in one folder only" for path in sorted(left ^ right)]
    for path in sorted(left & right):
        committed, fresh = options.committed / path, options.fresh / path
        if path.suffix in (".safetensors", ".bin"):
            found += [f"{path}: {what}" for what in tensors_differ(committed, fresh)]
        elif path.suffix == ".pickle":
            if committed.read_bytes() != fresh.read_bytes():
                found.append(f"{path}: differs")
        elif not json_agrees(*(json.loads((root / path).read_text()) for root in (options.committed, options.fresh))):
            found.append(f"{path}: differs")
    print("\n".join(found) if found else f"{len(left)} files agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

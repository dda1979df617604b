"""What bitsandbytes computes with 8-bit integers (LLM.int8()): small products x·Wᵀ + bias on the CPU.

    python int8_fixtures.py FOLDER     # writes FOLDER/int8.safetensors

Each case holds `CASE.x`, `CASE.weight`, `CASE.bias`, bitsandbytes' codes and magnitudes of the weight
(`CASE.codes`, `CASE.absmax`), and its results: `CASE.alone`, where every row of x is a call of its
own, and `CASE.together`, all rows in one call, where a column with an outlier in any row is computed
apart for all of them. bitsandbytes rounds x and W to float16 before it quantises them: here they are
float16's numbers already, so that this changes nothing. In torch `127.0 / m` is 127 times the rounded
reciprocal of m; where that and the quotient round a number differently, another one is drawn.
"""

import sys
from pathlib import Path

import bitsandbytes as bnb
import torch
from safetensors.torch import save_file

CASES = {  # rows of x, columns, rows of W, outliers
    "plain": (7, 80, 24, 0),
    "outliers": (11, 131, 50, 40),
    "wide": (3, 530, 9, 9),
}
THRESHOLD = 6.0


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor):
    state = bnb.MatmulLtState()
    state.threshold = THRESHOLD
    state.has_fp16_weights = False
    state.is_training = False  # on CPUs training multiplies by the dequantised weight
    return bnb.matmul(x, weight, bias=bias, state=state), state


def numbers(rows: int, columns: int, outliers: int) -> torch.Tensor:
    x = torch.randn(rows, columns).clamp(-5.5, 5.5)
    places = torch.randperm(rows * columns)[:outliers]
    x.view(-1)[places] = torch.randn(outliers).sign() * (6 + 20 * torch.rand(outliers))
    if outliers:
        x[1, 5] = THRESHOLD  # an outlier, barely
        x[2, 5] = -THRESHOLD
    return x.half().float()


def rounds_alike(x: torch.Tensor) -> bool:
    inside = x.where(x.abs() < THRESHOLD, 0.0)
    m = inside.abs().amax(1, keepdim=True)
    return torch.equal((inside * (127.0 / m)).round(), (inside * (torch.full_like(m, 127.0) / m)).round())


def main() -> None:
    torch.manual_seed(11)
    tensors = {}
    for name, (rows, columns, out, outliers) in CASES.items():
        x = numbers(rows, columns, outliers)
        while not rounds_alike(x):
            x = numbers(rows, columns, outliers)
        weight = (torch.randn(out, columns) * 0.05).half().float()
        bias = torch.randn(out)
        together, state = product(x, weight, bias)
        alone = torch.cat([product(row[None], weight, bias)[0] for row in x])
        case = {"x": x, "weight": weight, "bias": bias, "codes": state.CB.float()}
        case |= {"absmax": state.SCB.float(), "alone": alone, "together": together}
        tensors |= {f"{name}.{key}": value.contiguous().clone() for key, value in case.items()}
        exact = x @ weight.t() + bias
        error = lambda y: ((y - exact).abs().max() / exact.abs().max()).item()
        print(f"{name}: off by {error(alone):.4f} alone, {error(together):.4f} together")
    save_file(tensors, Path(sys.argv[1]) / "int8.safetensors")


if __name__ == "__main__":
    main()

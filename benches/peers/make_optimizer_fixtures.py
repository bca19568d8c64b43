#!/usr/bin/env python3
"""Writes fixtures/losses/optimizers_torch.json and fixtures/losses/dynamic_map.json anew: ten steps of torch.optim.Muon and
torch.optim.Adafactor, of Lion by its formula, and the 8-bit codes of bitsandbytes.

    pip install torch==2.15.0 bitsandbytes==0.50.2
    python benches/peers/make_optimizer_fixtures.py fixtures/losses

Everything is computed in float64. torch.optim.Muon iterates in bfloat16, which is no reference for anything finer; here the module
is given float64 under that name. Polar Express is its algorithm 1 in the place of torch's iteration. bitsandbytes has no 8-bit optimiser
for the processor, and its quantisation there looks numbers up in a coarse table (zero does not become zero): codes are the nearest values of
its map, as its CUDA kernel finds them, and AdamW with 8-bit moments is PyTorch's formula around them.
"""

import json
import pathlib
import sys

import bitsandbytes.functional as bnb
import numpy as np
import torch
from torch.optim import _muon

STEPS = 10
SHAPES = [[6, 4], [4, 6], [5], [2, 3, 4]]
POLAR = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]


class Float64Torch:
    """torch, but what asks for bfloat16 gets float64."""

    bfloat16 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def polar_express(grad, _coefficients, steps, eps):
    x = grad.clone()
    if grad.size(0) > grad.size(1):
        x = x.T
    x = x / (x.norm() * 1.01 + eps)
    for i in range(steps):
        a, b, c = POLAR[min(i, 7)]
        slack = 1.01 if i < 7 else 1.0
        gram = x @ x.T
        x = a / slack * x + (b / slack**3 * gram + c / slack**5 * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


def run(make, indices, init, grads):
    params = [torch.nn.Parameter(torch.tensor(init[i], dtype=torch.float64)) for i in indices]
    optimizer = make(params)
    after = {}
    for t in range(STEPS):
        for p, i in zip(params, indices):
            p.grad = torch.tensor(grads[t][i], dtype=torch.float64)
        optimizer.step()
        if t + 1 in (1, 4, STEPS):
            after[str(t + 1)] = {str(i): p.detach().flatten().tolist() for p, i in zip(params, indices)}
    return after


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al. 2023."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = (beta1 * m + (1 - beta1) * p.grad).sign()
                p.sub_(group["lr"] * (update + group["weight_decay"] * p))
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


def torch_cases(init, grads):
    _muon.torch = Float64Torch()
    newton_schulz = _muon._zeropower_via_newtonschulz
    cases = []

    def case(name, config, indices, make):
        cases.append(dict(name=name, config=config, expected=run(make, indices, init, grads)))

    matrices, vectors, all_of_them = [0, 1], [2], [0, 1, 2, 3]
    for adjust in ("original", "match_rms_adamw", "spectral_unclamped"):
        for nesterov in (True, False):
            muon = dict(momentum=0.9, nesterov=nesterov, ns_steps=5, adjust_lr=adjust)
            case(f"muon {adjust} nesterov={nesterov}", dict(kind="muon", lr=0.02, weight_decay=0.1, muon=muon), matrices,
                 lambda ps: torch.optim.Muon(ps, lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=nesterov, adjust_lr_fn=adjust))
    _muon._zeropower_via_newtonschulz = polar_express
    for steps in (5, 9):
        muon = dict(ns_coefficients="polar_express", ns_steps=steps, adjust_lr="original")
        case(f"muon polar_express {steps}", dict(kind="muon", lr=0.02, weight_decay=0.0, muon=muon), matrices,
             lambda ps: torch.optim.Muon(ps, lr=0.02, weight_decay=0.0, ns_steps=steps))
    _muon._zeropower_via_newtonschulz = newton_schulz

    eps = float(torch.finfo(torch.float32).eps)
    for name, lr, decay, more, ours in [
        ("defaults", 0.01, 0.0, {}, {}),
        ("large rate", 0.5, 0.0, {}, {}),
        ("decay, eps, threshold", 0.05, 0.1, dict(beta2_decay=-0.6, eps=(1e-2, 0.5), d=1.5),
         dict(beta2_decay=-0.6, eps1=1e-2, eps2=0.5, clip_threshold=1.5)),
    ]:
        more = dict(eps=(eps, 1e-3)) | more
        case(f"adafactor {name}", dict(kind="adafactor", lr=lr, weight_decay=decay, adafactor=ours), [0, 1, 3],
             lambda ps: torch.optim.Adafactor(ps, lr=lr, weight_decay=decay, **more))
        case(f"adafactor vector {name}", dict(kind="adafactor", lr=lr, adafactor=ours), vectors,
             lambda ps: torch.optim.Adafactor(ps, lr=lr, **more))

    case("lion", dict(kind="lion", lr=0.01, betas=[0.9, 0.99], weight_decay=0.0), all_of_them, lambda ps: Lion(ps, 0.01, (0.9, 0.99), 0.0))
    case("lion decay", dict(kind="lion", lr=0.003, betas=[0.95, 0.98], weight_decay=1.0), [0, 1, 3],
         lambda ps: Lion(ps, 0.003, (0.95, 0.98), 1.0))
    return cases


def quantize(x, values):
    """Codes of the nearest values and the largest magnitude of each block of 256."""
    padded = np.zeros(-(-len(x) // 256) * 256, np.float32)
    padded[: len(x)] = x
    blocks = padded.reshape(-1, 256)
    absmax = np.abs(blocks).max(1)
    scaled = blocks / np.where(absmax > 0, absmax, 1)[:, None]
    borders = ((values[:-1].astype(np.float64) + values[1:]) / 2).astype(np.float32)
    return np.searchsorted(borders, scaled.ravel()[: len(x)], side="left"), absmax


def dequantize(codes, absmax, values):
    return values[codes] * np.repeat(absmax, 256)[: len(codes)]


def eight_bit():
    """Maps, codes of numbers over many magnitudes, and ten AdamW steps of 5000 parameters in float32."""
    maps = {name: bnb.create_dynamic_map(signed=name == "signed").numpy() for name in ("signed", "unsigned")}
    i = np.arange(600)
    numbers = (np.sin(0.7 * i) * 10.0 ** -(i % 8)).astype(np.float32)
    quantized = {}
    for name, values in (("signed", numbers), ("unsigned", np.abs(numbers))):
        codes, absmax = quantize(values, maps[name])
        quantized[name] = dict(numbers=values.astype(float).tolist(), codes=codes.tolist(), absmax=absmax.astype(float).tolist())

    n, lr, beta1, beta2, eps, decay = 5000, 0.01, 0.9, 0.95, 1e-8, 0.1
    f32 = np.float32
    i = np.arange(n)
    p = np.sin(0.37 * i).astype(f32)
    m, v = np.zeros(n, f32), np.zeros(n, f32)
    for t in range(1, STEPS + 1):
        g = (np.sin(0.11 * i * t + 0.3) * 10.0 ** -(i % 4)).astype(f32)
        m = f32(beta1) * m + (f32(1) - f32(beta1)) * g
        v = f32(beta2) * v + (f32(1) - f32(beta2)) * g * g
        p = p * f32(1 - lr * decay) - f32(lr / (1 - beta1**t)) * m / (np.sqrt(v) * f32(1 / np.sqrt(1 - beta2**t)) + f32(eps))
        m = dequantize(*quantize(m, maps["signed"]), maps["signed"])
        codes, absmax = quantize(v, maps["unsigned"])
        codes[(v > 0) & (codes == 0)] = 1  # as our kernel: a second moment above zero stays above zero
        v = dequantize(codes, absmax, maps["unsigned"])
    steps = dict(n=n, lr=lr, betas=[beta1, beta2], eps=eps, weight_decay=decay, every=16, expected=p[::16].astype(float).tolist())
    return dict(maps={k: x.astype(float).tolist() for k, x in maps.items()}, quantized=quantized, steps=steps)


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    rng = np.random.default_rng(7)
    draw = lambda scale: [np.round(rng.normal(0, scale, shape), 4).tolist() for shape in SHAPES]
    init, grads = draw(1.0), [draw(0.3) for _ in range(STEPS)]
    fixture = dict(note="parameters after steps 1, 4 and 10, in float64; config as in optimizer.* of a training",
                   shapes=SHAPES, init=init, grads=grads, cases=torch_cases(init, grads))
    (out / "optimizers_torch.json").write_text(json.dumps(fixture) + "\n", encoding="utf-8")
    (out / "dynamic_map.json").write_text(json.dumps(eight_bit()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

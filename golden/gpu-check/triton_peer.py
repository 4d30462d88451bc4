"""Matmuls by Triton's standard kernel and by cuBLAS, timed as `gpu-check` times its own.

Reads a JSON list of shapes, `[{"rows": .., "n": .., "k": .., "copies": ..}, ..]`, and prints one JSON object for the
versions and the device, then one for each shape in the same order: `x[rows, k]` times the transpose of `weight[n, k]`, all
in bf16, sums in f32, microseconds of one product. A product that fails has `.._error` in place of `.._us`.

At least `--count` products, one after the other over `copies` of the weight, are recorded in a CUDA graph. A time is the
median of `--rounds` replays by the host's clock, each waited for by reading 4 bytes, less such a read alone, per product.
The cache is not flushed: as in a model, the copies drive each other out of it.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import triton
import triton.language as tl

# Largest difference between both results, of the largest number. One bf16 is within 0.4 %.
OFF_MAX = 0.02


def tile(m, n, k, warps, stages):
    blocks = dict(BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, GROUP_M=8)
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


CONFIGS = [
    tile(64, 64, 64, 4, 4),
    tile(64, 128, 64, 4, 4),
    tile(64, 256, 64, 8, 3),
    tile(128, 64, 64, 4, 4),
    tile(128, 128, 64, 4, 4),
    tile(128, 128, 64, 8, 3),
    tile(128, 256, 64, 8, 3),
    tile(256, 128, 64, 8, 3),
]


def product(
    x, weight, out, m, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr
):
    """`out[m, n] = x[m, k] * weight[n, k]^T`, all contiguous. Programs of GROUP_M rows of tiles share columns in the cache."""
    program = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    group_size = GROUP_M * tiles_n
    first_m = program // group_size * GROUP_M
    group_m = min(tiles_m - first_m, GROUP_M)
    tile_m = first_m + program % group_size % group_m
    tile_n = program % group_size // group_m
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    # What lies past the end is read from the start and not written.
    x_at = x + (rows % m)[:, None] * k + inner[None, :]
    weight_at = weight + (columns % n).to(tl.int64)[None, :] * k + inner[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(0, tl.cdiv(k, BLOCK_K)):
        left = k - i * BLOCK_K
        a = tl.load(x_at, mask=inner[None, :] < left, other=0.0)
        b = tl.load(weight_at, mask=inner[:, None] < left, other=0.0)
        sums = tl.dot(a, b, sums)
        x_at += BLOCK_K
        weight_at += BLOCK_K
    out_at = out + rows.to(tl.int64)[:, None] * n + columns[None, :]
    tl.store(out_at, sums.to(tl.bfloat16), mask=(rows[:, None] < m) & (columns[None, :] < n))


def tuned():
    """The kernel with the fastest of CONFIGS for each shape."""
    return triton.autotune(configs=CONFIGS, key=["m", "n", "k"])(triton.jit(product))


class Clock:
    """Microseconds of one product."""

    def __init__(self, rounds, count):
        self.rounds, self.count = rounds, count
        self.cell = torch.zeros(1, dtype=torch.int32, device="cuda")
        self.trip = statistics.median(self.once(lambda: None) for _ in range(50))

    def once(self, work):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        self.cell.cpu()
        return (time.perf_counter() - begin) * 1e6

    def each(self, run, copies):
        """`run(i)` launches the product by copy `i`."""
        times = -(-self.count // copies)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for i in range(copies):
                run(i)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                for i in range(copies):
                    run(i)
        self.once(graph.replay)
        self.once(graph.replay)
        found = statistics.median(self.once(graph.replay) for _ in range(self.rounds))
        each = (found - self.trip) / (times * copies)
        if each <= 0:
            raise RuntimeError("it takes no longer than to wait for the device")
        return each


def measure(clock, kernel, shape, weights):
    rows, n, k, copies = (shape[key] for key in ("rows", "n", "k", "copies"))
    found = dict(rows=rows, n=n, k=k)
    x = torch.empty(rows, k, dtype=torch.bfloat16, device="cuda").normal_()
    outs = [torch.empty(rows, n, dtype=torch.bfloat16, device="cuda") for _ in range(copies)]

    def by_triton(i):
        def grid(config):
            return (triton.cdiv(rows, config["BLOCK_M"]) * triton.cdiv(n, config["BLOCK_N"]),)

        kernel[grid](x, weights[i], outs[i], rows, n, k)

    def by_cublas(i):
        torch.matmul(x, weights[i].t(), out=outs[i])

    def agreeing():
        by_cublas(0)
        wanted = outs[0].float()
        # What is not written is no number, and so does not agree.
        outs[0].fill_(float("nan"))
        by_triton(0)
        off = ((outs[0].float() - wanted).abs().max() / wanted.abs().max()).item()
        if not off <= OFF_MAX:
            raise RuntimeError(f"off by {off} of the largest from cuBLAS")
        return clock.each(by_triton, copies)

    for name, work in (("cublas", lambda: clock.each(by_cublas, copies)), ("triton", agreeing)):
        try:
            found[f"{name}_us"] = work()
        except Exception as error:
            found[f"{name}_error"] = f"{type(error).__name__}: {error}"[:500]
    if "triton_us" in found:
        found["triton_config"] = str(kernel.best_config)
    return found


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--count", type=int, default=32)
    options = options.parse_args()
    shapes = json.load(sys.stdin)
    torch.manual_seed(1)
    about = dict(triton=triton.__version__, torch=torch.__version__, cuda=torch.version.cuda)
    print(json.dumps(dict(about, device=torch.cuda.get_device_name())), flush=True)
    clock, kernel = Clock(options.rounds, options.count), tuned()
    made, weights = None, []
    with torch.inference_mode():
        for shape in shapes:
            wanted = (shape["n"], shape["k"], shape["copies"])
            if made != wanted:
                weights.clear()
                torch.cuda.empty_cache()
                for _ in range(shape["copies"]):
                    weight = torch.empty(shape["n"], shape["k"], dtype=torch.bfloat16, device="cuda")
                    weights.append(weight.normal_(0.0, 0.02))
                made = wanted
            print(json.dumps(measure(clock, kernel, shape, weights)), flush=True)


if __name__ == "__main__":
    main()

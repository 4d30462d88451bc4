"""The same decoder in PyTorch: one forward pass of the text model, as `gpu-check` times it.

Layers of Dream 7B's shape (Qwen2.5-7B, bidirectional attention) with random bf16 weights, compiled by torch.compile in
the mode that records CUDA graphs. Prints one JSON object for each length. Nothing but PyTorch is needed.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

SIZES = {
    "7b": dict(layers=28, hidden=3584, heads=28, kv_heads=4, head_dim=128, mlp=18944, vocabulary=152064),
    "tiny": dict(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, mlp=128, vocabulary=512),
}
THETA = 1e6
EPS = 1e-6


def rms_norm(x, gain):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS) * gain).to(gain.dtype)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Layer(torch.nn.Module):
    def __init__(self, s, make):
        super().__init__()
        self.s = s
        q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
        self.qkv, self.bias = make(q + 2 * kv, s["hidden"]), make(q + 2 * kv)
        self.out = make(s["hidden"], q)
        self.gate_up, self.down = make(2 * s["mlp"], s["hidden"]), make(s["hidden"], s["mlp"])
        self.norms = torch.nn.ParameterList([make(s["hidden"]), make(s["hidden"])])

    def forward(self, x, cos, sin):
        s = self.s
        rows, length, _ = x.shape
        q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
        joined = F.linear(rms_norm(x, self.norms[0]), self.qkv, self.bias)
        parts = joined.split([q, kv, kv], dim=-1)
        query, key, value = (p.view(rows, length, -1, s["head_dim"]).transpose(1, 2) for p in parts)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        heads = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        x = x + F.linear(heads.transpose(1, 2).reshape(rows, length, q), self.out)
        gate, up = F.linear(rms_norm(x, self.norms[1]), self.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Decoder(torch.nn.Module):
    def __init__(self, s, make):
        super().__init__()
        self.s = s
        self.embedding = make(s["vocabulary"], s["hidden"])
        self.layers = torch.nn.ModuleList([Layer(s, make) for _ in range(s["layers"])])
        self.norm, self.head = make(s["hidden"]), make(s["vocabulary"], s["hidden"])

    def forward(self, ids, positions):
        half = self.s["head_dim"] // 2
        turns = THETA ** (-torch.arange(half, device=ids.device, dtype=torch.float32) / half)
        angles = positions[:, None, :, None].float() * turns
        angles = torch.cat((angles, angles), dim=-1)
        x = F.embedding(ids, self.embedding)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(rms_norm(x, self.norm), self.head)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--size", default="7b")
    options.add_argument("--lengths", default="232,301")
    options.add_argument("--iterations", type=int, default=20)
    options = options.parse_args()
    if options.size not in SIZES:
        raise SystemExit(f"no size {options.size!r}: one of {', '.join(SIZES)}")
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    torch.manual_seed(1)

    def make(*dims):
        weight = torch.empty(*dims, dtype=torch.bfloat16, device=device).normal_(0.0, 0.02)
        return torch.nn.Parameter(weight, requires_grad=False)

    def wait():
        if cuda:
            torch.cuda.synchronize()

    model = Decoder(SIZES[options.size], make).eval()
    eager = model
    modes = [("eager", eager)]
    if cuda:
        modes.append(("compiled", torch.compile(model, mode="reduce-overhead", dynamic=False)))
    for length in map(int, options.lengths.split(",")):
        ids = torch.randint(0, 100, (1, length), device=device)
        positions = torch.arange(length, device=device)[None]
        for name, run in modes:
            with torch.inference_mode():
                begin = time.perf_counter()
                for _ in range(5):
                    run(ids, positions)
                wait()
                warm = time.perf_counter() - begin
                times = []
                for _ in range(options.iterations):
                    wait()
                    begin = time.perf_counter()
                    run(ids, positions)
                    wait()
                    times.append((time.perf_counter() - begin) * 1e3)
            times.sort()
            found = dict(
                program="forward: logits of all positions",
                peer=f"torch {torch.__version__}, {name}" + (", CUDA graphs" if name == "compiled" else ""),
                size=options.size,
                dtype="bf16",
                device=torch.cuda.get_device_name() if cuda else "cpu",
                positions=length,
                iterations=options.iterations,
                warm_up_seconds=warm,
                ms_p50=statistics.median(times),
                ms_p99=times[min(len(times) - 1, round(0.99 * (len(times) - 1)))],
                ms_min=times[0],
            )
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

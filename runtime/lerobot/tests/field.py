"""Runs LeRobot's own `lerobot-eval`, as it is, with compiled policies, and compares it with the same episodes without LeRobot.

    python field.py --policy FILE DIR [--policy FILE DIR ..] [--episodes 20] [--seed 3000] [--threads 1]

FILE is an artifact of the tabletop robot and DIR what `dreamc export lerobot FILE DIR` made of it. Every policy runs three times
over the same scenes with the same noise: in this process with `dream.load`, in `lerobot-eval` from DIR, and in `lerobot-eval`
with `--policy.url`, asking `python -m dream.serve FILE`. An episode must succeed everywhere or nowhere, and the server must have
been asked as often as the policy here. Prints one JSON object; exits with 1 where runs differ.

Needs `dream-runtime`, `lerobot`, `lerobot_policy_dream[url]` and `gym-tabletop` in the environment of this Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import dream
from gym_tabletop.scene import Scene, episode

DISTRIBUTIONS = (
    "dream-runtime",
    "lerobot_policy_dream",
    "gym-tabletop",
    "lerobot",
    "torch",
    "gymnasium",
    "numpy",
    "websockets",
    "msgpack",
)
START_S_MAX = 60.0
EVAL_S_MAX = 1800.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", nargs=2, metavar=("FILE", "DIR"), type=Path, action="append", required=True)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=3000, help="seed of the first scene")
    parser.add_argument("--threads", type=int, default=1, help="of the policy")
    options = parser.parse_args()
    runs = [compare(file.resolve(), folder.resolve(), options) for file, folder in options.policy]
    report = {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in DISTRIBUTIONS}},
        "platform": {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "threads": options.threads,
        "equal": all(run["equal"] for run in runs),
        "policies": runs,
    }
    print(json.dumps(report, indent=2))
    return 0 if report["equal"] else 1


def compare(file: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs one policy in three ways."""
    config = json.loads((folder / "config.json").read_text())
    if (folder / config["artifact"]).read_bytes() != file.read_bytes():
        raise SystemExit(f"the artifact in `{folder}` is another than `{file}`; export it again")
    mode, expected, seconds = without_lerobot(file, config["seed"], options)
    names = {str(folder): "DIR", str(file): "FILE", sys.executable: "python"}
    with tempfile.TemporaryDirectory() as scratch:
        command = lerobot_eval(folder, options)
        local = evaluate(command, Path(scratch, "local"))
        with served(file, options.threads, Path(scratch, "server.log")) as (serve, port):
            command_url = [*command, f"--policy.url=ws://127.0.0.1:{port}"]
            remote = evaluate(command_url, Path(scratch, "remote"))
            queries, server_seconds = requests(port)
        names[f"127.0.0.1:{port}"] = "HOST:PORT"
    ways = {"dream.load": expected, "lerobot-eval": local["successes"], "lerobot-eval, url": remote["successes"]}
    return {
        "mode": mode,
        "commands": [shown(line, names) for line in (command, serve, command_url)],
        "episodes": options.episodes,
        "seeds": [options.seed, options.seed + options.episodes - 1],
        "successes": {way: sum(successes) for way, successes in ways.items()},
        "failed_seeds": {
            way: [options.seed + at for at, success in enumerate(successes) if not success]
            for way, successes in ways.items()
        },
        "queries": {"dream.load": len(seconds), "lerobot-eval, url": queries},
        "seconds_per_query": {
            "dream.load": round(float(np.median(seconds)), 6),
            "the server, in lerobot-eval": round(server_seconds, 6),
        },
        "seconds_per_episode": {
            "lerobot-eval": round(local["eval_ep_s"], 4),
            "lerobot-eval, url": round(remote["eval_ep_s"], 4),
        },
        "equal": all(successes == expected for successes in ways.values()) and queries == len(seconds),
    }


def without_lerobot(file: Path, seed: int, options: argparse.Namespace) -> tuple[str, list[bool], list[float]]:
    """The policy's mode, which episodes succeed, and the seconds of every query."""
    seconds: list[float] = []
    with dream.load(file, threads=options.threads) as policy:
        assert isinstance(policy, dream.Policy), "the artifact must be one of Dream-VLA"
        has_state = policy.info.proprio_dim is not None

        def act(scene: Scene) -> Any:
            # Query k has the seed `seed + k`, and LeRobot's actions are float32, as the plugin documents.
            start = time.perf_counter()
            state = scene.proprio() if has_state else None
            chunk = policy.act([scene.frame()], scene.instruction, state, seed=seed + len(seconds))
            seconds.append(time.perf_counter() - start)
            return chunk.actions.astype(np.float32)

        scenes = range(options.seed, options.seed + options.episodes)
        successes = [episode(Scene.from_seed(scene), act).success for scene in scenes]
        return policy.info.mode, successes, seconds


def lerobot_eval(folder: Path, options: argparse.Namespace) -> list[str]:
    return [
        str(Path(sys.executable).parent / "lerobot-eval"),
        f"--policy.path={folder}",
        f"--policy.threads={options.threads}",
        "--env.type=tabletop",
        "--env.discover_packages_path=gym_tabletop",
        f"--eval.n_episodes={options.episodes}",
        "--eval.batch_size=1",
        f"--seed={options.seed}",
    ]


def evaluate(command: list[str], output: Path) -> dict[str, Any]:
    """What `lerobot-eval` says: which episodes succeed, and how long one takes."""
    output.mkdir()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(output / "hub"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, f"--output_dir={output}"],
        cwd=output,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=EVAL_S_MAX,
    )
    if run.returncode != 0:
        raise SystemExit(f"{run.stdout}\n`lerobot-eval` ended with {run.returncode}")
    info = json.loads((output / "eval_info.json").read_text())
    (task,) = info["per_task"]
    return {"successes": task["metrics"]["successes"], "eval_ep_s": info["overall"]["eval_ep_s"]}


@contextlib.contextmanager
def served(file: Path, threads: int, log: Path) -> Iterator[tuple[list[str], int]]:
    """A server with its command and its port."""
    command = [sys.executable, "-m", "dream.serve", str(file), "--threads", str(threads), "--listen"]
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, "127.0.0.1:0"], stderr=stderr)
    try:
        yield [*command, "127.0.0.1:PORT"], port_of(process, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port of a server, when it is ready."""
    until = time.monotonic() + START_S_MAX
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())
        if found is not None and is_ready(int(found[1])):
            return int(found[1])
        time.sleep(0.05)
    raise SystemExit(f"{log.read_text()}\nthe server is not ready")


def is_ready(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def requests(port: int) -> tuple[int, float]:
    """How many requests in openpi's protocol a server has answered, and the mean seconds of a policy's run."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()

    def total(name: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE))

    mean = total("dream_inference_seconds_sum") / max(total("dream_inference_seconds_count"), 1)
    return int(total('dream_requests_total{path="/",code="200"}')), mean


def shown(command: list[str], names: dict[str, str]) -> str:
    """A command without the names of this machine."""
    words = [Path(command[0]).name if command[0] not in names else names[command[0]], *command[1:]]
    line = shlex.join(words)
    for found, name in names.items():
        line = line.replace(found, name)
    return line


if __name__ == "__main__":
    sys.exit(main())

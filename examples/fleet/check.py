"""Drives the fleet with the field's own clients and says what came out, as one JSON object on stdout.

`python check.py OLD NEW LARGE`: two policies of the same task, of which the second replaces the first, and one whose
weights are large enough to be seen in the memory of a machine. Fails if anything is not as it must be.
"""

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import json_numpy
import numpy as np
import ray
import requests
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from ray import serve

import dream
import fleet

TASK = "push the red block to the green square"
WAIT_S = 240.0
MIB = 2**20


def must(holds: bool, what: object) -> None:
    if not holds:
        raise SystemExit(f"error: {what}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Robot:
    """Observations of one policy, and what it answers when it is asked without a fleet."""

    def __init__(self, path: Path, observations: int) -> None:
        with dream.load(path, threads=1) as policy:
            info = policy.info
            width, height = info.image_size or (224, 224)
            self.observations, self.wanted, self.act_ms = [], [], []
            for seed in range(observations):
                random = np.random.default_rng(seed)
                image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
                state = random.random(info.proprio_dim)
                start = time.monotonic()
                self.wanted.append(policy.act([image], TASK, state, seed=seed).actions)
                self.act_ms.append(1e3 * (time.monotonic() - start))
                self.observations.append((image, state, seed))


class Client:
    def __init__(self, port: int) -> None:
        self.url, self.socket_url = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"

    def post(self, body: object) -> requests.Response:
        headers = {"content-type": "application/json"}
        return requests.post(f"{self.url}/act", json_numpy.dumps(body), headers=headers, timeout=WAIT_S)

    def chunk(self, observed: tuple) -> tuple[int, np.ndarray | None, str | None]:
        """Status, actions, and the process that made them, over HTTP as OpenVLA-OFT asks."""
        image, state, seed = observed
        answer = self.post({"full_image": image, "instruction": TASK, "state": state, "seed": seed})
        if answer.status_code != 200:
            return answer.status_code, None, None
        return 200, np.array(json_numpy.loads(answer.text)), answer.headers["dream-replica"]

    def openpi(self) -> WebsocketClientPolicy:
        return WebsocketClientPolicy(self.socket_url)

    def replicas(self, observed: tuple, count: int, without: set[str] = frozenset()) -> set[str]:
        """Processes that answer, once there are `count` and none of `without` is among them."""
        end = time.monotonic() + WAIT_S
        seen: list[str | None] = []
        while time.monotonic() < end:
            with ThreadPoolExecutor(count) as pool:
                seen = [who for _, _, who in pool.map(self.chunk, [observed] * 4 * count)]
            if None not in seen and len(set(seen)) == count and not set(seen) & without:
                return set(seen)
        raise SystemExit(f"error: {count} replicas were to answer: {seen}")


class Stream:
    """Requests without a pause, over HTTP from two threads and over one openpi connection, while something happens."""

    def __init__(self, client: Client, observed: tuple, known: dict[str, np.ndarray]) -> None:
        self.known, self.over, self.lock = known, threading.Event(), threading.Lock()
        self.counts: dict[str, Counter] = {"http": Counter(), "websocket": Counter()}
        self.last: dict[str, float] = {}
        self.worst_ms, self.failures = 0.0, []

        def http() -> np.ndarray:
            status, actions, _ = client.chunk(observed)
            if actions is None:
                raise RuntimeError(f"status {status}")
            return actions

        image, state, seed = observed
        asked = {"observation/image": image, "observation/state": state, "prompt": TASK, "seed": seed}
        robot = client.openpi()
        ways = [("http", http), ("http", http), ("websocket", lambda: robot.infer(asked)["actions"])]
        self.threads = [threading.Thread(target=self.run, args=way) for way in ways]

    def run(self, way: str, ask: object) -> None:
        while not self.over.is_set():
            start = time.monotonic()
            try:
                actions = ask()
                name = next((name for name, wanted in self.known.items() if np.array_equal(actions, wanted)), "other")
            except Exception as error:
                name = "failed"
                self.failures.append(f"{way}: {error!r}")
            with self.lock:
                self.counts[way][name] += 1
                self.last[name] = time.monotonic()
                self.worst_ms = max(self.worst_ms, 1e3 * (time.monotonic() - start))

    def count(self, name: str) -> int:
        with self.lock:
            return sum(counts[name] for counts in self.counts.values())

    def until(self, name: str, more: int) -> None:
        """Waits for `more` answers of this kind."""
        goal, end = self.count(name) + more, time.monotonic() + WAIT_S
        while self.count(name) < goal:
            must(time.monotonic() < end and not self.failures, f"no {more} answers `{name}`: {self.failures[:3]}")
            time.sleep(0.01)

    def __enter__(self) -> "Stream":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def result(self) -> dict:
        must(not self.failures, f"{len(self.failures)} requests failed: {self.failures[:3]}")
        must(self.count("other") == 0, "some answers are neither policy's")
        answered = {way: dict(counts) for way, counts in self.counts.items()}
        return {"answered": answered, "failed": len(self.failures), "slowest_ms": round(self.worst_ms, 1)}


def answers(client: Client, robot: Robot) -> dict:
    """What comes over both protocols is what `dream.load(..).act` gives, to the bit."""
    socket_robot = client.openpi()
    meta = socket_robot.get_server_metadata()
    rows, dims = robot.wanted[0].shape
    must((meta["action_horizon"], meta["action_dim"]) == (rows, dims), meta)
    http_ms, socket_ms, infer_ms = [], [], []
    for (image, state, seed), wanted in zip(robot.observations, robot.wanted, strict=True):
        start = time.monotonic()
        status, actions, _ = client.chunk((image, state, seed))
        http_ms.append(1e3 * (time.monotonic() - start))
        must(status == 200 and np.array_equal(actions, wanted), f"HTTP, seed {seed}: {status}, {actions}, {wanted}")
        asked = {"observation/image": image, "observation/state": state, "prompt": TASK, "seed": seed}
        start = time.monotonic()
        answer = socket_robot.infer(asked)
        socket_ms.append(1e3 * (time.monotonic() - start))
        infer_ms.append(answer["policy_timing"]["infer_ms"])
        must(np.array_equal(answer["actions"], wanted), f"WebSocket, seed {seed}: {answer['actions']}, {wanted}")

    image, state, seed = robot.observations[0]
    asked = {"image": image, "instruction": TASK, "state": state, "seed": seed}
    one = json_numpy.loads(client.post(asked).text)
    must(np.array_equal(one, robot.wanted[0][0]), f"one action: {one}")
    one = json_numpy.loads(json.loads(client.post({"encoded": json_numpy.dumps(asked)}).text))
    must(np.array_equal(one, robot.wanted[0][0]), f"one action, twice encoded: {one}")

    wrong = [
        ({**asked, "image": "a"}, "image"),
        ({**asked, "image": image.astype(float)}, "uint8"),
        ({**asked, "state": [0.0]}, "proprio"),
        ({**asked, "speed": 1}, "speed"),
        ({**asked, "unnorm_key": "other"}, "unnorm_key"),
        ({**asked, "image": {"__numpy__": "AAAA", "dtype": "|O", "shape": [1]}}, "array"),
        ({**asked, "seed": -1}, "seed"),
        ({"image": image}, "instruction"),
        ([1], "map"),
    ]
    for body, named in wrong:
        answer = client.post(body)
        message = answer.json()["error"]["message"]
        must(answer.status_code == 400 and named in message, f"{named}: {answer.status_code} {message}")
    try:
        socket_robot.infer({"observation/image": image, "prompt": TASK})
        must(False, "openpi: a request without its state was answered")
    except RuntimeError as error:
        must("proprio" in str(error), error)
    asked = {"observation/image": image, "observation/state": state, "prompt": TASK, "seed": seed}
    must(np.array_equal(socket_robot.infer(asked)["actions"], robot.wanted[0]), "openpi: no answer after an error")
    must(requests.get(f"{client.url}/healthz", timeout=WAIT_S).text == "OK\n", "/healthz")
    must(requests.get(f"{client.url}/-/healthz", timeout=WAIT_S).text == "success", "/-/healthz")
    median = {"act": robot.act_ms, "act_in_replica": infer_ms, "http": http_ms, "websocket": socket_ms}
    return {
        "equal_to_the_bit": {"http": len(robot.wanted) + 2, "websocket": len(robot.wanted) + 1},
        "refused_with_400": len(wrong),
        "median_ms": {name: round(statistics.median(times), 1) for name, times in median.items()},
    }


def restored(client: Client, robot: Robot, sent: signal.Signals) -> dict:
    """A replica whose process dies or hangs is replaced; those who ask wait, and none fails."""
    before = client.replicas(robot.observations[0], 2)
    with Stream(client, robot.observations[0], {"policy": robot.wanted[0]}) as stream:
        stream.until("policy", 10)
        hit = before.copy().pop()
        start = time.monotonic()
        os.kill(int(hit), sent)
        try:
            after = client.replicas(robot.observations[0], 2, without={hit})
            seconds = time.monotonic() - start
        finally:
            if sent == signal.SIGSTOP and Path(f"/proc/{hit}").exists():
                os.kill(int(hit), signal.SIGCONT)
    must(len(after & before) == 1, f"{before} became {after}")
    return {"signal": sent.name, "seconds_until_two_answer": round(seconds, 1), **stream.result()}


def replaced(client: Client, old: Robot, new: Robot, path: Path) -> dict:
    """Another artifact takes the place of the first, one replica after the other."""
    before = client.replicas(old.observations[0], 2)
    with Stream(client, old.observations[0], {"old": old.wanted[0], "new": new.wanted[0]}) as stream:
        stream.until("old", 20)
        must(stream.count("new") == 0, "answers of the new policy before it is there")
        start = time.monotonic()
        fleet.deploy(str(path), 2, 1)
        end = time.monotonic()
        after = client.replicas(new.observations[0], 2, without=before)
        stream.until("new", 100)
    must(not before & after, "a replica of the old policy is still there")
    must(stream.last["old"] < end + 1.0, "the old policy answered after it was replaced")
    return {"seconds": round(end - start, 1), **stream.result()}


def refused(client: Client, robot: Robot, path: Path) -> dict:
    """A file that is no artifact replaces nothing, even where it reaches the replicas."""
    before = client.replicas(robot.observations[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "cut.dream"
        cut.write_bytes(path.read_bytes()[:-4096])
        with Stream(client, robot.observations[0], {"policy": robot.wanted[0]}) as stream:
            try:
                fleet.deploy(str(cut), 2, 1)
                must(False, "a file that is cut off was deployed")
            except dream.DreamError:
                pass
            policy = fleet.Policy.options(num_replicas=2, ray_actor_options={"num_cpus": 1})
            start = time.monotonic()
            try:
                serve.run(policy.bind(str(cut), 1), name="policy", route_prefix=None)
                must(False, "replicas opened a file that is cut off")
            except RuntimeError:
                pass
            seconds = time.monotonic() - start
            stream.until("policy", 50)
    must(client.replicas(robot.observations[0], 2) == before, "the replicas are others")
    return {"seconds_until_given_up": round(seconds, 1), **stream.result()}


def overloaded(client: Client, robot: Robot, clients: int) -> dict:
    """More clients than replicas and queue: those beyond are told so at once, the others get their answer."""
    observed, wanted = robot.observations[0], robot.wanted[0]
    gate = threading.Barrier(clients)

    def ask(_: int) -> tuple[int, bool, float]:
        gate.wait()
        start = time.monotonic()
        status, actions, _ = client.chunk(observed)
        return status, actions is not None and np.array_equal(actions, wanted), time.monotonic() - start

    with ThreadPoolExecutor(clients) as pool:
        made = list(pool.map(ask, range(clients)))
    counts = Counter(status for status, _, _ in made)
    must(set(counts) == {200, 503}, f"answers under load: {counts}")
    must(all(right for status, right, _ in made if status == 200), "a wrong answer under load")
    slowest = {code: max(s for status, _, s in made if status == code) for code in (200, 503)}
    must(slowest[503] < slowest[200], f"who is turned away waits: {slowest}")
    must(client.chunk(observed)[0] == 200, "no answer after the load")
    return {
        "clients": clients,
        "answered_200": counts[200],
        "turned_away_503": counts[503],
        "slowest_s": {str(code): round(seconds, 2) for code, seconds in slowest.items()},
    }


def kib(lines: list[str]) -> Counter:
    """Fields of `smaps`, summed."""
    total: Counter = Counter()
    for line in lines:
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            total[name] += int(value.removesuffix(" kB"))
    return total


def memory_of(process: str, path: Path) -> dict:
    def mib(fields: Counter) -> dict:
        private = fields["Private_Clean"] + fields["Private_Dirty"]
        shared = fields["Shared_Clean"] + fields["Shared_Dirty"]
        named = {"rss": fields["Rss"], "pss": fields["Pss"], "private": private, "shared": shared}
        return {name: round(value / 1024, 1) for name, value in named.items()}

    of_file: list[str] = []
    inside = False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(path))
        elif inside:
            of_file.append(line)
    whole = kib(Path(f"/proc/{process}/smaps_rollup").read_text().splitlines())
    return {"process": mib(whole), "weights_file": mib(kib(of_file))}


def rest_of_fleet(replicas: set[str]) -> dict:
    """Ray's own processes and the front: whatever this process started, less the replicas."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[entry.name] = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            pass  # it has just ended
    found, added = set(), {str(os.getpid())}
    while added:
        added = {child for child, parent in parents.items() if parent in added}
        found |= added
    pss = 0
    for process in found - replicas:
        try:
            pss += kib(Path(f"/proc/{process}/smaps_rollup").read_text().splitlines())["Pss"]
        except OSError:
            found.discard(process)
    return {"processes": len(found - replicas), "sum_of_pss_mib": round(pss / 1024, 1)}


def memory(client: Client, robot: Robot, path: Path, replicas: int) -> dict:
    fleet.deploy(str(path), replicas, 1)
    processes = client.replicas(robot.observations[0], replicas)
    each = [memory_of(process, path) for process in sorted(processes, key=int)]
    total = {part: round(sum(replica[part]["pss"] for replica in each), 1) for part in ("process", "weights_file")}
    return {"each_mib": each, "sum_of_pss_mib": total, "rest_of_fleet": rest_of_fleet(processes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("old", "new", "large"):
        parser.add_argument(name, type=lambda text: Path(text).resolve())
    args = parser.parse_args()
    # Ray prints on stdout what its processes say, addresses included. Here stdout is for the result.
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    old, new, large = Robot(args.old, 20), Robot(args.new, 1), Robot(args.large, 1)
    must(not np.array_equal(old.wanted[0], new.wanted[0]), "both policies answer the same")

    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * MIB,
    )
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
    client = Client(port)

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    try:
        say("one replica")
        fleet.deploy(str(args.old), 1, 1)
        client.replicas(old.observations[0], 1)
        one = answers(client, old)
        say("two replicas")
        fleet.deploy(str(args.old), 2, 1)
        client.replicas(old.observations[0], 2)
        two = answers(client, old)
        say("a replica is killed")
        kill = restored(client, old, signal.SIGKILL)
        say("a replica hangs")
        policy = fleet.Policy.options(
            num_replicas=2,
            ray_actor_options={"num_cpus": 1},
            health_check_period_s=1,
            health_check_timeout_s=2,
        )
        serve.run(policy.bind(str(args.old), 1), name="policy", route_prefix=None)
        hang = {"health_check_timeout_s": 2, **restored(client, old, signal.SIGSTOP)}
        say("the artifact is replaced")
        roll = replaced(client, old, new, args.new)
        say("a file that is no artifact")
        cut = refused(client, new, args.new)
        say("memory of one replica, and of two")
        small = memory(client, old, args.old, 2)
        memories = [memory(client, large, args.large, replicas) for replicas in (1, 2)]
        say("more clients than it takes")
        load = overloaded(client, large, 16)
    finally:
        serve.shutdown()
        ray.shutdown()

    size = args.large.stat().st_size / MIB
    first, second = ([replica["weights_file"]["rss"] for replica in made["each_mib"]] for made in memories)
    must(min(first + second) > 0.9 * size, f"the weights are not in memory: {first}, {second} of {size} MiB")
    extra = {
        part: round(memories[1]["sum_of_pss_mib"][part] - memories[0]["sum_of_pss_mib"][part], 1)
        for part in ("process", "weights_file")
    }
    must(abs(extra["weights_file"]) < 0.02 * size, f"the weights are there twice: {memories}")
    result = {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("ray", "numpy", "dream-runtime", "openpi-client", "json-numpy")},
        },
        "machine": {"architecture": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        "artifact_mib": {
            name: round(path.stat().st_size / MIB, 1)
            for name, path in (("old", args.old), ("new", args.new), ("large", args.large))
        },
        "threads_of_a_replica": 1,
        "one_replica": one,
        "two_replicas": two,
        "killed_replica": kill,
        "hung_replica": hang,
        "replaced_artifact": roll,
        "refused_artifact": cut,
        "overload": load,
        "memory": {
            "one_replica": memories[0],
            "two_replicas": memories[1],
            "second_replica_adds_mib": extra,
            "two_replicas_of_old": small,
        },
    }
    print(json.dumps(result, indent=2), file=stdout, flush=True)


if __name__ == "__main__":
    main()

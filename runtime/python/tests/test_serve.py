"""The server, asked by the field's own clients as they are."""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

import json_numpy
import numpy as np
import requests
from openpi_client import action_chunk_broker, msgpack_numpy, websocket_client_policy
from vla_eval.connection import Connection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import dream

# As its users do: `json` then writes and reads arrays.
json_numpy.patch()

ARTIFACTS = Path(os.environ["DREAM_ARTIFACTS"]).absolute()
DREAMC = os.path.abspath(os.environ["DREAMC"])
FLOW = ARTIFACTS / "policy.dream"
TASK = "push the red block to the green square"
STATE = [0.25, 0.5]


def frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)


class Server:
    """A server of its own process."""

    def __init__(self, *options: str, command: "list[str] | None" = None) -> None:
        command = command or [DREAMC, "serve"]
        self.process = subprocess.Popen(
            [*command, str(FLOW), "--listen", "127.0.0.1:0", *options], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line + self.process.stderr.read()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> str:
        """Ends it as a service manager does; what it said. Again does nothing."""
        if self.process.poll() is not None:
            return ""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=30)[1]
        assert self.process.returncode == 0, (self.process.returncode, said)
        return said

    def get(self, path: str) -> "tuple[int, str]":
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def post(self, body: object, **options: object) -> requests.Response:
        return requests.post(f"{self.url}/act", json=body, timeout=30, **options)  # type: ignore[arg-type]


class Serving(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server()
        cls.wanted = dream.Policy(FLOW).act([frame()], TASK, STATE, seed=7).actions

    @classmethod
    def tearDownClass(cls) -> None:
        cls.server.stop()

    def test_openvla(self) -> None:
        request = {"image": frame(), "instruction": TASK, "state": np.array(STATE), "seed": 7}
        answer = self.server.post(request)
        self.assertEqual(answer.status_code, 200, answer.text)
        np.testing.assert_array_equal(answer.json(), self.wanted[0])
        whole = requests.post(f"{self.server.url}/act?chunk=1", json=request, timeout=30).json()
        np.testing.assert_array_equal(np.array(whole), self.wanted)
        self.assertEqual(answer.json().dtype, np.float64)

    def test_oft(self) -> None:
        request = {
            "full_image": frame(),
            "left_wrist_image": frame(1),
            "instruction": TASK,
            "state": STATE,
            "unnorm_key": None,
            "seed": 7,
        }
        answer = self.server.post(request)
        np.testing.assert_array_equal(np.array(answer.json()), self.wanted)
        # The policy has one view, and says that it looked at no other.
        self.assertEqual(answer.headers["dream-ignored"], "left_wrist_image")

    def test_encoded_twice(self) -> None:
        request = {"full_image": frame(), "instruction": TASK, "state": np.array(STATE), "seed": 7}
        answer = self.server.post({"encoded": json_numpy.dumps(request)}).json()
        self.assertIsInstance(answer, str)
        np.testing.assert_array_equal(np.array(json_numpy.loads(answer)), self.wanted)

    def test_openpi(self) -> None:
        client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", self.server.port)
        metadata = client.get_server_metadata()
        self.assertEqual((metadata["name"], metadata["action_horizon"], metadata["proprio_dim"]), ("policy", 5, 2))
        self.assertEqual(metadata["image_resolution"], [112, 112])
        self.assertEqual(len(metadata["artifact_blake3"]), 64)
        request = {
            "observation/image": frame(),
            "observation/wrist_image": frame(1),
            "observation/state": np.array(STATE),
            "prompt": TASK,
            "seed": 7,
        }
        answer = client.infer(request)
        np.testing.assert_array_equal(answer["actions"], self.wanted)
        self.assertNotIn("prev_total_ms", answer["server_timing"])
        self.assertIn("prev_total_ms", client.infer(request)["server_timing"])
        broker = action_chunk_broker.ActionChunkBroker(client, 3)
        rows = [broker.infer(request)["actions"] for _ in range(4)]
        np.testing.assert_array_equal(np.array(rows), self.wanted[[0, 1, 2, 0]])
        # An error leaves the connection open.
        for change, text in [
            ({"prompt": 3}, "`prompt`: it is a number; it must be a text"),
            ({"observation/state": np.array([0.1])}, "`state`: it has 1 numbers; it must be 2 numbers"),
            ({"observation/state": np.array([np.nan, 0])}, "`observation/state`: it has NaN"),
            ({"observation/image": frame().astype(np.int64)}, "`observation/image`: its elements are I64"),
            ({"speed": 1.0}, "`speed`: it is no field of a request"),
            ({"noise": np.zeros((4, 7))}, "`noise`: it is [4, 7]"),
        ]:
            with self.subTest(text), self.assertRaisesRegex(RuntimeError, re.escape(text)):
                client.infer({**request, **change})
        with self.assertRaisesRegex(RuntimeError, "`observation/image` is missing"):
            client.infer({"prompt": TASK, "observation/state": np.array(STATE)})
        chw = {**request, "observation/image": frame().transpose(2, 0, 1)}
        np.testing.assert_array_equal(client.infer(chw)["actions"], self.wanted)

    def test_vllm_omni(self) -> None:
        with connect(f"ws://127.0.0.1:{self.server.port}/v1/realtime/robot/openpi") as peer:
            self.assertEqual(msgpack_numpy.unpackb(peer.recv())["name"], "policy")
            peer.send(msgpack_numpy.packb({"endpoint": "reset"}))
            self.assertEqual(msgpack_numpy.unpackb(peer.recv()), {"status": "reset successful"})
            request = {"image": frame(), "state": np.array(STATE), "prompt": TASK, "seed": 7, "session_id": "a"}
            peer.send(msgpack_numpy.packb(request))
            answer = msgpack_numpy.unpackb(peer.recv())
            self.assertEqual(answer.dtype, np.float32)
            np.testing.assert_array_equal(answer, self.wanted.astype(np.float32))
            peer.send(msgpack_numpy.packb({**request, "sampling_params": {"num_inference_steps": 9}}))
            answer = msgpack_numpy.unpackb(peer.recv())
            self.assertEqual(answer["type"], "error")
            self.assertIn("it must be 4", answer["message"])

    def test_vla_eval(self) -> None:
        async def ask() -> "tuple[dict, list]":
            peer = Connection(f"ws://127.0.0.1:{self.server.port}/vla-eval")
            await peer.connect(benchmark="tabletop")
            await peer.start_episode({"task": {"name": TASK}})
            observation = {"images": {"agentview": frame()}, "task_description": TASK, "states": np.array(STATE)}
            actions = [(await peer.act(observation))["actions"] for _ in range(6)]
            with self.assertRaisesRegex(Exception, "task_description"):
                # A chunk is used up before the next observation is looked at.
                for _ in range(6):
                    await peer.act({"images": {"agentview": frame()}, "states": np.array(STATE)})
            await peer.end_episode({"metrics": {"success": True}})
            info = peer.server_info
            await peer.close()
            return info, actions

        info, actions = asyncio.run(ask())
        self.assertTrue(info)
        wanted = dream.Policy(FLOW).act([frame()], TASK, STATE).actions
        np.testing.assert_array_equal(np.array(actions), wanted[[0, 1, 2, 3, 4, 0]])

    def test_refusals_of_act(self) -> None:
        good = {"image": frame(), "instruction": TASK, "state": STATE}
        for change, status, param in [
            ({"instruction": 1}, 400, "instruction"),
            ({"state": [1.0]}, 400, "state"),
            ({"state": ["a", "b"]}, 400, "state"),
            ({"image": [1, 2]}, 400, "image"),
            ({"image": frame().astype(np.float64)}, 400, "image"),
            ({"image": frame()[:, :, :2]}, 400, "image"),
            ({"image": np.zeros((0, 4, 3), np.uint8)}, 400, "image"),
            ({"full_image": frame()}, 400, "full_image"),
            ({"unnorm_key": "bridge"}, 400, "unnorm_key"),
            ({"seed": -1}, 400, "seed"),
            ({"noise": [1.0]}, 400, "noise"),
            ({"speed": 3}, 400, "speed"),
        ]:
            with self.subTest(param):
                answer = self.server.post({**good, **change})
                error = answer.json()["error"]
                self.assertEqual((answer.status_code, error["param"]), (status, param), error)
                self.assertTrue(error["message"] and error["expected"])
        for key in good:
            answer = self.server.post({k: v for k, v in good.items() if k != key})
            self.assertEqual(answer.status_code, 400)
            self.assertIn("is missing", answer.json()["error"]["message"])
        # The model itself refuses another size.
        answer = self.server.post({**good, "image": frame()[:50]})
        self.assertEqual(answer.status_code, 400)
        self.assertIn("112x50", answer.json()["error"]["message"])
        url = f"{self.server.url}/act"
        for body, headers, status in [
            (b"{", {"Content-Type": "application/json"}, 400),
            (b"[1]", {"Content-Type": "application/json"}, 400),
            (b'{"image": NaN}', {"Content-Type": "application/json"}, 400),
            (b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
            (b" " * (33 << 20), {"Content-Type": "application/json"}, 413),
            (b"[" + b"1," * 100_000 + b"1]", {"Content-Type": "application/json"}, 400),
        ]:
            with self.subTest(status=status, body=body[:20]):
                self.assertEqual(requests.post(url, data=body, headers=headers, timeout=30).status_code, status)
        self.assertEqual(requests.get(url, timeout=10).status_code, 405)
        self.assertEqual(requests.post(f"{self.server.url}/act?whole=1", json=good, timeout=10).status_code, 400)

    def test_paths(self) -> None:
        self.assertEqual(self.server.get("/healthz"), (200, "OK\n"))
        self.assertEqual(self.server.get("/livez")[0], 200)
        self.assertEqual(self.server.get("/readyz")[0], 200)
        self.assertEqual(json.loads(self.server.get("/health")[1]), {"status": "ok"})
        status, text = self.server.get("/nothing")
        self.assertEqual(status, 404)
        self.assertIn("POST /act", text)
        self.server.post({"image": frame(), "instruction": TASK, "state": STATE})
        page = self.server.get("/metrics")[1]
        self.assertIn('dream_info{artifact="policy",device="cpu', page)
        self.assertRegex(page, r'dream_requests_total\{path="/act",code="200"\} [1-9]')
        self.assertRegex(page, r"dream_inference_seconds_count [1-9]")

    def test_broken_sockets(self) -> None:
        for data in [b"\x00\x01", b"\xc1", b"\x81", os.urandom(200)]:
            with connect(f"ws://127.0.0.1:{self.server.port}/") as peer:
                peer.recv()
                peer.send(data)
                try:
                    answer = peer.recv()
                    self.assertIsInstance(answer, str)
                    peer.recv(timeout=5)
                except (ConnectionClosed, TimeoutError):
                    pass
        with connect(f"ws://127.0.0.1:{self.server.port}/") as peer:
            peer.recv()
            peer.send("text")
            with self.assertRaises(ConnectionClosed) as closed:
                peer.recv()
            self.assertEqual(closed.exception.rcvd.code, 1003)
        # Half a frame, and half a head.
        for half in [b"\x82\xfe\x10\x00abc", b""]:
            with socket.create_connection(("127.0.0.1", self.server.port)) as raw:
                key = base64.b64encode(b"0" * 16).decode()
                head = f"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                raw.sendall(head.encode() + (b"\r\n" + half if half else b""))
        self.assertEqual(self.server.get("/healthz")[0], 200)


class Alone(unittest.TestCase):
    """Servers with options of their own."""

    def test_tokens(self) -> None:
        token = ARTIFACTS / "token"
        token.write_text("0123456789abcdef\n")
        server = Server("--token-file", str(token))
        try:
            request = {"image": frame(), "instruction": TASK, "state": STATE}
            self.assertEqual(server.post(request).status_code, 401)
            self.assertEqual(server.post(request, headers={"Authorization": "Bearer 0123456789abcdeX"}).status_code, 401)
            for kind in ("Bearer", "Api-Key"):
                headers = {"Authorization": f"{kind} 0123456789abcdef"}
                self.assertEqual(server.post(request, headers=headers).status_code, 200)
            client = websocket_client_policy.WebsocketClientPolicy(
                "127.0.0.1", server.port, api_key="0123456789abcdef"
            )
            self.assertEqual(client.get_server_metadata()["name"], "policy")
            self.assertEqual(server.get("/metrics")[0], 401)
            self.assertEqual(server.get("/readyz")[0], 200)
        finally:
            server.stop()

    def test_wrong_usage(self) -> None:
        short = ARTIFACTS / "short"
        short.write_text("abc")
        for options, code, text in [
            (["--listen", "0.0.0.0:0"], 2, "can be reached from other machines"),
            (["--token-file", str(short)], 1, "holds no token"),
            (["--token-file", "/dev/zero"], 1, "no file with a token"),
            (["--keys", "a=b"], 2, "`a` is not expected"),
            (["--queue", "0"], 2, "0"),
        ]:
            run = subprocess.run([DREAMC, "serve", str(FLOW), *options], capture_output=True, text=True, timeout=60)
            self.assertEqual((run.returncode, run.stdout), (code, ""), run.stderr)
            self.assertIn(text, run.stderr)
        module = [sys.executable, "-m", "dream.serve", str(FLOW)]
        for options, text in [
            (["--token-file", str(short)], "holds no token"),
            (["--queue", "0"], "`queue` must be 1 to 1024"),
            (["--timeout", "0"], "`timeout` must be"),
        ]:
            run = subprocess.run([*module, *options], capture_output=True, text=True, timeout=60)
            self.assertEqual((run.returncode, run.stdout), (1, ""), run.stderr)
            self.assertIn(text, run.stderr)
        run = subprocess.run([DREAMC, "serve", str(ARTIFACTS / "text.dream")], capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertIn("no entry `act`", run.stderr)

    def test_a_full_queue(self) -> None:
        server = Server("--queue", "1")
        try:
            request = {"image": frame(), "instruction": TASK, "state": STATE}
            codes: "list[int]" = []

            def ask() -> None:
                answer = server.post(request)
                codes.append(answer.status_code)
                if answer.status_code == 429:
                    self.assertEqual(answer.headers["retry-after"], "1")

            threads = [threading.Thread(target=ask) for _ in range(24)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(set(codes), {200, 429}, codes)
            self.assertIn('dream_dropped_total{reason="queue_full"}', server.get("/metrics")[1])
            self.assertEqual(server.post(request).status_code, 200)
        finally:
            server.stop()

    def test_pings_and_health_while_the_model_works(self) -> None:
        server = Server()
        self.addCleanup(server.stop)
        request = msgpack_numpy.packb({"image": frame(), "state": np.array(STATE), "prompt": TASK})
        done = threading.Event()

        def ask() -> None:
            with connect(f"ws://127.0.0.1:{server.port}/") as peer:
                peer.recv()
                while not done.is_set():
                    peer.send(request)
                    peer.recv()

        asking = threading.Thread(target=ask)
        asking.start()
        took = []
        with connect(f"ws://127.0.0.1:{server.port}/") as peer:
            peer.recv()
            peer.send(request)
            for _ in range(20):
                start = time.perf_counter()
                self.assertTrue(peer.ping().wait(5))
                took.append(time.perf_counter() - start)
                start = time.perf_counter()
                self.assertEqual(server.get("/healthz")[0], 200)
                took.append(time.perf_counter() - start)
            peer.recv()
        done.set()
        asking.join()
        took.sort()
        self.assertLess(took[len(took) * 9 // 10], 0.05, took)

    def test_clients_that_are_gone(self) -> None:
        server = Server("--queue", "8")
        self.addCleanup(server.stop)
        request = msgpack_numpy.packb({"image": frame(), "state": np.array(STATE), "prompt": TASK})
        for _ in range(20):
            with connect(f"ws://127.0.0.1:{server.port}/") as peer:
                peer.recv()
                peer.send(request)
                # The socket is closed without a word.
                peer.socket.shutdown(socket.SHUT_RDWR)
        self.assertEqual(server.post({"image": frame(), "instruction": TASK, "state": STATE}).status_code, 200)
        page = server.get("/metrics")[1]
        gone = sum(int(n) for n in re.findall(r'dream_dropped_total\{reason="gone_[a-z_]*"\} (\d+)', page))
        self.assertGreater(gone, 0, page)

    def test_idle_connections_cost_little(self) -> None:
        server = Server()
        self.addCleanup(server.stop)

        def resident() -> int:
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]

        with connect(f"ws://127.0.0.1:{server.port}/") as peer:
            peer.recv()
        before = resident()
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(connect(f"ws://127.0.0.1:{server.port}/")) for _ in range(200)]
            for peer in peers:
                peer.recv()
            self.assertLess(resident() - before, 20_000)

    def test_the_module_serves(self) -> None:
        server = Server(command=[sys.executable, "-m", "dream.serve"])
        self.addCleanup(server.stop)
        answer = server.post({"image": frame(), "instruction": TASK, "state": STATE, "seed": 7})
        wanted = dream.Policy(FLOW).act([frame()], TASK, STATE, seed=7).actions[0]
        np.testing.assert_array_equal(answer.json(), wanted)
        server.stop()

    def test_stopping_finishes_what_runs(self) -> None:
        server = Server()
        self.addCleanup(server.stop)
        client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
        request = {"image": frame(), "state": np.array(STATE), "prompt": TASK}
        client.infer(request)
        start = time.perf_counter()
        self.assertIn("stopped", server.stop())
        self.assertLess(time.perf_counter() - start, 10)
        with self.assertRaises(Exception):
            client.infer(request)


if __name__ == "__main__":
    unittest.main()

"""The server, asked by the field's own clients as they are."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import random
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
import openai
import requests
import tritonclient.http as triton
from openpi_client import action_chunk_broker, msgpack_numpy, websocket_client_policy
from PIL import Image
from tritonclient.utils import InferenceServerException
from vla_eval.connection import Connection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import dream

# As its users do: `json` then writes and reads arrays.
json_numpy.patch()

ARTIFACTS = Path(os.environ["DREAM_ARTIFACTS"]).absolute()
DREAMC = os.path.abspath(os.environ["DREAMC"])
FLOW = ARTIFACTS / "policy.dream"
TEXT = ARTIFACTS / "text.dream"
SEES = ARTIFACTS / "vl.dream"
PUZZLE = "3014010200002001\n"
SOLVED = "3214413214232341"
TASK = "push the red block to the green square"
STATE = [0.25, 0.5]


def frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)


SEED = b'{"name": "seed", "shape": [1], "datatype": "INT64", "data": [1]}'


class Random:
    """Changes bytes, the same every time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def change(self, good: bytes) -> bytes:
        changed = bytearray(good)
        for _ in range(self.random.randrange(1, 4)):
            at, byte = self.random.randrange(len(changed) or 1), self.random.randrange(256)
            kind = self.random.randrange(4)
            if kind == 0:
                del changed[at:]
            elif kind == 1:
                changed[at:at] = bytes([byte])
            elif kind == 2:
                changed += changed[at : at + 64]
            else:
                changed[at : at + 1] = bytes([byte])
        return bytes(changed)


class Server:
    """A server of its own process."""

    def __init__(self, *options: str, file: Path = FLOW, command: "list[str] | None" = None) -> None:
        command = command or [DREAMC, "serve"]
        self.process = subprocess.Popen(
            [*command, str(file), "--listen", "127.0.0.1:0", *options], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line + self.process.stderr.read()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def resident(self) -> int:
        """Its memory, in kB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]

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
            ({"observation/state": np.array([0.1])}, "`observation/state`: it has 1 numbers; it must be 2 numbers"),
            ({"observation/state": np.array([np.nan, 0])}, "`observation/state`: it has NaN"),
            ({"observation/image": frame().astype(np.int64)}, "`observation/image`: its elements are I64"),
            ({"speed": 1.0}, "`speed`: it is no field of a request"),
            ({"noise": np.zeros((4, 7))}, "`noise`: it is [4, 7]"),
        ]:
            with self.subTest(text), self.assertRaisesRegex(RuntimeError, re.escape(text)):
                client.infer({**request, **change})
        with self.assertRaisesRegex(RuntimeError, "`observation/image` is missing"):
            client.infer({"prompt": TASK, "observation/state": np.array(STATE)})
        # A camera at the wrist is no third-person view, and of two names for one thing neither is taken.
        with self.assertRaisesRegex(RuntimeError, "`observation/image` is missing"):
            client.infer({"prompt": TASK, "observation/state": np.array(STATE), "observation/wrist_image": frame()})
        with self.assertRaisesRegex(RuntimeError, "`task`: it stands beside `prompt`"):
            client.infer({**request, "task": TASK})
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

    def test_open_inference(self) -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{self.server.port}")
        self.addCleanup(client.close)
        self.assertTrue(client.is_server_live() and client.is_server_ready() and client.is_model_ready("policy"))
        self.assertIn("binary_tensor_data", client.get_server_metadata()["extensions"])
        described = client.get_model_metadata("policy")
        inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in described["inputs"]}
        self.assertEqual(inputs["image_0"], ("UINT8", [112, 112, 3]))
        self.assertEqual(inputs["proprio"], ("FP64", [2]))
        self.assertEqual(inputs["noise"], ("FP32", [5, 7]))
        given = {
            "image_0": ("UINT8", frame()),
            "task": ("BYTES", np.array([TASK.encode()], np.object_)),
            "proprio": ("FP64", np.array(STATE)),
            "seed": ("INT64", np.array([7])),
        }

        def tensors(given: dict, binary: bool) -> list:
            made = []
            for name, (datatype, array) in given.items():
                tensor = triton.InferInput(name, array.shape, datatype)
                tensor.set_data_from_numpy(array, binary_data=binary)
                made.append(tensor)
            return made

        for binary in (True, False):
            answer = client.infer("policy", tensors(given, binary), request_id="a7")
            np.testing.assert_array_equal(answer.as_numpy("actions"), self.wanted)
            self.assertEqual(answer.get_response()["id"], "a7")
            outputs = [triton.InferRequestedOutput("normalized", binary_data=binary)]
            answer = client.infer("policy", tensors(given, not binary), outputs=outputs, model_version="1")
            self.assertEqual(answer.as_numpy("normalized").shape, (5, 7))
            self.assertIsNone(answer.as_numpy("actions"))
        for change, text in [
            ({"task": ("BYTES", np.array([b"a", b"b"], np.object_))}, "`task`: it has 2 elements"),
            ({"task": ("BYTES", np.array([b"\xff"], np.object_))}, "`task`: invalid utf-8"),
            ({"task": ("INT32", np.array([1], np.int32))}, "`task`: it is of numbers"),
            ({"image_0": ("UINT8", frame()[:50])}, "112x50"),
            ({"image_0": ("INT64", np.zeros((1, 1, 3), np.int64))}, "`image_0`: its elements are I64"),
            ({"image_1": ("UINT8", frame())}, "`image_1`: it is no input of the model"),
            ({"proprio": ("FP64", np.array([0.1, np.nan]))}, "`proprio`: it has NaN"),
            ({"proprio": ("FP64", np.array([0.1]))}, "it has 1 numbers"),
            ({"seed": ("INT64", np.array([-1]))}, "`seed`"),
            ({"noise": ("FP32", np.zeros((4, 7), np.float32))}, "`noise`: it is [4, 7]"),
            ({"image_00": ("UINT8", frame())}, "`image_00`: it is no input of the model"),
        ]:
            with self.subTest(text), self.assertRaisesRegex(InferenceServerException, re.escape(text)):
                client.infer("policy", tensors({**given, **change}, True))
        for name, text in [("other", "there is no `other`"), ("policy", "`image_0` is missing")]:
            with self.assertRaisesRegex(InferenceServerException, text):
                client.infer(name, tensors({"task": given["task"]}, True))
        url = f"{self.server.url}/v2/models/policy/infer"
        for body, headers in [
            (b"{", {}),
            (b"{}", {"Inference-Header-Content-Length": "7"}),
            (b'{"inputs": []}x', {"Inference-Header-Content-Length": "14"}),
            (b'{"inputs": [{"name": "seed", "shape": [1], "datatype": "INT64", "data": ["a"]}]}', {}),
            (b'{"inputs": [{"name": "seed", "shape": [1], "datatype": "UINT64", "data": [1]}]}', {}),
            (b'{"inputs": [{"name": "task", "shape": [1], "datatype": "BYTES", "data": ["a", "b"]}]}', {}),
            (b'{"inputs": [], "outputs": [{"name": "actions", "parameters": {"classification": 3}}]}', {}),
            (b'{"inputs": [%s, %s]}' % (SEED, SEED), {}),
        ]:
            answer = requests.post(url, data=body, headers=headers, timeout=30)
            self.assertEqual(answer.status_code, 400, answer.text)
            self.assertIsInstance(answer.json()["error"], str)

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
        answer = requests.get(url, timeout=10)
        self.assertEqual((answer.status_code, answer.json()["error"]["message"]), (405, "GET is not served at /act"))
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


class Chatting(unittest.TestCase):
    """Text, asked by OpenAI's client."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server(file=TEXT)
        cls.client = openai.OpenAI(base_url=f"{cls.server.url}/v1", api_key="none", max_retries=0)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.client.close()
        cls.server.stop()

    def ask(self, text: str = PUZZLE, raw: bool = True, **options: object) -> object:
        extra = {"raw": raw, **options.pop("extra_body", {})}  # type: ignore[dict-item]
        messages = [{"role": "user", "content": text}]
        return self.client.chat.completions.create(  # type: ignore[call-overload]
            model="text", messages=messages, extra_body=extra, **options
        )

    def test_models(self) -> None:
        self.assertEqual([model.id for model in self.client.models.list()], ["text"])
        self.assertEqual(self.client.models.retrieve("text").owned_by, "dreamc")
        with self.assertRaises(openai.NotFoundError) as refused:
            self.client.models.retrieve("gpt")
        self.assertEqual(refused.exception.code, "model_not_found")
        self.assertEqual(self.server.get("/v2/models/text")[0], 200)
        self.assertIn("POST /v1/chat/completions", self.server.post({}).text)

    def test_an_answer(self) -> None:
        answer = self.ask(seed=3)
        self.assertEqual(answer.choices[0].message.content, SOLVED)
        # No end token was written.
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (17, 16))
        self.assertTrue(answer.id.startswith("chatcmpl-") and answer.created > 1_700_000_000)
        with dream.Model(TEXT) as model:
            for options in [
                {"temperature": 1.5, "seed": 5},
                {"temperature": 1.0, "seed": 6, "top_p": 0.9, "extra_body": {"top_k": 3, "alg_temp": 0.5}},
            ]:
                mine = {**options, **options.get("extra_body", {})}
                mine.pop("extra_body", None)
                wanted = model.generate(PUZZLE, raw=True, **mine).text
                self.assertEqual(self.ask(**options).choices[0].message.content, wanted)
        short = self.ask(max_tokens=4)
        self.assertEqual(short.usage.completion_tokens, 4)
        # What is fixed in the file may be said.
        self.ask(extra_body={"steps": 16, "num_denoising_steps": 16, "alg": "entropy", "eps": 1e-3}, n=1, user="me")
        stopped = self.ask(stop=["4132", "99"])
        self.assertEqual((stopped.choices[0].message.content, stopped.choices[0].finish_reason), ("3214", "stop"))

    def test_a_stream(self) -> None:
        chunks = list(self.ask(stream=True, stream_options={"include_usage": True}, extra_body={"diffusing": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.total_tokens), ([], 33))
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
        shown = [chunk.model_extra["dream"] for chunk in chunks if "dream" in chunk.model_extra]
        self.assertEqual([view["step"] for view in shown], list(range(1, 17)))
        open_slots = [view["canvas"].count(None) for view in shown]
        self.assertEqual(open_slots, sorted(open_slots, reverse=True))
        self.assertEqual("".join(shown[-1]["canvas"]), SOLVED)
        said = ""
        for chunk in chunks[:-1]:
            said += chunk.choices[0].delta.content or ""
            view = chunk.model_extra.get("dream")
            if view and None in view["canvas"]:
                # Nothing is said that stands right of an open slot.
                self.assertEqual(said, "".join(view["canvas"][: view["canvas"].index(None)]))
        self.assertEqual(said, SOLVED)
        plain = "".join(chunk.choices[0].delta.content or "" for chunk in self.ask(stream=True))
        self.assertEqual(plain, SOLVED)
        stopped = "".join(chunk.choices[0].delta.content or "" for chunk in self.ask(stream=True, stop="4132"))
        self.assertEqual(stopped, "3214")

    def test_who_stops_reading(self) -> None:
        for _ in range(3):
            stream = self.ask(stream=True)
            next(iter(stream))
            stream.close()
        self.assertEqual(self.ask().choices[0].message.content, SOLVED)

    def test_refusals(self) -> None:
        for options, param in [
            ({"extra_body": {"steps": 8}}, "steps"),
            ({"extra_body": {"alg": "origin"}}, "alg"),
            ({"extra_body": {"frobnicate": 1}}, "frobnicate"),
            ({"n": 2}, "n"),
            ({"max_tokens": 17}, "max_tokens"),
            ({"logprobs": True}, "logprobs"),
            ({"presence_penalty": 1.0}, "presence_penalty"),
            ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools"),
            ({"temperature": -1.0}, "temperature"),
            ({"temperature": 1e300}, "temperature"),
            ({"top_p": 0.0}, "top_p"),
            ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
            ({"stream_options": {"frobnicate": True}}, "stream_options.frobnicate"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
        ]:
            with self.subTest(param), self.assertRaises(openai.BadRequestError) as refused:
                self.ask(**options)
            self.assertEqual((refused.exception.param, refused.exception.type), (param, "invalid_request_error"))
        for stream in (False, True):
            with self.assertRaisesRegex(openai.BadRequestError, "at most 32"):
                self.ask("1" * 40, stream=stream)
        with self.assertRaises(openai.NotFoundError):
            self.client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hi"}])
        answer = requests.post(f"{self.server.url}/act", json={"image": frame(), "instruction": TASK}, timeout=30)
        self.assertEqual(answer.status_code, 404)
        self.assertIn("has no entry `act`", answer.json()["error"]["message"])
        with self.assertRaisesRegex(Exception, "404"), connect(f"ws://127.0.0.1:{self.server.port}/"):
            pass

    def test_images(self) -> None:
        server = Server(file=SEES)
        self.addCleanup(server.stop)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        self.addCleanup(client.close)
        file = io.BytesIO()
        Image.fromarray(frame()).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
        answer = client.chat.completions.create(model="vl", messages=[{"role": "user", "content": content}])
        with dream.Model(SEES) as model:
            wanted = model.generate("What is it?", [frame()])
        self.assertEqual(answer.choices[0].message.content, wanted.text)
        for url in ["http://127.0.0.1/a.png", "data:image/png;base64,AAAA", "data:image/gif;base64,AAAA"]:
            content[0]["image_url"] = {"url": url}
            with self.assertRaisesRegex(openai.BadRequestError, "data URL"):
                client.chat.completions.create(model="vl", messages=[{"role": "user", "content": content}])


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

    def taken(self) -> str:
        """An address that somebody has."""
        holder = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(holder.close)
        return f"127.0.0.1:{holder.getsockname()[1]}"

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
            (["--listen", self.taken()], "cannot listen on 127.0.0.1:"),
        ]:
            run = subprocess.run([*module, *options], capture_output=True, text=True, timeout=60)
            self.assertEqual((run.returncode, run.stdout), (1, ""), run.stderr)
            self.assertIn(text, run.stderr)
        run = subprocess.run([DREAMC, "serve", str(ARTIFACTS / "forward.dream")], capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertIn("has neither `act` nor `generate`, only forward", run.stderr)

    def test_pages_of_other_sites_may_not_ask(self) -> None:
        server = Server()
        self.addCleanup(server.stop)
        request = {"image": frame(), "instruction": TASK, "state": STATE}
        for origin, status in [("http://evil.example", 403), ("null", 403), (server.url, 200), ("http://[::1]:80", 200)]:
            self.assertEqual(server.post(request, headers={"Origin": origin}).status_code, status, origin)
        with self.assertRaisesRegex(Exception, "403"):
            with connect(f"ws://127.0.0.1:{server.port}/", origin="http://evil.example"):
                pass

    def test_a_stream_that_takes_too_long(self) -> None:
        server = Server("--timeout", "1", file=ARTIFACTS / "slow.dream")
        self.addCleanup(server.stop)
        body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}], "stream": True, "raw": True}
        answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        self.assertEqual(events[-1], "[DONE]")
        self.assertIn("within 1 s", json.loads(events[-2])["error"]["message"])
        # The model is free again.
        short = {**body, "stream": False, "max_tokens": 1}
        self.assertEqual(requests.post(f"{server.url}/v1/chat/completions", json=short, timeout=30).status_code, 200)

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

        with connect(f"ws://127.0.0.1:{server.port}/") as peer:
            peer.recv()
        before = server.resident()
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(connect(f"ws://127.0.0.1:{server.port}/")) for _ in range(200)]
            for peer in peers:
                peer.recv()
            self.assertLess(server.resident() - before, 20_000)

    def test_late_answers_are_counted(self) -> None:
        server = Server("--late-after", "1")
        self.addCleanup(server.stop)
        server.post({"image": frame(), "instruction": TASK, "state": STATE})
        self.assertRegex(server.get("/metrics")[1], r"dream_late_total [1-9]")

    def test_changed_requests(self) -> None:
        """100,000 frames and requests that are wrong somewhere: each has an answer, and nothing is left behind."""
        server = Server()
        self.addCleanup(server.stop)
        changes = Random(7)
        # The smallest picture: those that stay sound are refused by the model, which looks at its size.
        small = np.zeros((2, 2, 3), np.uint8)
        asked = msgpack_numpy.packb({"image": small, "state": np.array(STATE), "prompt": "push"})
        text = {"__ndarray__": True, "data": small.tobytes(), "dtype": "|u1", "shape": [2, 2, 3]}
        payload = {"images": {"a": text}, "task_description": "push", "states": STATE}
        observed = msgpack_numpy.packb({"type": "observation", "payload": payload, "seq": 1, "timestamp": 0.0})
        body = json_numpy.dumps({"image": small, "instruction": "push", "state": STATE}).encode()

        def frames(path: str, good: bytes, count: int) -> None:
            peer, refused = None, 0
            for _ in range(count):
                if peer is None:
                    peer = connect(f"ws://127.0.0.1:{server.port}{path}")
                    if path != "/vla-eval":
                        peer.recv(timeout=10)
                changed = changes.change(good)
                if path == "/vla-eval" and re.search(rb"episode_(start|end)", changed):
                    continue
                peer.send(changed)
                try:
                    answer = peer.recv(timeout=10)
                    refused += isinstance(answer, str) or b"error" in answer
                    if isinstance(answer, str):
                        # Where a stream cannot be read it ends behind its error.
                        peer.close()
                        peer = None
                except ConnectionClosed:
                    peer = None
            self.assertGreater(refused, count // 2)
            if peer is not None:
                peer.close()

        def posts(path: str, good: bytes, count: int) -> None:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as peer:
                for _ in range(count):
                    peer.request("POST", path, changes.change(good), {"Content-Type": "application/json"})
                    answer = peer.getresponse()
                    self.assertIn(answer.status, (400, 404), answer.read() if answer.status != 400 else "")
                    self.assertIn("error", json.loads(answer.read()))

        infer = {
            "inputs": [
                {"name": "image_0", "shape": [1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]},
                {"name": "task", "shape": [1], "datatype": "BYTES", "data": ["push"]},
                {"name": "proprio", "shape": [2], "datatype": "FP64", "data": STATE},
            ]
        }
        rounds = [
            lambda n: frames("/v1/realtime/robot/openpi", asked, 10 * n),
            lambda n: frames("/vla-eval", observed, 6 * n),
            lambda n: frames("/", asked, n),
            lambda n: posts("/act", body, 5 * n),
            lambda n: posts("/v2/models/policy/infer", json.dumps(infer).encode(), 3 * n),
        ]
        for ask in rounds:
            ask(200)
        before = server.resident()
        for ask in rounds:
            ask(3_800)
        self.assertLess(server.resident() - before, 4_000)
        self.assertEqual(server.post({"image": frame(), "instruction": TASK, "state": STATE}).status_code, 200)

    def test_the_module_serves(self) -> None:
        server = Server("--pin", "0", "--threads", "1", command=[sys.executable, "-m", "dream.serve"])
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

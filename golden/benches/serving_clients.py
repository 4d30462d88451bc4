"""The field's own clients, timed: `python serving_clients.py ADDRESS openpi-client|json-numpy CALLS` prints, call by call, the
milliseconds there and back and those of the model."""

import re
import sys
import time
from typing import Callable

import json_numpy
import numpy as np
import requests
from openpi_client import websocket_client_policy

TASK = "pick up the block"


def view(step: int) -> np.ndarray:
    return (np.arange(224 * 224 * 3) * step % 251).astype(np.uint8).reshape(224, 224, 3)


def openpi(address: str) -> Callable[[], float]:
    host, port = address.split(":")
    client = websocket_client_policy.WebsocketClientPolicy(host, int(port))
    observation = {"observation/image": view(7), "observation/wrist_image": view(11), "prompt": TASK}
    return lambda: client.infer(observation)["policy_timing"]["infer_ms"]


def act(address: str) -> Callable[[], float]:
    json_numpy.patch()
    session = requests.Session()
    observation = {"full_image": view(7), "wrist_image": view(11), "instruction": TASK}

    def ask() -> float:
        answer = session.post(f"http://{address}/act", json=observation, timeout=30)
        np.array(answer.json())
        found = re.search(r"model;dur=([0-9.]+)", answer.headers["server-timing"])
        assert found
        return float(found[1])

    return ask


def main() -> None:
    address, name, calls = sys.argv[1:]
    ask = {"openpi-client": openpi, "json-numpy": act}[name](address)
    for _ in range(int(calls)):
        start = time.perf_counter()
        model = ask()
        print((time.perf_counter() - start) * 1e3, model)


if __name__ == "__main__":
    main()

"""A policy that `dreamc serve` runs elsewhere, asked in openpi's protocol.

The server speaks first: a map that says what it serves. Then a request is a map in MessagePack in a binary frame, and so is its
answer; an error is a text frame. An array is a map with the keys ``__ndarray__``, ``data``, ``dtype`` and ``shape`` as bytes.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import numpy as np

from .acting import Floats, Observation, Settings

try:
    import msgpack
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.sync.client import ClientConnection, connect
except ImportError as error:
    raise ImportError(
        f"a policy with url needs {error.name}: `pip install 'lerobot_policy_dream[url]'`", name=error.name
    ) from error

#: Longest time to a connection, and to an answer, in seconds. The second is that of `dreamc serve`.
OPEN_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 120.0


class RemoteError(RuntimeError):
    """The server is not there, or refuses a request."""


class Remote:
    """A connection to a server. Where it is lost, the next request makes a new one."""

    def __init__(self, url: str, *, token_file: Path | None = None) -> None:
        self._url = url
        self._headers = {}
        if token_file is not None:
            self._headers["Authorization"] = f"Api-Key {token_file.read_text().strip()}"
        self._lock = threading.Lock()
        self._open = contextlib.ExitStack()
        self._connection, metadata = self._connect()
        self._identity = _identity(metadata)
        self.settings, self._keys = _settings(metadata, url)

    def act(self, observation: Observation) -> Floats:
        request: dict[str, Any] = dict(zip(self._keys, observation.images))
        request["prompt"] = observation.task
        if observation.state is not None:
            request["observation/state"] = observation.state
        request["seed"] = observation.seed
        if observation.noise is not None:
            request["noise"] = observation.noise
        actions = self._ask(request).get("actions")
        expected = (self.settings.chunk, self.settings.action_dim)
        if not isinstance(actions, np.ndarray) or actions.shape != expected:
            found = list(actions.shape) if isinstance(actions, np.ndarray) else actions
            raise RemoteError(f"`actions` of the answer of {self._url} is {found}; it must be an array {list(expected)}")
        return actions.astype(np.float64)

    def close(self) -> None:
        """Ends the connection."""
        self._open.close()

    def _connect(self) -> tuple[ClientConnection, dict[str, Any]]:
        self._open.close()
        try:
            connection = self._open.enter_context(
                connect(
                    self._url,
                    compression=None,
                    max_size=None,
                    open_timeout=OPEN_TIMEOUT_S,
                    additional_headers=self._headers,
                )
            )
            return connection, self._answer(connection, OPEN_TIMEOUT_S)
        except InvalidHandshake as error:
            raise RemoteError(f"url is {self._url}, which refuses the connection: {error}") from error
        except (OSError, ConnectionClosed) as error:
            raise RemoteError(f"url is {self._url}, where no server answers ({error}); start `dreamc serve FILE`") from error

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        packed = msgpack.packb(request, default=_pack)
        with self._lock:
            try:
                return self._exchange(packed)
            except ConnectionClosed:
                # The server was started anew, perhaps. The same request has the same answer.
                self._connection, metadata = self._connect()
                if _identity(metadata) != self._identity:
                    raise RemoteError(f"{self._url} serves another policy than before") from None
            try:
                return self._exchange(packed)
            except ConnectionClosed as error:
                raise RemoteError(f"{self._url} ends the connection: {error}") from error

    def _exchange(self, packed: bytes) -> dict[str, Any]:
        self._connection.send(packed)
        return self._answer(self._connection, ANSWER_TIMEOUT_S)

    def _answer(self, connection: ClientConnection, timeout_s: float) -> dict[str, Any]:
        try:
            frame = connection.recv(timeout=timeout_s)
        except TimeoutError as error:
            # Its answer may still come, to the next request then.
            connection.close()
            raise RemoteError(f"{self._url} does not answer within {timeout_s:g} s") from error
        if isinstance(frame, str):
            raise RemoteError(f"{self._url} refuses the request: {frame}")
        answer = msgpack.unpackb(frame, object_hook=_unpack)
        if not isinstance(answer, dict):
            raise RemoteError(f"{self._url} answers with {type(answer).__name__}; it must be a map")
        return answer


def _identity(metadata: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same after a connection was made anew."""
    return tuple(metadata.get(key) for key in ("artifact_blake3", "image_keys", "gripper"))


def _settings(metadata: dict[str, Any], url: str) -> tuple[Settings, list[str]]:
    """What a server says that it serves, and the names of the views."""
    try:
        named, size = metadata["image_keys"], metadata["image_resolution"]
        settings = Settings(
            views=len(named),
            proprio_dim=metadata["proprio_dim"],
            chunk=metadata["action_horizon"],
            action_dim=metadata["action_dim"],
            image_size=None if size is None else (size[0], size[1]),
        )
    except (KeyError, TypeError) as error:
        raise RemoteError(f"{url} does not say what it serves ({error!r}); it must be `dreamc serve`") from error
    gripper = metadata.get("gripper", "none")
    if gripper != "none":
        raise RemoteError(f"{url} was started with `--gripper {gripper}`; leave that to --policy.gripper={gripper}")
    keys: list[str] = []
    for key in named:
        # Of several wrist views only the first has a name; the others need `wrist` in theirs.
        keys.append(key if key not in keys else f"{key}_{len(keys)}")
    return settings, keys


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        return {
            b"__ndarray__": True,
            b"data": array.tobytes(),
            b"dtype": array.dtype.str,
            b"shape": array.shape,
        }
    raise TypeError(f"cannot send {type(value).__name__}")


def _unpack(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in value:
        return value
    dtype = np.dtype(value[b"dtype"])
    if dtype.kind not in "biuf":
        raise RemoteError(f"the answer has an array of {dtype}; it must be of numbers")
    return np.frombuffer(value[b"data"], dtype).reshape(value[b"shape"])

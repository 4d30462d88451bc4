"""What clients send: OpenVLA's JSON with arrays of json-numpy, openpi's MessagePack with arrays of its own.

No pickle is read. Whatever is wrong with a request is a ValueError.
"""

import base64

import numpy as np

FIRST_VIEW = (
    "observation/image",
    "image",
    "full_image",
    "observation.image",
    "observation/exterior_image_1_left",
    "base_image",
    "primary_image",
)
STATE = ("observation/state", "state", "observation.state")
TASK = ("prompt", "instruction", "task")


def array(data: bytes, dtype: str, shape: list) -> np.ndarray:
    try:
        if np.dtype(dtype).kind in "biuf":
            return np.frombuffer(data, dtype).reshape(shape)
    except TypeError:
        pass
    raise ValueError(f"an array of {dtype!r} is not taken; it must be of numbers")


def from_json(value: dict) -> object:
    if "__numpy__" not in value:
        return value
    return array(base64.b64decode(str(value["__numpy__"]), validate=True), value.get("dtype"), value.get("shape"))


def to_json(value: np.ndarray) -> dict:
    text = base64.b64encode(value.tobytes()).decode()
    return {"__numpy__": text, "dtype": value.dtype.str, "shape": list(value.shape)}


def from_msgpack(value: dict) -> object:
    fields = {key.decode() if isinstance(key, bytes) else key: item for key, item in value.items()}
    if "__ndarray__" in fields:
        return array(fields.get("data"), fields.get("dtype"), fields.get("shape"))
    return fields.get("data") if "__npgeneric__" in fields else fields


def to_msgpack(value: np.ndarray) -> dict:
    # openpi's clients look for keys that are bytes.
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def observation(request: object) -> dict:
    """The arguments of `Policy.act` from a request of either protocol."""
    if not isinstance(request, dict):
        raise ValueError("the request is no map")
    rest = dict(request)

    def take(*names: str) -> object:
        return next((rest.pop(name) for name in names if name in rest), None)

    def checked(value: object, kind: type, name: str, wanted: str) -> object:
        if not isinstance(value, kind):
            raise ValueError(f"`{name}` must be {wanted}")
        return value

    views = [take(*FIRST_VIEW), *(rest.pop(name) for name in list(rest) if "wrist" in name)]
    made = {
        "views": [checked(view, np.ndarray, "image", "an array, uint8 [height, width, 3]") for view in views],
        "task": checked(take(*TASK), str, "instruction", "a text"),
        "state": take(*STATE),
        "seed": checked(take("seed") or 0, int, "seed", "a whole number"),
        "unnorm_key": take("unnorm_key"),
    }
    if not 0 <= made["seed"] < 2**64:
        raise ValueError(f"`seed` is {made['seed']}; it must be from 0 to 2^64 - 1")
    if rest:
        raise ValueError(f"`{next(iter(rest))}` is no field of a request")
    return made

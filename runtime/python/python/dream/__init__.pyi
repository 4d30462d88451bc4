from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Protocol, Union, final

import numpy as np
import numpy.typing as npt

from .errors import ArgumentError as ArgumentError
from .errors import ArtifactError as ArtifactError
from .errors import BugError as BugError
from .errors import BusyError as BusyError
from .errors import DreamError as DreamError
from .errors import FileError as FileError
from .errors import NotFiniteError as NotFiniteError
from .errors import SystemResourceError as SystemResourceError
from .errors import UnsupportedError as UnsupportedError

__version__: str

class _ArrayInterface(Protocol):
    @property
    def __array_interface__(self) -> dict[str, Any]: ...

class _DLPack(Protocol):
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

_Image = Union[npt.NDArray[np.uint8], _ArrayInterface, _DLPack]
_Images = Union[_Image, Iterable[_Image]]
_Device = Literal["auto", "cpu", "cuda", "rocm", "metal", "wgpu"]

@final
class PolicyInfo:
    """What a policy takes and gives."""

    @property
    def chunk(self) -> int:
        """Actions of a chunk."""
    @property
    def action_dim(self) -> int:
        """Numbers of an action."""
    @property
    def views(self) -> int:
        """Images of an observation."""
    @property
    def proprio_dim(self) -> int | None:
        """Numbers of the robot's state, if the policy takes it."""
    @property
    def mode(self) -> Literal["discrete", "one-step", "l1", "flow", "ddim"]:
        """How a chunk comes about."""
    @property
    def unnorm_key(self) -> str:
        """Whose statistics scale the actions."""
    @property
    def image_size(self) -> tuple[int, int] | None:
        """Width and height of all images, if the artifact was built for one size."""
    @property
    def device(self) -> str:
        """What runs it, in words."""
    @property
    def target(self) -> str:
        """Which of the artifact's targets that is."""

@final
class ModelInfo:
    """What a model takes and gives."""

    @property
    def variant(self) -> Literal["text", "vl", "vla"]: ...
    @property
    def entries(self) -> list[str]:
        """What it can be asked for."""
    @property
    def max_prompt(self) -> int:
        """Longest prompt in tokens."""
    @property
    def new_tokens(self) -> int:
        """Slots behind a prompt."""
    @property
    def steps(self) -> int:
        """Denoising steps."""
    @property
    def sees(self) -> bool:
        """Whether it takes images."""
    @property
    def device(self) -> str:
        """What runs it, in words."""
    @property
    def target(self) -> str:
        """Which of the artifact's targets that is."""

@final
class Actions:
    """A chunk of actions."""

    @property
    def actions(self) -> npt.NDArray[np.float64]:
        """What the robot is to do, in its own units: [chunk, action_dim]."""
    @property
    def normalized(self) -> npt.NDArray[np.float64]:
        """The same as the model gives them, about -1 to 1."""
    @property
    def token_ids(self) -> npt.NDArray[np.int32] | None:
        """The tokens that say so, [chunk * action_dim], in the discrete modes."""
    @property
    def outside(self) -> int:
        """How many of the tokens are no action tokens. They were read as the nearest."""
    @property
    def forwards(self) -> int:
        """Passes through the decoder."""
    def __len__(self) -> int: ...

@final
class Policy:
    """An artifact that acts.

    Weights are mapped from the file, which must not change while it is open, and compared with their hashes here, so that
    no action waits for it. ``threads`` 0 is one for each core; results do not depend on it. ``pin`` lists processors to run
    on. ``lock_weights`` keeps the weights in memory, which needs the right to lock that much. ``warm`` lists lengths of
    prompts, in tokens with those of images, whose runs a GPU (``cuda``, ``rocm``) records here and not at the first
    request; None is for those of the file (``dreamc build --warm``), an empty list for none.
    """

    def __new__(
        cls,
        path: str | PathLike[str],
        *,
        device: _Device = "auto",
        threads: int = 0,
        pin: Sequence[int] = (),
        lock_weights: bool = False,
        warm: Sequence[int] | None = None,
    ) -> Policy: ...
    @property
    def info(self) -> PolicyInfo: ...
    def act(
        self,
        images: _Images,
        task: str,
        proprio: npt.ArrayLike | None = None,
        *,
        seed: int = 0,
        noise: npt.ArrayLike | None = None,
        out: npt.NDArray[np.float64] | None = None,
    ) -> Actions:
        """A chunk of actions for what the robot sees.

        ``images`` are its views, third-person first: uint8 [height, width, 3] from the top, red first. Where they are in C
        order they are borrowed: do not write to them meanwhile. Others are copied, and alpha is dropped. ``proprio`` is its
        state in its own units, for policies that take it. ``seed`` makes the noise of flow and DDIM, or ``noise``
        [chunk, action_dim] gives it. With ``out``, float64 [chunk, action_dim], the actions are written there.

        The same observation, seed and noise give the same actions.
        """
    def close(self) -> None:
        """Frees what it has. Closing twice does nothing."""
    def __enter__(self) -> Policy: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

@final
class Generated:
    """What was generated."""

    @property
    def text(self) -> str:
        """The answer, without special tokens, up to the first end of text."""
    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        """The new tokens."""
    @property
    def steps(self) -> int:
        """Steps of the schedule."""
    @property
    def forwards(self) -> int:
        """Passes through the model that were really run."""

@final
class Model:
    """An artifact that generates text. Its arguments are those of `Policy`."""

    def __new__(
        cls,
        path: str | PathLike[str],
        *,
        device: _Device = "auto",
        threads: int = 0,
        pin: Sequence[int] = (),
        lock_weights: bool = False,
        warm: Sequence[int] | None = None,
    ) -> Model: ...
    @property
    def info(self) -> ModelInfo: ...
    def generate(
        self,
        prompt: str,
        images: _Images | None = None,
        *,
        seed: int = 0,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        alg_temp: float | None = None,
        eos_penalty: float = 0.0,
        raw: bool = False,
        on_step: Callable[[int, int, npt.NDArray[np.int32]], bool | None] | None = None,
    ) -> Generated:
        """Text for a prompt, which is a user's message, or with ``raw`` all that the model reads.

        ``on_step`` is told the steps done, their number and the new tokens as they are then, of which those that are open
        are the mask token; it stops the run by returning False, and what it raises is raised here.
        """
    def close(self) -> None:
        """Frees what it has. Closing twice does nothing."""
    def __enter__(self) -> Model: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

def load(
    path: str | PathLike[str],
    *,
    device: _Device = "auto",
    threads: int = 0,
    pin: Sequence[int] = (),
    lock_weights: bool = False,
    warm: Sequence[int] | None = None,
) -> Policy | Model:
    """Opens an artifact: a `Policy` where it acts, else a `Model`."""

"""What a policy takes and gives, and a policy in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dream
import numpy as np
import numpy.typing as npt

#: A view: uint8 [height, width, 3], row 0 at the top, red first.
Image = npt.NDArray[np.uint8]
#: Numbers in the robot's units.
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What a policy takes and gives."""

    views: int
    """Images of an observation."""
    proprio_dim: int | None
    """Numbers of the robot's state, if the policy takes it."""
    chunk: int
    """Actions of a chunk."""
    action_dim: int
    """Numbers of an action."""
    image_size: tuple[int, int] | None
    """Width and height of all images, if the artifact was built for one size."""


@dataclass(frozen=True)
class Observation:
    """What the robot sees, and what it is told."""

    images: Sequence[Image]
    """One for each view."""
    task: str
    state: Floats | None
    """[proprio_dim], where the policy takes it."""
    seed: int
    noise: Floats | None = None
    """[chunk, action_dim], instead of that of the seed."""


class Acts(Protocol):
    """A policy, wherever it runs."""

    @property
    def settings(self) -> Settings: ...

    def act(self, observation: Observation) -> Floats:
        """A chunk of actions, [chunk, action_dim]. One thread at a time is served."""


class Local:
    """An artifact that runs in this process."""

    def __init__(self, path: Path, *, device: str = "auto", threads: int = 0) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f"artifact is `{path}`, where there is no file; `dreamc export lerobot FILE DIR` writes the folder, and"
                " --policy.artifact=FILE names one elsewhere"
            )
        # The configuration has checked the device.
        opened: Any = dream.load(path, device=device, threads=threads)  # type: ignore[arg-type]
        if not isinstance(opened, dream.Policy):
            raise ValueError(f"artifact is `{path}`, a {opened.info.variant} model; it must be one of Dream-VLA, which acts")
        self._policy = opened
        info = opened.info
        self.settings = Settings(info.views, info.proprio_dim, info.chunk, info.action_dim, info.image_size)

    def act(self, observation: Observation) -> Floats:
        chunk = self._policy.act(
            observation.images,
            observation.task,
            observation.state,
            seed=observation.seed,
            noise=observation.noise,
        )
        return chunk.actions

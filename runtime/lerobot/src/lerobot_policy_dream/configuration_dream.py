"""The configuration ``dream``: what `dreamc export lerobot` writes to config.json, and what ``--policy.NAME=..`` sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from lerobot.configs.policies import PreTrainedConfig

GRIPPERS = ("none", "libero")
DEVICES = ("auto", "cpu", "cuda", "rocm", "metal", "wgpu")


@PreTrainedConfig.register_subclass("dream")
@dataclass
class DreamConfig(PreTrainedConfig):
    """A compiled policy.

    The inherited ``input_features`` name the views in the policy's order, third-person first, as VISUAL [3, height, width], and
    the state, where the policy takes one, as STATE [proprio_dim]. ``output_features`` has ``action``, ACTION [action_dim].
    ``device`` is where LeRobot's tensors are; the policy itself runs on ``runtime_device``.
    """

    artifact: str | None = None
    """The file that `dreamc build` wrote: its name in the folder of the policy, or a path."""
    url: str | None = None
    """Where `dreamc serve` runs the artifact, as ``ws://host:port``. The artifact is not opened here then."""
    token_file: str | None = None
    """File with the token that the server at ``url`` wants."""
    task: str | None = None
    """What the robot is told where the batch does not say it."""
    chunk_size: int | None = None
    """Actions of a chunk; None takes what the policy has."""
    n_action_steps: int | None = None
    """How many actions of a chunk are done before the policy is asked again; None is all."""
    gripper: str = "none"
    """``none`` gives the last number of an action as the policy has it; ``libero`` as LIBERO wants it: -1 opens, 1 closes."""
    seed: int = 0
    """Seed of the first query; each further one has the next. Flow and DDIM make their noise of it."""
    threads: int = 0
    """Threads of the policy; 0 is one for each core. Results do not depend on it."""
    runtime_device: str = "auto"
    """What the policy runs on, of the targets that the artifact was built for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gripper not in GRIPPERS:
            raise ValueError(f"gripper is {self.gripper!r}; it must be one of {', '.join(GRIPPERS)}")
        if self.runtime_device not in DEVICES:
            raise ValueError(f"runtime_device is {self.runtime_device!r}; it must be one of {', '.join(DEVICES)}")
        if self.url is not None and not self.url.startswith(("ws://", "wss://")):
            raise ValueError(f"url is {self.url!r}; it must begin with ws:// or wss://")
        if self.n_obs_steps != 1:
            raise ValueError(f"n_obs_steps is {self.n_obs_steps}; it must be 1: the policy sees the present only")
        for name, least in (("chunk_size", 1), ("n_action_steps", 1), ("seed", 0), ("threads", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if self.chunk_size is not None and self.n_action_steps is not None and self.n_action_steps > self.chunk_size:
            raise ValueError(
                f"n_action_steps is {self.n_action_steps}; it must be at most {self.chunk_size}, the actions of a chunk"
            )

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int] | None:
        return None if self.chunk_size is None else list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> NoReturn:
        raise not_trainable()

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        """Refuses features that no policy of this type has."""
        if not self.image_features:
            raise ValueError("input_features has no view; the policy needs at least one of type VISUAL, [3, height, width]")
        for name, feature in self.image_features.items():
            if len(feature.shape) != 3 or feature.shape[0] != 3:
                raise ValueError(f"`{name}` of input_features is {list(feature.shape)}; it must be [3, height, width]")
        action, state = self.action_feature, self.robot_state_feature
        if action is None or len(action.shape) != 1:
            found = "missing" if action is None else list(action.shape)
            raise ValueError(f"`action` of output_features is {found}; it must be of type ACTION, [action_dim]")
        if state is not None and len(state.shape) != 1:
            raise ValueError(f"`observation.state` of input_features is {list(state.shape)}; it must be [proprio_dim]")


def not_trainable() -> NotImplementedError:
    """What training a compiled policy raises."""
    return NotImplementedError(
        "a policy of type dream is compiled and cannot be trained; train the checkpoint and build it anew with `dreamc build`"
    )

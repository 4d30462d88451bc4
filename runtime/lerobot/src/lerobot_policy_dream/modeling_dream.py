"""The policy ``dream``: a compiled policy behind LeRobot's interface."""

from __future__ import annotations

import logging
import shutil
from collections import deque
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from .acting import Acts, Floats, Image, Local, Observation, Settings
from .configuration_dream import DreamConfig, not_trainable

Self = TypeVar("Self", bound="DreamPolicy")

# Half a pixel: what is further outside of 0 to 1 was scaled.
TOLERANCE = 0.5 / 255


class DreamPolicy(PreTrainedPolicy):
    """A compiled policy. It has no parameters: the weights are in the artifact."""

    config_class = DreamConfig
    name = "dream"

    def __init__(
        self,
        config: DreamConfig,
        dataset_stats: dict[str, Any] | None = None,
        dataset_meta: Any = None,
        *,
        folder: Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Opens the artifact, which lies in ``folder`` unless it is a path, or connects to ``config.url``.

        Statistics of data sets are not looked at: the artifact has those of its training.
        """
        super().__init__(config)
        config.validate_features()
        self.config = config
        self._artifact: Path | None = None
        self._acts = self._open(folder or Path())
        _check_features(config, self._acts.settings)
        self._views = list(config.image_features)
        self._queries = 0
        self._rtc_was_named = False
        self.reset()

    def _open(self, folder: Path) -> Acts:
        config = self.config
        if config.url is not None:
            from .remote import Remote

            return Remote(config.url, token_file=None if config.token_file is None else Path(config.token_file))
        if config.artifact is None:
            raise ValueError("artifact is missing; it must name a file that `dreamc build` wrote, or url a server")
        self._artifact = folder / config.artifact
        return Local(self._artifact, device=config.runtime_device, threads=config.threads)

    @classmethod
    def from_pretrained(
        cls: type[Self],
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        force_download: bool = False,
        resume_download: bool | None = None,
        proxies: dict[Any, Any] | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        strict: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Opens the policy of a folder that `dreamc export lerobot` wrote, or of such a repository of the Hub."""
        folder = Path(pretrained_name_or_path)
        hub: dict[str, Any] = {
            "force_download": force_download,
            "proxies": proxies,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "revision": revision,
        }
        if config is None:
            overrides = {"cli_overrides": kwargs.pop("cli_overrides", [])}
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path, **hub, **overrides)
        if not isinstance(config, DreamConfig):
            raise ValueError(f"`{pretrained_name_or_path}` has a policy of type {config.type}; it must be of type dream")
        if not folder.is_dir() and config.artifact is not None and config.url is None:
            if not Path(config.artifact).is_absolute():
                folder = Path(hf_hub_download(str(pretrained_name_or_path), config.artifact, **hub)).parent
        policy = cls(config, folder=folder, **kwargs)
        policy.eval()
        return policy

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes the configuration and the artifact. There is no state beside it."""
        self.config._save_pretrained(save_directory)
        if self._artifact is not None:
            shutil.copyfile(self._artifact, save_directory / self._artifact.name)

    def get_optim_params(self) -> NoReturn:
        raise not_trainable()

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        raise not_trainable()

    def reset(self) -> None:
        """Starts an episode: what is left of the last chunk is dropped. Queries are counted on."""
        steps = self.config.n_action_steps or self._acts.settings.chunk
        self._action_queue: deque[Tensor] = deque(maxlen=steps)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """The next action of each row, float32 [B, action_dim] in the robot's units.

        Where none is left, the policy is asked for a chunk, of which the first ``n_action_steps`` actions are kept.
        """
        if not self._action_queue:
            chunk = self.predict_action_chunk(batch, **kwargs)
            self._action_queue.extend(chunk[:, : self._action_queue.maxlen].unbind(1))
        return self._action_queue.popleft()

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """A chunk of actions for each row, float32 [B, chunk, action_dim] in the robot's units, on the device of the views.

        ``batch`` has the views by the names of ``input_features``, [B, 3, height, width] from 0 to 1, ``observation.state``
        [B, proprio_dim] where the policy takes it, and ``task``, B strings. Query k since the policy was opened, counting rows,
        has the seed ``config.seed + k``; ``noise`` [B, chunk, action_dim] replaces it. The guidance of real-time chunking
        (``inference_delay``, ``prev_chunk_left_over``) is not done.
        """
        settings = self._acts.settings
        if kwargs.get("prev_chunk_left_over") is not None and not self._rtc_was_named:
            self._rtc_was_named = True
            logging.warning("policies of type dream do no real-time chunking; prev_chunk_left_over is passed over")
        views = [_pixels(name, _field(batch, name, self._views), settings.image_size) for name in self._views]
        rows = len(views[0])
        for name, images in zip(self._views, views):
            if len(images) != rows:
                raise ValueError(f"`{name}` has {len(images)} rows; it must have {rows} as `{self._views[0]}` has")
        tasks = _tasks(batch.get("task"), self.config.task, rows)
        states = _numbers(OBS_STATE, batch.get(OBS_STATE), (rows, settings.proprio_dim))
        noise = _noise(kwargs.get("noise"), (rows, settings.chunk, settings.action_dim))
        chunks = np.empty((rows, settings.chunk, settings.action_dim))
        for row in range(rows):
            observation = Observation(
                images=[images[row] for images in views],
                task=tasks[row],
                state=None if states is None else states[row],
                seed=self.config.seed + self._queries,
                noise=None if noise is None else noise[row],
            )
            self._queries += 1
            chunks[row] = self._acts.act(observation)
        if self.config.gripper == "libero":
            chunks[..., -1] = -np.sign(2 * chunks[..., -1] - 1)
        return torch.from_numpy(chunks).to(batch[self._views[0]].device, torch.float32)


def _check_features(config: DreamConfig, settings: Settings) -> None:
    """Compares what LeRobot gives and wants with the policy, and completes the configuration."""
    named = list(config.image_features)
    if len(named) != settings.views:
        raise ValueError(
            f"input_features has {_count(len(named), 'view')} ({', '.join(named)}); the policy takes {settings.views}"
        )
    size = settings.image_size
    for name, feature in config.image_features.items():
        _, height, width = feature.shape
        if size is not None and size != (width, height):
            raise ValueError(
                f"`{name}` of input_features is {width}x{height} pixels; the artifact was built for {size[0]}x{size[1]}"
            )
    state = config.robot_state_feature
    if settings.proprio_dim is not None and (state is None or tuple(state.shape) != (settings.proprio_dim,)):
        found = "missing" if state is None else list(state.shape)
        raise ValueError(f"`{OBS_STATE}` of input_features is {found}; the policy takes [{settings.proprio_dim}]")
    action = config.action_feature
    if action is None or tuple(action.shape) != (settings.action_dim,):
        found = "missing" if action is None else list(action.shape)
        raise ValueError(f"`{ACTION}` is {found} in LeRobot's environment or data set; the policy gives [{settings.action_dim}]")
    if config.chunk_size not in (None, settings.chunk):
        raise ValueError(f"chunk_size is {config.chunk_size}; the policy gives {settings.chunk} actions")
    if config.n_action_steps is not None and config.n_action_steps > settings.chunk:
        raise ValueError(f"n_action_steps is {config.n_action_steps}; the policy gives {settings.chunk} actions")
    config.chunk_size = settings.chunk


def _field(batch: dict[str, Any], name: str, names: list[str]) -> Tensor:
    value = batch.get(name)
    if value is None:
        others = ", ".join(key for key in batch if key.startswith("observation.")) or "nothing"
        raise ValueError(
            f"the batch has no `{name}`; the policy takes {', '.join(names)}, and the batch has {others}"
            " (--rename_map gives them other names)"
        )
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` is of type {type(value).__name__}; it must be a tensor")
    return value


def _pixels(name: str, value: Tensor, size: tuple[int, int] | None) -> list[Image]:
    """The images of a view: uint8 [height, width, 3] of [B, 3, height, width] from 0 to 1."""
    shape = list(value.shape)
    if value.ndim != 4 or value.shape[1] != 3:
        raise ValueError(f"`{name}` is {shape}; it must be [rows, 3, height, width]")
    if value.dtype != torch.uint8:
        if not value.dtype.is_floating_point:
            raise ValueError(f"`{name}` is of {value.dtype}; it must be of floats from 0 to 1, or uint8")
        value = value.detach().to("cpu", torch.float32)
        low, high = (float(bound) for bound in torch.aminmax(value))
        if not (-TOLERANCE <= low and high <= 1 + TOLERANCE):
            raise ValueError(
                f"`{name}` is from {low:.4g} to {high:.4g}; it must be from 0 to 1: no step of policy_preprocessor.json may"
                " normalise it"
            )
        value = (255 * value).round().to(torch.uint8)
    height, width = shape[2:]
    if size is not None and size != (width, height):
        raise ValueError(f"`{name}` is {width}x{height} pixels; the artifact was built for {size[0]}x{size[1]}")
    return list(value.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy())


def _numbers(name: str, value: Any, shape: tuple[int, int | None]) -> Floats | None:
    """The state, float64 [B, proprio_dim], where the policy takes it."""
    if shape[1] is None:
        return None
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        found = list(value.shape) if isinstance(value, Tensor) else "missing"
        raise ValueError(f"`{name}` is {found}; the policy takes {list(shape)}, in the robot's units")
    numbers: Floats = value.detach().to("cpu", torch.float64).numpy()
    return numbers


def _noise(value: Any, shape: tuple[int, int, int]) -> Floats | None:
    if value is None:
        return None
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"`noise` is {found}; it must be {list(shape)}")
    noise: Floats = value.detach().to("cpu", torch.float64).numpy()
    return noise


def _tasks(value: Any, otherwise: str | None, rows: int) -> list[str]:
    """What the robot is told, for each row."""
    tasks = [value] * rows if isinstance(value, str) or value is None else list(value)
    if len(tasks) != rows:
        raise ValueError(f"`task` has {_count(len(tasks), 'text')}; it must have {rows}, one for each row")
    told = [task or otherwise for task in tasks]
    if any(not isinstance(task, str) or not task for task in told):
        raise ValueError("`task` is missing or empty; the batch must say what the robot is to do, or --policy.task=TEXT")
    return [str(task) for task in told]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"

"""The table as an environment of LeRobot's commands: ``--env.type=tabletop --env.discover_packages_path=gym_tabletop``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from . import env
from .scene import ACTION_DIM, PROPRIO_DIM, SIDE


@EnvConfig.register_subclass("tabletop")
@dataclass
class TabletopEnv(EnvConfig):
    """One view ``observation.images.image`` and the state ``observation.state``. The instruction is the environment's."""

    task: str | None = env.TASK
    fps: int = 10
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            ACTION: PolicyFeature(FeatureType.ACTION, (ACTION_DIM,)),
            "pixels/image": PolicyFeature(FeatureType.VISUAL, (SIDE, SIDE, 3)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (PROPRIO_DIM,)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            ACTION: ACTION,
            "pixels/image": f"{OBS_IMAGES}.image",
            "agent_pos": OBS_STATE,
        }
    )

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """What `gymnasium.make` is told."""
        return {"render_mode": "rgb_array"}

"""The table as an environment of gymnasium: ``gymnasium.make("gym_tabletop.env:gym_tabletop/Pick-v0")``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from .scene import ACTION_DIM, ACTIONS_MAX, PROPRIO_DIM, SIDE, STEP_MAX, Frame, Scene

#: Namespace and name by which gymnasium knows it.
TASK = "Pick-v0"
ID = f"gym_tabletop/{TASK}"

Observation = dict[str, Any]


class Pick(gym.Env[Observation, npt.NDArray[np.float32]]):
    """Pick up the block that the instruction names.

    Observations are ``pixels`` {``image``: uint8 [112, 112, 3]} and ``agent_pos``, float64 [2]: where the gripper is. Actions
    are float32 [7]: x and y in pixels (-10 to 10), four that mean nothing, the gripper (1 open, 0 closed). An episode terminates
    when the gripper closes and is truncated after 30 actions; the reward is 1 where it closes on the right block. The seed of
    `reset` is that of the scene; without one, scenes follow from the last seed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    #: LeRobot's commands read these three.
    _max_episode_steps = ACTIONS_MAX
    task = TASK

    @property
    def task_description(self) -> str:
        """What the robot is told."""
        return self._scene.instruction

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; it must be 'rgb_array' or None")
        self.render_mode = render_mode
        image = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict({"image": image}),
                "agent_pos": gym.spaces.Box(0, SIDE - 1, (PROPRIO_DIM,), np.float64),
            }
        )
        # Policies may ask for more pixels; the robot moves so many then.
        self.action_space = gym.spaces.Box(-STEP_MAX, STEP_MAX, (ACTION_DIM,), np.float32)
        self._scene = Scene.from_seed(0)
        self._actions = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode with the scene of ``seed``."""
        super().reset(seed=seed)
        self._scene = Scene.from_seed(int(self.np_random.integers(1 << 32)) if seed is None else seed)
        self._actions = 0
        return self._observation(), {"is_success": False}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves the gripper, and closes it."""
        self._scene, closed = self._scene.after(action)
        self._actions += 1
        success = closed and self._scene.on_goal
        truncated = not closed and self._actions >= ACTIONS_MAX
        return self._observation(), float(success), closed, truncated, {"is_success": success}

    def render(self) -> Frame | None:
        """The frame."""
        return None if self.render_mode is None else self._scene.frame()

    def _observation(self) -> Observation:
        return {"pixels": {"image": self._scene.frame()}, "agent_pos": self._scene.proprio()}


# Without wrappers, which would hide `task_description`. It ends its episodes itself.
gym.register(ID, entry_point=f"{__name__}:Pick", order_enforce=False)

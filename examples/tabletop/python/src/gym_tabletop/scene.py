"""The table: blocks and a gripper, made from a seed, drawn in integers, so that every frame is the same everywhere.

The task is specified in `golden/fixtures/tabletop-vla/tabletop.md`; the crate `tabletop` is the same in Rust. This module needs
numpy and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

#: Pixels of a frame's side.
SIDE = 112
#: Numbers of an action: x and y in pixels, four that mean nothing here, the gripper.
ACTION_DIM = 7
#: Numbers of the robot's state: where the gripper is.
PROPRIO_DIM = 2
#: How often the policy is asked.
QUERIES_MAX = 6
#: After so many actions an episode ends.
ACTIONS_MAX = 30
#: Pixels that a step moves at most, on each axis.
STEP_MAX = 10
#: Where in an action the gripper is.
GRIPPER = ACTION_DIM - 1

#: Colours in the order in which blocks are placed and drawn.
COLOURS = {"red": (216, 40, 40), "green": (40, 184, 56), "blue": (48, 80, 232)}
#: Colours of their edges, and of the gripper and its centre.
EDGE, HAND, CENTRE = (30, 30, 30), (250, 250, 250), (250, 220, 0)

# Blocks are at least this far apart on one axis.
_APART = 20
# Block centres and the gripper start this far from the edge, in a square of this size.
_MARGIN, _SPREAD = 12, 88
# How far from the block's centre the gripper may close, on each axis.
_TOLERANCE = 6

#: A point of the frame: x to the right, y down, in pixels.
Point = tuple[int, int]
#: A frame: uint8 [SIDE, SIDE, 3], row 0 at the top, red first.
Frame = npt.NDArray[np.uint8]


class _Random:
    """splitmix64."""

    _MASK = (1 << 64) - 1

    def __init__(self, seed: int) -> None:
        self._state = seed & self._MASK

    def _next(self) -> int:
        self._state = (self._state + 0x9E37_79B9_7F4A_7C15) & self._MASK
        z = ((self._state ^ (self._state >> 30)) * 0xBF58_476D_1CE4_E5B9) & self._MASK
        z = ((z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB) & self._MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        return self._next() % n

    def point(self) -> Point:
        # x is drawn before y.
        x = _MARGIN + self.below(_SPREAD)
        return x, _MARGIN + self.below(_SPREAD)


@dataclass(frozen=True)
class Scene:
    """What lies on the table, and what is asked for."""

    blocks: tuple[Point, Point, Point]
    """Centres of the red, green and blue block."""
    grip: Point
    """The gripper."""
    target: int
    """Which block is asked for."""
    phrase: int
    """How it is asked for: 0 "pick up", 1 "grab"."""

    @staticmethod
    def from_seed(seed: int) -> Scene:
        """The scene of a seed."""
        random = _Random(seed)
        blocks: list[Point] = []
        while len(blocks) < len(COLOURS):
            x, y = random.point()
            if all(max(abs(x - a), abs(y - b)) >= _APART for a, b in blocks):
                blocks.append((x, y))
        red, green, blue = blocks
        grip = random.point()
        target = random.below(len(COLOURS))
        return Scene((red, green, blue), grip, target, random.below(2))

    @property
    def instruction(self) -> str:
        """What the robot is told."""
        return f"{'grab' if self.phrase else 'pick up'} the {list(COLOURS)[self.target]} block"

    @property
    def goal(self) -> Point:
        """Centre of the block that is asked for."""
        return self.blocks[self.target]

    @property
    def on_goal(self) -> bool:
        """Whether the gripper is where it may close."""
        return max(abs(g - t) for g, t in zip(self.grip, self.goal)) <= _TOLERANCE

    def proprio(self) -> npt.NDArray[np.float64]:
        """The robot's state: float64 [2], where the gripper is."""
        return np.array(self.grip, np.float64)

    def frame(self) -> Frame:
        """The camera's view: uint8 [SIDE, SIDE, 3]."""
        y, x = np.mgrid[:SIDE, :SIDE]
        frame = np.stack([96 + x // 2, 96 + y // 2, np.full_like(x, 120)], axis=-1)
        frame[(x // 16 + y // 16) % 2 == 1] -= 8
        frame = frame.astype(np.uint8)
        for block, colour in zip(self.blocks, COLOURS.values()):
            _rectangle(frame, block, (7, 7), EDGE)
            _rectangle(frame, block, (6, 6), colour)
        _rectangle(frame, self.grip, (1, 9), HAND)
        _rectangle(frame, self.grip, (9, 1), HAND)
        _rectangle(frame, self.grip, (2, 2), CENTRE)
        return frame

    def after(self, action: Sequence[float] | npt.NDArray[np.floating]) -> tuple[Scene, bool]:
        """The scene after an action [ACTION_DIM], and whether the gripper closed, which ends an episode.

        Raises:
            ValueError: if the action has another length.
        """
        if len(action) != ACTION_DIM:
            raise ValueError(f"the action has {len(action)} numbers; this robot's have {ACTION_DIM}")
        x, y = (_moved(at, float(by)) for at, by in zip(self.grip, action))
        return replace(self, grip=(x, y)), float(action[GRIPPER]) <= 0.5


@dataclass(frozen=True)
class Outcome:
    """How an episode ended."""

    success: bool
    """Whether the gripper closed on the block that was asked for."""
    closed: bool
    """Whether it closed at all."""
    actions: int
    """Actions taken."""
    scene: Scene
    """What the table looks like then."""


def episode(
    scene: Scene, policy: Callable[[Scene], Sequence[Sequence[float]] | npt.NDArray[np.floating]]
) -> Outcome:
    """Runs an episode. ``policy`` gives a chunk of actions [chunk, ACTION_DIM] for the scene as it is."""
    actions = 0
    for _ in range(QUERIES_MAX):
        for action in policy(scene):
            scene, closed = scene.after(action)
            actions += 1
            if closed:
                return Outcome(scene.on_goal, True, actions, scene)
            if actions == ACTIONS_MAX:
                return Outcome(False, False, actions, scene)
    return Outcome(False, False, actions, scene)


def _moved(at: int, by: float) -> int:
    # Clamped before it is an integer: a number may be huge.
    step = int(min(max(math.floor(by + 0.5) if math.isfinite(by) else by, -STEP_MAX), STEP_MAX))
    return min(max(at + step, 0), SIDE - 1)


def _rectangle(frame: Frame, centre: Point, half: tuple[int, int], colour: tuple[int, int, int]) -> None:
    (x, y), (w, h) = centre, half
    # Parts outside the frame are cut off.
    frame[max(y - h, 0) : max(y + h + 1, 0), max(x - w, 0) : max(x + w + 1, 0)] = colour

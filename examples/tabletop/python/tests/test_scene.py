"""The scene against frames and scenes that were made elsewhere."""

import hashlib
import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

import numpy as np

from gym_tabletop.scene import ACTIONS_MAX, GRIPPER, SIDE, Scene, episode

FRAMES = Path(
    os.environ.get(
        "TABLETOP_FRAMES", Path(__file__).resolve().parents[4] / "golden/fixtures/tabletop-vla/frames"
    )
)


def expert(scene: Scene) -> "list[list[float]]":
    """Chunks of the training data."""
    chunk, grip = [], scene.grip
    for _ in range(5):
        dx, dy = (min(max(t - g, -10), 10) for t, g in zip(scene.goal, grip))
        chunk.append([dx, dy, 0, 0, 0, 0, float(grip != scene.goal)])
        grip = (grip[0] + dx, grip[1] + dy)
    return chunk


def action(dx: float, dy: float, gripper: float = 1.0) -> "list[float]":
    return [dx, dy, 0, 0, 0, 0, gripper]


class Scenes(unittest.TestCase):
    def test_scenes_and_frames_are_those_of_the_fixture(self) -> None:
        scenes = json.loads((FRAMES / "scenes.json").read_text())
        self.assertEqual(len(scenes), 8)
        for expected in scenes:
            with self.subTest(seed=expected["seed"]):
                scene = Scene.from_seed(expected["seed"])
                self.assertEqual([list(block) for block in scene.blocks], expected["blocks"])
                self.assertEqual(list(scene.grip), expected["grip"])
                self.assertEqual((scene.target, scene.phrase), (expected["target"], expected["phrase"]))
                self.assertEqual(scene.instruction, expected["instruction"])
                frame = scene.frame()
                self.assertEqual((frame.shape, frame.dtype), ((SIDE, SIDE, 3), np.uint8))
                self.assertEqual(hashlib.sha256(frame.tobytes()).hexdigest(), expected["sha256"])

    def test_gripper_is_cut_off_at_the_edge(self) -> None:
        scene = Scene.from_seed(0)
        for _ in range(12):
            scene, _ = scene.after(action(-10, -10))
        self.assertEqual(scene.grip, (0, 0))
        frame = scene.frame()
        np.testing.assert_array_equal(frame[0, :4], [(250, 220, 0)] * 3 + [(250, 250, 250)])

    def test_module_needs_numpy_alone(self) -> None:
        script = (
            "import sys, gym_tabletop.scene\n"
            "print(*(name for name in ('gymnasium', 'lerobot', 'torch') if name in sys.modules))"
        )
        command = [sys.executable, "-c", script]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        self.assertEqual(run.stdout.strip(), "")


class Episodes(unittest.TestCase):
    def test_steps_round_half_up_and_are_clamped(self) -> None:
        scene = Scene((((0, 0), (50, 50), (90, 90))), (50, 50), 0, 0)
        for dx, moved in [(0.49, 0), (0.5, 1), (-0.5, 0), (-0.51, -1), (9.7, 10), (1e30, 10), (-np.inf, -10)]:
            after, closed = scene.after(action(dx, 0))
            self.assertEqual((after.grip, closed), ((50 + moved, 50), False), dx)

    def test_first_close_decides(self) -> None:
        scene = Scene(((50, 50), (10, 10), (90, 90)), (50, 50), 0, 0)
        self.assertTrue(scene.after(action(6, -6, 0.5))[0].on_goal)
        self.assertTrue(scene.after(action(6, -6, 0.5))[1])
        self.assertFalse(scene.after(action(7, 0))[0].on_goal)
        missed = episode(scene, lambda scene: [action(7, 0, 0.0)])
        self.assertEqual((missed.success, missed.closed, missed.actions), (False, True, 1))

    def test_episode_ends_without_a_close(self) -> None:
        for chunk in (5, 8):
            outcome = episode(Scene.from_seed(3), lambda scene: [action(0, 0)] * chunk)
            self.assertEqual((outcome.success, outcome.closed, outcome.actions), (False, False, ACTIONS_MAX))

    def test_expert_succeeds(self) -> None:
        for seed in range(200):
            outcome = episode(Scene.from_seed(seed), expert)
            self.assertTrue(outcome.success, seed)
            self.assertEqual(outcome.scene.grip, outcome.scene.goal)

    def test_action_of_another_length_is_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "the action has 6 numbers; this robot's have 7"):
            Scene.from_seed(0).after(action(0, 0)[:GRIPPER])


if __name__ == "__main__":
    unittest.main()

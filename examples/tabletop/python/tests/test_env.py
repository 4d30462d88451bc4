"""The environment in gymnasium, and in LeRobot where that is installed."""

import importlib.util
import unittest

import numpy as np

from gym_tabletop.scene import ACTIONS_MAX, Scene

HAS_GYMNASIUM = importlib.util.find_spec("gymnasium") is not None
HAS_LEROBOT = HAS_GYMNASIUM and importlib.util.find_spec("lerobot") is not None


@unittest.skipUnless(HAS_GYMNASIUM, "gymnasium is not installed")
class Gymnasium(unittest.TestCase):
    def setUp(self) -> None:
        import gymnasium

        self.env = gymnasium.make("gym_tabletop.env:gym_tabletop/Pick-v0", disable_env_checker=True)
        self.addCleanup(self.env.close)

    def test_checker_is_content(self) -> None:
        from gymnasium.utils.env_checker import check_env

        check_env(self.env.unwrapped, skip_render_check=True)

    def test_seed_is_that_of_the_scene(self) -> None:
        observation, _ = self.env.reset(seed=5)
        scene = Scene.from_seed(5)
        np.testing.assert_array_equal(observation["pixels"]["image"], scene.frame())
        np.testing.assert_array_equal(observation["agent_pos"], scene.grip)
        self.assertEqual(self.env.task_description, scene.instruction)
        self.assertEqual(self.env._max_episode_steps, ACTIONS_MAX)
        np.testing.assert_array_equal(self.env.render(), scene.frame())

    def test_scenes_without_a_seed_follow_from_the_last(self) -> None:
        def frames() -> "list[bytes]":
            self.env.reset(seed=1)
            return [self.env.reset()[0]["pixels"]["image"].tobytes() for _ in range(3)]

        first = frames()
        self.assertEqual(len(set(first)), 3)
        self.assertEqual(frames(), first)

    def test_episode_terminates_when_the_gripper_closes(self) -> None:
        for seed in range(20):
            self.env.reset(seed=seed)
            scene, action = Scene.from_seed(seed), np.zeros(7, np.float32)
            action[:2] = np.subtract(scene.goal, scene.grip)
            after, _ = scene.after(action)
            _, reward, terminated, truncated, info = self.env.step(action)
            self.assertEqual((terminated, truncated), (True, False))
            self.assertEqual((info["is_success"], reward), (after.on_goal, float(after.on_goal)))

    def test_episode_is_truncated_after_30_actions(self) -> None:
        self.env.reset(seed=0)
        action = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
        ends = [self.env.step(action)[2:4] for _ in range(ACTIONS_MAX)]
        self.assertEqual(ends, [(False, False)] * (ACTIONS_MAX - 1) + [(False, True)])


@unittest.skipUnless(HAS_LEROBOT, "lerobot is not installed")
class LeRobot(unittest.TestCase):
    def test_factory_makes_it_with_its_instruction(self) -> None:
        from lerobot.envs.factory import make_env
        from lerobot.envs.utils import env_to_policy_features, preprocess_observation

        from gym_tabletop.lerobot import TabletopEnv

        config = TabletopEnv()
        self.assertEqual((config.type, config.gym_id), ("tabletop", "gym_tabletop/Pick-v0"))
        shapes = {name: tuple(feature.shape) for name, feature in env_to_policy_features(config).items()}
        image, state = "observation.images.image", "observation.state"
        self.assertEqual(shapes, {"action": (7,), image: (3, 112, 112), state: (2,)})
        envs = make_env(config, n_envs=2)["tabletop"][0]
        self.addCleanup(envs.close)
        batch = preprocess_observation(envs.reset(seed=[3, 4])[0])
        scenes = [Scene.from_seed(seed) for seed in (3, 4)]
        # No wrapper may hide it.
        self.assertTrue(hasattr(envs.envs[0], "task_description"))
        self.assertEqual(list(envs.call("task_description")), [scene.instruction for scene in scenes])
        pixels = (255 * batch[image]).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(pixels, [scene.frame() for scene in scenes])
        np.testing.assert_array_equal(batch[state], [scene.grip for scene in scenes])


if __name__ == "__main__":
    unittest.main()

"""The policy as LeRobot uses it. `DREAM_POLICY` is a folder that `dreamc export lerobot` made of tabletop-vla-flow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

import dream
from lerobot_policy_dream import DreamConfig
from lerobot_policy_dream.modeling_dream import DreamPolicy
from lerobot_policy_dream.remote import RemoteError

FOLDER = Path(os.environ["DREAM_POLICY"]).absolute()
ARTIFACT = FOLDER / json.loads((FOLDER / "config.json").read_text())["artifact"]
IMAGE, STATE = "observation.images.image", "observation.state"
TASK = "pick up the red block"
CHUNK, ACTION_DIM = 5, 7


def frames(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 112, 112, 3), dtype=np.uint8)


def batch(rows: int = 1, **changes: Any) -> dict[str, Any]:
    """What the preprocessor hands to the policy."""
    image = torch.from_numpy(frames(rows)).permute(0, 3, 1, 2).contiguous().float() / 255
    whole = {IMAGE: image, STATE: torch.arange(2.0 * rows).reshape(rows, 2), "task": [TASK] * rows, "action": None}
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def config(**changes: Any) -> DreamConfig:
    """The configuration of the folder, changed."""
    made = PreTrainedConfig.from_pretrained(FOLDER)
    assert isinstance(made, DreamConfig)
    for name, value in changes.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    made.__post_init__()
    return made


def policy(**changes: Any) -> DreamPolicy:
    return DreamPolicy.from_pretrained(FOLDER, config=config(threads=1, **changes))


def visual(height: int, width: int) -> PolicyFeature:
    return PolicyFeature(FeatureType.VISUAL, (3, height, width))


@contextlib.contextmanager
def served(*options: str, port: int = 0) -> Iterator[int]:
    """A server of its own process, and its port."""
    command = [sys.executable, "-m", "dream.serve", str(ARTIFACT), "--threads", "1", "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line + process.stderr.read()
        yield int(found[1])
    finally:
        process.kill()
        process.communicate()


class Chunks(unittest.TestCase):
    def reference(self, row: int, seed: int, rows: int = 1) -> np.ndarray:
        """The chunk of a row of `batch(rows)`, without LeRobot."""
        with dream.load(ARTIFACT, threads=1) as opened:
            state = [2.0 * row, 2.0 * row + 1]
            return opened.act([frames(rows)[row]], TASK, state, seed=seed).actions.astype(np.float32)

    def test_chunk_is_that_of_the_runtime_for_every_row_and_query(self) -> None:
        asked = policy(seed=3)
        first, second = asked.predict_action_chunk(batch(2)), asked.predict_action_chunk(batch(2))
        self.assertEqual((first.shape, first.dtype), ((2, CHUNK, ACTION_DIM), torch.float32))
        for chunk, seeds in ((first, (3, 4)), (second, (5, 6))):
            for row, seed in enumerate(seeds):
                np.testing.assert_array_equal(chunk[row].numpy(), self.reference(row, seed, rows=2))

    def test_queue_gives_n_action_steps_and_reset_drops_the_rest(self) -> None:
        asked = policy(n_action_steps=3)
        got = [asked.select_action(batch(2)) for _ in range(4)]
        self.assertEqual({tuple(action.shape) for action in got}, {(2, ACTION_DIM)})
        self.assertEqual(len(asked._action_queue), 2)
        asked.reset()
        self.assertEqual(len(asked._action_queue), 0)
        got.append(asked.select_action(batch(2)))
        # Queries are counted on, row by row.
        for at, (seed, action) in enumerate([(0, 0), (0, 1), (0, 2), (2, 0), (4, 0)]):
            np.testing.assert_array_equal(got[at][0].numpy(), self.reference(0, seed, rows=2)[action], str(at))

    def test_uint8_views_are_taken_as_they_are(self) -> None:
        image = torch.from_numpy(frames(1)).permute(0, 3, 1, 2)
        got = policy().predict_action_chunk(batch(**{IMAGE: image}))
        np.testing.assert_array_equal(got[0].numpy(), self.reference(0, 0))

    def test_noise_replaces_that_of_the_seed(self) -> None:
        noise = torch.randn(1, CHUNK, ACTION_DIM)
        got = [policy(seed=seed).predict_action_chunk(batch(), noise=noise) for seed in (0, 9)]
        self.assertTrue(torch.equal(*got))
        self.assertFalse(torch.equal(got[0], policy().predict_action_chunk(batch())))
        with self.assertRaisesRegex(ValueError, r"`noise` is \[5, 7\]; it must be \[1, 5, 7\]"):
            policy().predict_action_chunk(batch(), noise=noise[0])

    def test_gripper_of_libero(self) -> None:
        own, turned = policy().predict_action_chunk(batch()), policy(gripper="libero").predict_action_chunk(batch())
        self.assertTrue(torch.equal(own[..., :-1], turned[..., :-1]))
        self.assertTrue(torch.equal(turned[..., -1], -torch.sign(2 * own[..., -1] - 1)))

    def test_task_of_the_configuration_fills_in(self) -> None:
        expected = policy().predict_action_chunk(batch(2))
        for task in (None, "", ["", TASK], [TASK, ""]):
            self.assertTrue(torch.equal(policy(task=TASK).predict_action_chunk(batch(2, task=task)), expected), task)
        self.assertTrue(torch.equal(policy(task="other").predict_action_chunk(batch(2)), expected))

    def test_real_time_chunking_is_not_done(self) -> None:
        with self.assertLogs(level="WARNING") as logged:
            left_over = torch.zeros(3, ACTION_DIM)
            got = policy().predict_action_chunk(batch(), inference_delay=2, prev_chunk_left_over=left_over)
        self.assertIn("no real-time chunking", logged.output[-1])
        np.testing.assert_array_equal(got[0].numpy(), self.reference(0, 0))


class Refusals(unittest.TestCase):
    def refused(self, message: str, kind: type[Exception] = ValueError) -> Any:
        return self.assertRaisesRegex(kind, message)

    def test_batches(self) -> None:
        asked = policy()
        image = batch()[IMAGE]
        for message, changes in [
            ("no `observation.images.image`; the policy takes .* the batch has observation.state", {IMAGE: None}),
            (r"image` is \[1, 112, 112, 3\]; it must be \[rows, 3, height, width\]", {IMAGE: image.permute(0, 2, 3, 1)}),
            (r"image` is \[3, 112, 112\]", {IMAGE: image[0]}),
            ("image` is 56x112 pixels; the artifact was built for 112x112", {IMAGE: image[..., ::2]}),
            ("image` is from -1 to 1; it must be from 0 to 1", {IMAGE: torch.linspace(-1, 1, image.numel()).reshape(image.shape)}),
            ("image` is from nan to nan", {IMAGE: image * torch.nan}),
            ("image` is of torch.int64", {IMAGE: image.long()}),
            (r"state` is missing; the policy takes \[1, 2\]", {STATE: None}),
            (r"state` is \[1, 3\]; the policy takes \[1, 2\]", {STATE: torch.zeros(1, 3)}),
            (r"state` is \[2, 2\]; the policy takes \[1, 2\]", {STATE: torch.zeros(2, 2)}),
            ("`task` is missing or empty; .* --policy.task=TEXT", {"task": None}),
            ("`task` is missing or empty", {"task": [""]}),
            ("`task` has 2 texts; it must have 1", {"task": [TASK, TASK]}),
        ]:
            with self.subTest(message), self.refused(message):
                asked.predict_action_chunk(batch(**changes))
        with self.refused("image` is of type ndarray; it must be a tensor", TypeError):
            asked.predict_action_chunk(batch(**{IMAGE: frames(1)}))

    def test_features(self) -> None:
        views, state = {IMAGE: visual(112, 112)}, {STATE: PolicyFeature(FeatureType.STATE, (2,))}
        action = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
        for message, changes in [
            ("input_features has no view", {"input_features": state}),
            (r"has 2 views \(observation.images.image, observation.images.wrist\); the policy takes 1",
             {"input_features": {**views, "observation.images.wrist": visual(112, 112), **state}}),
            ("`observation.images.image` of input_features is 256x112 pixels; .* 112x112",
             {"input_features": {IMAGE: visual(112, 256), **state}}),
            (r"image` of input_features is \[112, 112, 3\]; it must be \[3, height, width\]",
             {"input_features": {IMAGE: PolicyFeature(FeatureType.VISUAL, (112, 112, 3)), **state}}),
            (r"`observation.state` of input_features is missing; the policy takes \[2\]", {"input_features": views}),
            (r"`observation.state` of input_features is \[8\]; the policy takes \[2\]",
             {"input_features": {**views, STATE: PolicyFeature(FeatureType.STATE, (8,))}}),
            (r"`action` is \[4\] in LeRobot's environment or data set; the policy gives \[7\]",
             {"output_features": {"action": PolicyFeature(FeatureType.ACTION, (4,))}}),
            ("`action` of output_features is missing", {"output_features": {}}),
            ("chunk_size is 8; the policy gives 5 actions", {"chunk_size": 8}),
            ("n_action_steps is 6; the policy gives 5 actions", {"chunk_size": None, "n_action_steps": 6}),
        ]:
            with self.subTest(message), self.refused(message):
                policy(**changes)
        policy(input_features={**views, **state}, output_features=action)

    def test_configurations(self) -> None:
        for message, changes in [
            ("gripper is 'aloha'; it must be one of none, libero", {"gripper": "aloha"}),
            ("runtime_device is 'tpu'; it must be one of auto, cpu, .*", {"runtime_device": "tpu"}),
            ("url is 'http://robot'; it must begin with ws:// or wss://", {"url": "http://robot"}),
            ("n_action_steps is 0; it must be at least 1", {"n_action_steps": 0}),
            ("n_action_steps is 6; it must be at most 5", {"n_action_steps": 6}),
            ("threads is -1; it must be at least 0", {"threads": -1}),
            ("n_obs_steps is 2; it must be 1", {"n_obs_steps": 2}),
        ]:
            with self.subTest(message), self.refused(message):
                config(**changes)

    def test_artifacts(self) -> None:
        with self.refused("artifact is `.*none.dream`, where there is no file; .* --policy.artifact=FILE", FileNotFoundError):
            policy(artifact="none.dream")
        with self.refused("artifact is missing; .* or url a server"):
            policy(artifact=None)
        with tempfile.TemporaryDirectory() as folder, self.assertRaises(dream.DreamError):
            Path(folder, "cut.dream").write_bytes(ARTIFACT.read_bytes()[:1000])
            policy(artifact=str(Path(folder, "cut.dream")))

    def test_training(self) -> None:
        asked = policy()
        for train in (lambda: asked.forward(batch()), asked.get_optim_params, asked.config.get_optimizer_preset):
            with self.refused("compiled and cannot be trained", NotImplementedError):
                train()


class Interface(unittest.TestCase):
    def test_lerobot_finds_policy_and_processors(self) -> None:
        self.assertIs(get_policy_class("dream"), DreamPolicy)
        renamed = {"rename_map": {"observation.images.cam": IMAGE}}
        override = {"device_processor": {"device": "cpu"}, "rename_observations_processor": renamed}
        image = torch.from_numpy(frames(1)[0]).permute(2, 0, 1).float() / 255
        for folder, overrides in ((str(FOLDER), {"preprocessor_overrides": override}), (None, {})):
            before, after = make_pre_post_processors(config(), folder, **overrides)
            name = "observation.images.cam" if folder else IMAGE
            made = before({name: image, STATE: torch.tensor([0.0, 1.0]), "task": TASK})
            self.assertEqual((tuple(made[IMAGE].shape), made["task"]), ((1, 3, 112, 112), [TASK]))
            action = after(policy().select_action(made))
            self.assertEqual(tuple(action.shape), (1, ACTION_DIM))
            self.assertTrue(torch.equal(action, policy().select_action(batch())))

    def test_configuration_takes_overrides_and_survives_a_round_trip(self) -> None:
        overrides = ["--url=ws://127.0.0.1:1", "--gripper=libero", "--n_action_steps=2", "--task=a b", "--threads=1"]
        made = PreTrainedConfig.from_pretrained(FOLDER, cli_overrides=overrides)
        assert isinstance(made, DreamConfig)
        self.assertEqual((made.url, made.gripper, made.n_action_steps, made.task), ("ws://127.0.0.1:1", "libero", 2, "a b"))
        self.assertEqual(list(made.image_features), [IMAGE])
        self.assertEqual(made.action_delta_indices, [0, 1, 2, 3, 4])
        with tempfile.TemporaryDirectory() as folder:
            made.save_pretrained(folder)
            self.assertEqual(PreTrainedConfig.from_pretrained(folder), made)

    def test_policy_without_a_folder_learns_its_chunk(self) -> None:
        plain = config(artifact=str(ARTIFACT), chunk_size=None, n_action_steps=None)
        asked = DreamPolicy(plain, dataset_stats={}, dataset_meta=None)
        self.assertEqual((plain.chunk_size, plain.action_delta_indices), (CHUNK, [0, 1, 2, 3, 4]))
        self.assertEqual(asked.predict_action_chunk(batch()).shape, (1, CHUNK, ACTION_DIM))

    def test_saved_policy_is_the_same(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            policy().save_pretrained(folder)
            again = DreamPolicy.from_pretrained(folder)
            self.assertTrue(torch.equal(again.select_action(batch()), policy().select_action(batch())))

    def test_repository_of_the_hub(self) -> None:
        def download(repo: str, filename: str, **options: Any) -> str:
            self.assertEqual((repo, options["revision"]), ("someone/robot", "v1"))
            return str(FOLDER / filename)

        with unittest.mock.patch("lerobot_policy_dream.modeling_dream.hf_hub_download", download):
            asked = DreamPolicy.from_pretrained("someone/robot", config=config(), revision="v1")
        self.assertTrue(torch.equal(asked.select_action(batch()), policy().select_action(batch())))


class Served(unittest.TestCase):
    def test_served_chunks_are_the_same_to_the_bit(self) -> None:
        noise = torch.randn(2, CHUNK, ACTION_DIM)
        with served() as port:
            asked, own = policy(url=f"ws://127.0.0.1:{port}", artifact=None), policy()
            for options in ({}, {}, {"noise": noise}):
                chunks = [each.predict_action_chunk(batch(2), **options) for each in (asked, own)]
                self.assertTrue(torch.equal(*chunks))

    def test_refusals_name_server_and_field(self) -> None:
        with served() as port:
            asked = policy(url=f"ws://127.0.0.1:{port}")
            with self.assertRaisesRegex(ValueError, r"`observation.state` of input_features is missing"):
                policy(url=f"ws://127.0.0.1:{port}", input_features={IMAGE: visual(112, 112)})
            with self.assertRaisesRegex(RemoteError, rf"ws://127.0.0.1:{port} refuses the request: the prompt has"):
                asked.predict_action_chunk(batch(task=["word " * 200]))
            self.assertEqual(asked.predict_action_chunk(batch()).shape, (1, CHUNK, ACTION_DIM))

    def test_connection_is_made_anew(self) -> None:
        with served() as port:
            asked = policy(url=f"ws://127.0.0.1:{port}")
            first = asked.predict_action_chunk(batch())
        with self.assertRaisesRegex(RemoteError, rf"url is ws://127.0.0.1:{port}, where no server answers"):
            asked.predict_action_chunk(batch())
        with served(port=port):
            own = policy(seed=2)
            self.assertTrue(torch.equal(asked.predict_action_chunk(batch()), own.predict_action_chunk(batch())))
        self.assertEqual(first.shape, (1, CHUNK, ACTION_DIM))

    def test_token(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            token = Path(folder, "token")
            token.write_text("a-token-of-some-length-for-the-server\n")
            with served("--token-file", str(token)) as port:
                url = f"ws://127.0.0.1:{port}"
                with self.assertRaisesRegex(RemoteError, "refuses the connection: .*401"):
                    policy(url=url)
                asked = policy(url=url, token_file=str(token))
                self.assertTrue(torch.equal(asked.select_action(batch()), policy().select_action(batch())))

    def test_another_server_is_refused(self) -> None:
        from websockets.sync.server import serve
        import msgpack
        import threading

        for metadata, message in [
            ({}, "does not say what it serves .*; it must be `dreamc serve`"),
            (
                {"image_keys": ["a"], "image_resolution": None, "proprio_dim": 2, "action_horizon": 5, "action_dim": 7,
                 "gripper": "libero"},
                "started with `--gripper libero`; leave that to --policy.gripper=libero",
            ),
        ]:
            packed = msgpack.packb(metadata)
            with serve(lambda socket: socket.send(packed), "127.0.0.1", 0) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                port = server.socket.getsockname()[1]
                with self.subTest(message), self.assertRaisesRegex(RemoteError, message):
                    policy(url=f"ws://127.0.0.1:{port}")
                server.shutdown()


if __name__ == "__main__":
    unittest.main()

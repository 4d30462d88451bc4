"""The simulated robot, driven through each protocol: it solves the same episodes as in process, by the same actions."""

import asyncio
import unittest
from typing import Callable

import json_numpy
import numpy as np
import requests
import test_serve
import tritonclient.http as triton
from gym_tabletop.scene import Outcome, Scene, episode
from openpi_client import msgpack_numpy, websocket_client_policy
from vla_eval.connection import Connection
from websockets.sync.client import connect

import dream

SEEDS = range(3000, 3020)

Act = Callable[[Scene], np.ndarray]


def outcomes(act: Act) -> "list[Outcome]":
    return [episode(Scene.from_seed(seed), act) for seed in SEEDS]


class Driving(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.server = test_serve.Server()
        with dream.Policy(test_serve.FLOW) as policy:
            cls.wanted = outcomes(lambda scene: policy.act([scene.frame()], scene.instruction, scene.proprio()).actions)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.server.stop()

    def test_in_process(self) -> None:
        # The fixture's own count is 199 of 200.
        self.assertGreaterEqual(sum(outcome.success for outcome in self.wanted), len(SEEDS) - 1)

    def test_openvla(self) -> None:
        def act(scene: Scene) -> np.ndarray:
            body = {"full_image": scene.frame(), "instruction": scene.instruction, "state": scene.proprio()}
            answer = requests.post(f"{self.server.url}/act", data=json_numpy.dumps(body), headers=JSON, timeout=30)
            return np.array(json_numpy.loads(answer.text))

        self.assertEqual(outcomes(act), self.wanted)

    def test_openpi(self) -> None:
        client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", self.server.port)

        def act(scene: Scene) -> np.ndarray:
            names = {"observation/image": scene.frame(), "observation/state": scene.proprio()}
            return client.infer({**names, "prompt": scene.instruction})["actions"]

        self.assertEqual(outcomes(act), self.wanted)

    def test_vllm_omni(self) -> None:
        with connect(f"ws://127.0.0.1:{self.server.port}/v1/realtime/robot/openpi") as peer:
            peer.recv()

            def act(scene: Scene) -> np.ndarray:
                request = {"image": scene.frame(), "state": scene.proprio(), "prompt": scene.instruction}
                peer.send(msgpack_numpy.packb(request))
                return msgpack_numpy.unpackb(peer.recv())

            found = outcomes(act)
        # Its actions are rounded to float32.
        self.assertEqual([outcome.success for outcome in found], [outcome.success for outcome in self.wanted])

    def test_vla_eval(self) -> None:
        """The server keeps the chunk and gives an action for each observation."""

        async def drive() -> "list[Outcome]":
            peer = Connection(f"ws://127.0.0.1:{self.server.port}/vla-eval")
            await peer.connect(benchmark="tabletop")
            found = []
            for seed in SEEDS:
                scene, closed, actions = Scene.from_seed(seed), False, 0
                await peer.start_episode({"task": {"name": scene.instruction}})
                while not closed and actions < 30:
                    observation = {"images": {"front": scene.frame()}, "states": scene.proprio()}
                    action = await peer.act({**observation, "task_description": scene.instruction})
                    scene, closed = scene.after(action["actions"])
                    actions += 1
                await peer.end_episode({"metrics": {"success": closed and scene.on_goal}})
                found.append(Outcome(closed and scene.on_goal, closed, actions, scene))
            await peer.close()
            return found

        self.assertEqual(asyncio.run(drive()), self.wanted)

    def test_open_inference(self) -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{self.server.port}")
        self.addCleanup(client.close)

        def act(scene: Scene) -> np.ndarray:
            tensors = []
            for name, datatype, array in [
                ("image_0", "UINT8", scene.frame()),
                ("task", "BYTES", np.array([scene.instruction.encode()], np.object_)),
                ("proprio", "FP64", scene.proprio()),
            ]:
                tensors.append(triton.InferInput(name, array.shape, datatype))
                tensors[-1].set_data_from_numpy(array)
            return client.infer("policy", tensors).as_numpy("actions")

        self.assertEqual(outcomes(act), self.wanted)


JSON = {"Content-Type": "application/json"}

if __name__ == "__main__":
    unittest.main()

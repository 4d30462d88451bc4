"""The module against artifacts of the repository, in the folder that DREAM_ARTIFACTS names."""

import doctest
import json
import os
import resource
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

import numpy as np

import dream

ARTIFACTS = Path(os.environ["DREAM_ARTIFACTS"]).absolute()
#: The command, to compare with.
DREAMC = os.path.abspath(os.environ["DREAMC"])
FLOW = ARTIFACTS / "policy.dream"
TEXT = ARTIFACTS / "text.dream"
TASK = "push the red block to the green square"
#: Of the robot, in its own units.
STATE = [0.25, 0.5]


def frame(seed: int = 0) -> np.ndarray:
    """A picture of the size that the policy was built for."""
    return np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)


class Acting(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.policy = dream.Policy(FLOW, threads=1)

    def test_as_the_command_does(self) -> None:
        image = frame()
        path = ARTIFACTS / "frame.ppm.png"
        write_png(path, image)
        command = [DREAMC, "act", str(FLOW), "--task", TASK, "--image", str(path), "--proprio", "0.25,0.5", "--seed", "7", "--format", "json"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        chunk = self.policy.act([image], TASK, STATE, seed=7)
        self.assertEqual(chunk.actions.tolist(), found["actions"])
        self.assertEqual(chunk.normalized.tolist(), found["normalized_actions"])
        self.assertEqual(chunk.forwards, found["forwards"])
        self.assertEqual(len(chunk), self.policy.info.chunk)
        self.assertIsNone(chunk.token_ids)

    def test_info(self) -> None:
        info = self.policy.info
        self.assertEqual((info.chunk, info.views, info.mode, info.image_size), (5, 1, "flow", (112, 112)))
        self.assertEqual((info.target, info.unnorm_key), ("cpu", "tabletop"))
        self.assertIn("threads", info.device)
        self.assertIsInstance(dream.load(FLOW), dream.Policy)

    def test_other_forms_of_an_image(self) -> None:
        image = frame()
        wanted = self.policy.act([image], TASK, STATE).actions
        alpha = np.dstack([image, np.full((112, 112), 9, np.uint8)])
        strided = np.repeat(image, 2, axis=1)[:, ::2]
        fortran = np.asfortranarray(image)

        class Interface:
            __array_interface__ = image.__array_interface__

        class Capsule:
            def __dlpack__(self, **options: object) -> object:
                return image.__dlpack__(**options)

            def __dlpack_device__(self) -> tuple[int, int]:
                return image.__dlpack_device__()

        for form in (image, [alpha], [strided], (fortran,), [Interface()], [Capsule()], iter([image])):
            self.assertEqual(self.policy.act(form, TASK, STATE).actions.tolist(), wanted.tolist())

    def test_pixels_are_borrowed(self) -> None:
        image = frame()
        image.flags.writeable = False
        self.policy.act([image], TASK, STATE)
        # Pages of zeros that nobody reads take no memory. The policy looks at the size first, and refuses it.
        large = np.zeros((6000, 6000, 3), np.uint8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with self.assertRaisesRegex(dream.ArgumentError, "6000x6000"):
            self.policy.act([large], TASK, STATE)
        self.assertLess(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 20_000)
        with self.assertRaisesRegex(dream.ArgumentError, "3000x6000"):
            self.policy.act([large[:, ::2]], TASK, STATE)
        self.assertGreater(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 50_000)

    def test_noise_and_out(self) -> None:
        noise = np.zeros((5, self.policy.info.action_dim), np.float32)
        out = np.empty((5, self.policy.info.action_dim))
        chunk = self.policy.act([frame()], TASK, STATE, noise=noise, out=out)
        self.assertIs(chunk.actions, out)
        again = self.policy.act([frame()], TASK, STATE, noise=noise.tolist(), seed=3)
        self.assertEqual(out.tolist(), again.actions.tolist())

    def test_refusals(self) -> None:
        image, columns = frame(), self.policy.info.action_dim
        refused = [
            ([[]], {}, "image 0: it is a list"),
            ([], {}, "takes 1 views, not 0"),
            ([image, image], {}, "takes 1 views, not 2"),
            (None, {}, "images is a NoneType"),
            ([image.transpose(2, 0, 1)], {}, r"transpose\(1, 2, 0\)"),
            ([image.astype(np.float32) / 255], {}, "float32.*astype"),
            ([image.astype(object)], {}, "object"),
            ([image.astype(np.int64)], {}, r"int64.*\.astype"),
            ([image[:, :, 0]], {}, "numpy.stack"),
            ([np.zeros((0, 112, 3), np.uint8)], {}, "image 0: .*0"),
            ([np.stack([image, image])], {}, "give the views as a list"),
            ([frame()[:50]], {}, "112x50.*112x112"),
            (["frame.png"], {}, "image 0: it is a str"),
            ([image], {"proprio": None}, "takes the robot's state, 2 numbers"),
            ([image], {"proprio": [1.0]}, "1 proprio values.* have 2"),
            ([image], {"proprio": [0.1, float("nan")]}, "proprio"),
            ([image], {"proprio": [[0.1, 0.2]]}, r"proprio is \[1, 2\]"),
            ([image], {"proprio": ["x"]}, "proprio is a list"),
            ([image], {"noise": np.zeros((5, columns + 1))}, r"noise is \[5, "),
            ([image], {"noise": np.full((5, columns), np.nan)}, "finite"),
            ([image], {"out": np.zeros((5, columns), np.float32)}, "out is float32"),
            ([image], {"out": np.zeros((columns, 5)).T}, "out is float64"),
            ([image], {"out": [0.0]}, "out is a list"),
        ]
        for images, options, text in refused:
            with self.subTest(text), self.assertRaisesRegex(dream.ArgumentError, text) as caught:
                self.policy.act(images, TASK, **{"proprio": STATE, **options})
            self.assertIsInstance(caught.exception, ValueError)
            self.assertNotIn("\n", str(caught.exception))
        with self.assertRaises(OverflowError):
            self.policy.act([image], TASK, STATE, seed=-1)
        with self.assertRaisesRegex(dream.ArgumentError, "tokens|bytes"):
            self.policy.act([image], "x" * 1_000_000, STATE)

    def test_closing(self) -> None:
        with dream.Policy(FLOW, threads=1) as policy:
            policy.act([frame()], TASK, STATE)
        policy.close()
        with self.assertRaisesRegex(dream.ArgumentError, "closed"):
            policy.act([frame()], TASK, STATE)

    def test_two_policies_in_two_threads_and_one_that_ticks(self) -> None:
        wanted = self.policy.act([frame()], TASK, STATE).actions.tolist()
        others = [dream.Policy(FLOW, threads=1) for _ in range(2)]
        found: list[object] = []
        ticks, done = 0, threading.Event()

        def tick() -> None:
            nonlocal ticks
            while not done.is_set():
                ticks += 1
                time.sleep(0.001)

        def ask(policy: dream.Policy) -> None:
            for _ in range(5):
                found.append(policy.act([frame()], TASK, STATE).actions.tolist())

        threads = [threading.Thread(target=ask, args=(policy,)) for policy in others]
        ticking = threading.Thread(target=tick)
        ticking.start()
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - start
        done.set()
        ticking.join()
        self.assertEqual(found, [wanted] * 10)
        # A thread that holds the GIL while it computes lets another tick once in a call.
        self.assertGreater(ticks, max(12, 50 * took), f"{ticks} ticks in {took:.2f} s")

    def test_one_policy_in_two_threads(self) -> None:
        found: list[object] = []

        def ask() -> None:
            found.append(self.policy.act([frame()], TASK, STATE).actions.tolist())

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [found[0]] * 3)


class Generating(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        opened = dream.load(str(TEXT), threads=1)
        assert isinstance(opened, dream.Model)
        cls.model = opened

    def test_as_the_command_does(self) -> None:
        puzzle = "3014010200002001\n"
        command = [DREAMC, "run", str(TEXT), "--raw", puzzle, "--format", "json"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        made = self.model.generate(puzzle, raw=True)
        self.assertEqual([made.text], found["text"])
        self.assertEqual(str(made), made.text)
        self.assertEqual(made.token_ids.tolist(), found["sequences"][0][-16:])
        self.assertEqual(made.steps, self.model.info.steps)

    def test_steps_are_shown(self) -> None:
        seen: list[list[int]] = []

        def on_step(step: int, steps: int, canvas: np.ndarray) -> None:
            self.assertEqual((step, steps), (len(seen) + 1, self.model.info.steps))
            seen.append(canvas.tolist())

        made = self.model.generate("3014010200002001\n", raw=True, on_step=on_step)
        self.assertEqual(seen[-1], made.token_ids.tolist())
        self.assertEqual(len(seen), self.model.info.steps)
        # After the first step most are open; what is committed stays.
        mask = max(seen[0], key=seen[0].count)
        for before, after in zip(seen, seen[1:]):
            self.assertEqual({a for a, b in zip(before, after) if a != b}, {mask})

    def test_callbacks_stop_and_raise(self) -> None:
        told: list[int] = []

        def stop(step: int, steps: int, canvas: np.ndarray) -> bool:
            told.append(step)
            return step < 3

        with self.assertRaises(dream.DreamError):
            self.model.generate("1234\n", raw=True, on_step=stop)
        self.assertEqual(told, [1, 2, 3])

        def broken(step: int, steps: int, canvas: np.ndarray) -> bool:
            raise KeyError("mine")

        with self.assertRaisesRegex(KeyError, "mine"):
            self.model.generate("1234\n", raw=True, on_step=broken)

        def again(step: int, steps: int, canvas: np.ndarray) -> bool:
            self.model.generate("1234\n", raw=True)
            return True

        with self.assertRaisesRegex(dream.BusyError, "callback"):
            self.model.generate("1234\n", raw=True, on_step=again)
        self.model.generate("3014010200002001\n", raw=True)

    def test_refusals(self) -> None:
        for options, text in [
            ({"temperature": -1.0}, "temperature"),
            ({"top_p": 0.0}, "top_p"),
            ({"top_k": 0}, "top_k"),
            ({"alg_temp": float("nan")}, "alg_temp"),
        ]:
            with self.subTest(text), self.assertRaisesRegex(dream.ArgumentError, text):
                self.model.generate("1", raw=True, **options)
        with self.assertRaises(dream.UnsupportedError):
            self.model.generate("1", [frame()], raw=True)
        with self.assertRaisesRegex(dream.ArgumentError, "tokens"):
            self.model.generate("1 " * 100, raw=True)


class Opening(unittest.TestCase):
    def test_files_that_are_none(self) -> None:
        with self.assertRaises(dream.FileError) as caught:
            dream.load("/nowhere/a.dream")
        self.assertIsInstance(caught.exception, OSError)
        damaged = ARTIFACTS / "damaged.dream"
        damaged.write_bytes(FLOW.read_bytes()[:1000])
        with self.assertRaises(dream.ArtifactError):
            dream.load(damaged)
        with self.assertRaisesRegex(dream.ArgumentError, "one of auto, cuda"):
            dream.load(FLOW, device="tpu")
        with self.assertRaisesRegex(dream.UnsupportedError, "--target cuda"):
            dream.load(FLOW, device="cuda")
        with self.assertRaisesRegex(dream.ArgumentError, "threads is 5000"):
            dream.load(FLOW, threads=5000)
        with self.assertRaisesRegex(dream.ArgumentError, r"`warm` \(--warm\) has a prompt of 0 tokens; give 1 to"):
            dream.load(FLOW, warm=[8, 0])
        # The processor records nothing.
        for opened in (dream.Policy(FLOW, threads=1, warm=[8]), dream.Model(TEXT, threads=1, warm=())):
            opened.close()
        with self.assertRaisesRegex(dream.UnsupportedError, "act"):
            dream.Policy(TEXT)
        self.assertTrue(issubclass(dream.NotFiniteError, dream.DreamError))
        self.assertTrue(issubclass(dream.DreamError, RuntimeError))

    def test_the_documentation(self) -> None:
        before = os.getcwd()
        os.chdir(ARTIFACTS)
        try:
            failed, tried = doctest.testfile(str(Path(__file__).parents[1] / "README.md"), module_relative=False)
        finally:
            os.chdir(before)
        self.assertEqual(failed, 0)
        self.assertGreater(tried, 8)

    def test_import_is_light(self) -> None:
        code = (
            "import sys, time; import numpy; t = time.perf_counter(); import dream;"
            "print(time.perf_counter() - t); assert not {'torch', 'PIL'} & set(sys.modules)"
        )
        took = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
        self.assertLess(took, 0.5)

    def test_the_module_as_a_command(self) -> None:
        run = subprocess.run([sys.executable, "-m", "dream", str(FLOW)], check=True, capture_output=True, text=True)
        self.assertIn("mode: flow\n", run.stdout)
        run = subprocess.run([sys.executable, "-m", "dream", "/nowhere"], capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertIn("error: cannot read /nowhere", run.stderr)


def write_png(path: Path, image: np.ndarray) -> None:
    """A PNG of an image, without a library."""
    import struct
    import zlib

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = piece(b"IHDR", head) + piece(b"IDAT", zlib.compress(rows)) + piece(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + pieces)


if __name__ == "__main__":
    unittest.main()

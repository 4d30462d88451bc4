"""Robot policies on Ray Serve: replicas over one mapped file, behind OpenVLA's HTTP and openpi's WebSocket.

`python fleet.py ARTIFACT --replicas 2` starts a fleet; in a cluster (`ray start --head`) the same command with another
file replaces the artifact, one replica after the other.
"""

import argparse
import asyncio
import json
import os
import signal
import time

import dream
import msgpack
import numpy as np
import ray
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

import wire

# The health check asks the policy itself where no request had an answer for this long.
QUIET_S = 5.0
# How often an observation is given to another replica because the one that had it died.
RETRIES = 2


@serve.deployment(
    max_ongoing_requests=1,  # a policy does one observation at a time
    max_queued_requests=8,  # beyond it: 503
    max_surge_percent=1,  # rounded up to one: a new replica answers before an old one goes
    max_constructor_retry_count=2,
    health_check_period_s=2,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=60,
)
class Policy:
    """A replica: a process of its own over the pages of the file that all share."""

    def __init__(self, path: str, threads: int) -> None:
        self.policy = dream.load(path, threads=threads)
        self.answered = float("-inf")

    def info(self) -> dict:
        info = self.policy.info
        return {
            "version": dream.__version__,
            "action_horizon": info.chunk,
            "action_dim": info.action_dim,
            "image_keys": ["observation/image", "observation/wrist_image"][: info.views],
            "image_resolution": info.image_size,
            "needs_wrist_camera": info.views > 1,
            "proprio_dim": info.proprio_dim,
            "unnorm_key": info.unnorm_key,
            "needs_session_id": False,
        }

    async def act(self, views: list, task: str, state: object, seed: int, unnorm_key: str | None) -> dict:
        info = self.policy.info
        if unnorm_key not in (None, info.unnorm_key):
            raise ValueError(f"`unnorm_key` is `{unnorm_key}`; it must be `{info.unnorm_key}`")
        start = time.monotonic()
        # On a thread, which computes without the GIL: health checks are answered meanwhile.
        state = None if info.proprio_dim is None else state
        chunk = await asyncio.to_thread(self.policy.act, views[: info.views], task, state, seed=seed)
        self.answered = time.monotonic()
        return {"actions": chunk.actions, "infer_ms": 1e3 * (self.answered - start), "process": os.getpid()}

    async def check_health(self) -> None:
        """Raises if the policy does not answer. Ray asks before the first request too, so that it is warm then."""
        if time.monotonic() - self.answered > QUIET_S:
            info = self.policy.info
            width, height = info.image_size or (224, 224)
            view = np.zeros((height, width, 3), np.uint8)
            await self.act([view] * info.views, "", np.zeros(info.proprio_dim or 0), 0, None)


def refusal(error: Exception) -> tuple[int, str]:
    """Status and text for what went wrong."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, (BackPressureError, DeploymentUnavailableError)):
        return 503, "all replicas are busy and the queue is full; ask again"
    if isinstance(cause, ValueError):
        return 400, str(cause)
    return 500, str(cause)


app = FastAPI(openapi_url=None)


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class Front:
    """Speaks to clients. An open socket counts as a request as long as it is open: here it takes no replica's place."""

    def __init__(self) -> None:
        self.policy = serve.get_app_handle("policy")

    async def ask(self, request: object) -> dict:
        wanted = wire.observation(request)
        for left in reversed(range(RETRIES + 1)):
            try:
                return await self.policy.act.remote(**wanted)
            except RayActorError:  # actions depend on the observation alone, so that another replica gives the same
                if left == 0:
                    raise

    @app.get("/healthz")
    async def healthz(self) -> Response:
        return Response("OK\n", media_type="text/plain")

    @app.post("/act")
    async def act(self, http: Request) -> Response:
        headers = {}
        try:
            request = json.loads(await http.body(), object_hook=wire.from_json)
            twice = isinstance(request, dict) and list(request) == ["encoded"]
            if twice:
                request = json.loads(str(request["encoded"]), object_hook=wire.from_json)
            answer = await self.ask(request)
            rows = [wire.to_json(row) for row in answer["actions"]]
            # OpenVLA's clients send `image` and want one action, those of OpenVLA-OFT want the chunk.
            made, status = rows if "full_image" in request else rows[0], 200
            made = json.dumps(made) if twice else made
            headers["dream-replica"] = str(answer["process"])
        except Exception as error:
            status, text = refusal(error)
            made = {"error": {"message": text}}
            if status == 503:
                headers["retry-after"] = "1"
        return Response(json.dumps(made), status, headers, "application/json")

    @app.websocket("/")
    async def openpi(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            await socket.send_bytes(msgpack.packb(await self.policy.info.remote()))
        except BackPressureError:
            await socket.close(1013)  # try again later
            return
        timing: dict = {}
        while True:
            try:
                frame = await socket.receive_bytes()
            except WebSocketDisconnect:
                return
            start = time.monotonic()
            try:
                answer = await self.ask(msgpack.unpackb(frame, object_hook=wire.from_msgpack))
            except Exception as error:
                await socket.send_text(refusal(error)[1])
                continue
            timing["infer_ms"] = 1e3 * (time.monotonic() - start)
            made = {"actions": answer["actions"], "policy_timing": {"infer_ms": answer["infer_ms"]}}
            await socket.send_bytes(msgpack.packb({**made, "server_timing": timing}, default=wire.to_msgpack))
            timing["prev_total_ms"] = 1e3 * (time.monotonic() - start)


def deploy(path: str, replicas: int, threads: int) -> None:
    """Starts a fleet, or replaces what it serves. Returns when all replicas are the new ones."""
    with dream.load(path, threads=threads) as policy:  # what is no policy is refused here, before anything is replaced
        if not isinstance(policy, dream.Policy):
            raise ValueError(f"`{path}` does not act")
    policy = Policy.options(num_replicas=replicas, ray_actor_options={"num_cpus": threads})
    serve.run(policy.bind(os.path.abspath(path), threads), name="policy", route_prefix=None)
    if "front" not in serve.status().applications:
        serve.run(Front.bind(), name="front")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="a policy of `dreamc build`; to replace one, give a file of another name")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each replica")
    parser.add_argument("--port", type=int, default=8000, help="where no fleet is running yet")
    args = parser.parse_args()
    try:
        ray.init(address="auto")
        alone = False
    except ConnectionError:
        # One place more than replicas, for the one that is to replace another.
        ray.init(address="local", num_cpus=(args.replicas + 1) * args.threads, include_dashboard=False)
        alone = True
    serve.start(http_options={"host": "127.0.0.1", "port": args.port})
    try:
        deploy(args.artifact, args.replicas, args.threads)
    except (dream.DreamError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{args.replicas} replicas of {args.artifact}", flush=True)
    if alone:
        try:
            signal.pause()
        except KeyboardInterrupt:
            serve.shutdown()


if __name__ == "__main__":
    main()

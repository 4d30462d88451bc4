"""``python -m dream.serve FILE``: serves an artifact to robots and chat clients, as ``dreamc serve`` does."""

import argparse
import signal
import sys
from pathlib import Path

import dream

from ._dream import serve as _serve


def _cores(text: str) -> "list[int]":
    return [int(core) for core in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dream.serve", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="an artifact that `dreamc build` wrote to act or to generate")
    parser.add_argument("--listen", default="127.0.0.1:8000", help="address and port; port 0 takes any that is free")
    parser.add_argument("--token-file", type=Path, help="file with the token that requests must bring")
    parser.add_argument("--queue", type=int, default=8, help="requests that may wait")
    parser.add_argument("--timeout", type=float, default=120.0, help="longest time to an answer, in seconds")
    parser.add_argument("--late-after", type=float, help="answers that take longer count as late, in milliseconds")
    parser.add_argument("--camera", choices=["none", "libero"], default="none")
    parser.add_argument("--gripper", choices=["none", "libero"], default="none")
    parser.add_argument("--keys", help="view0=KEY,view1=KEY,state=KEY,task=KEY,ignore=KEY")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, rocm, metal or wgpu")
    parser.add_argument("--threads", type=int, default=0, help="0 is one for each core")
    parser.add_argument("--pin", type=_cores, default=[], help="processors to run on, as in 2,3")
    parser.add_argument("--lock-weights", action="store_true", help="keep the weights in memory")
    args = parser.parse_args()
    # As an interrupt: what runs is finished. Where whoever started it has interrupts ignored, it is ended by this all the same.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _serve(
            args.file,
            lambda address: print(f"serving {args.file} on http://{address}", file=sys.stderr, flush=True),
            listen=args.listen,
            token_file=args.token_file,
            queue=args.queue,
            timeout=args.timeout,
            late_after=args.late_after,
            camera=args.camera,
            gripper=args.gripper,
            keys=args.keys,
            device=args.device,
            threads=args.threads,
            pin=args.pin,
            lock_weights=args.lock_weights,
        )
    except (dream.DreamError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m dream FILE``: what an artifact is, and whether it can be run here."""

import argparse
import sys

import dream


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dream", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dream-runtime {dream.__version__}")
    parser.add_argument("file", metavar="FILE", help="an artifact that `dreamc build` wrote")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, rocm, metal or wgpu")
    args = parser.parse_args()
    try:
        with dream.load(args.file, device=args.device) as opened:
            names = [name for name in dir(opened.info) if not name.startswith("_")]
            for name in names:
                print(f"{name}: {getattr(opened.info, name)}")
    except dream.DreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

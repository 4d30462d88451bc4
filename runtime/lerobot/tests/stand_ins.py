"""Lets the torch wheel from PyPI run on a CPU without its CUDA libraries, which take 3 GB.

    python stand_ins.py

The wheel's own libraries are linked against libcudart, libcublas and others, and do not load without them. This writes a
library of each such name beside them, with the functions that torch refers to. They answer that there is no device, so
`torch.cuda.is_available()` is false. Needs `cc`, `nm` and `readelf`.
"""

import importlib.util
import re
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

# Names of the CUDA libraries' functions. The first kind is called when torch's libraries are loaded, to register their kernels.
REGISTER = re.compile(r"__cuda[A-Za-z0-9_]+")
CUDA = re.compile(r"(__cuda|cu|nccl|nvrtc|nvtx)[A-Za-z0-9_]+")
# cudaErrorNoDevice, and CUDA_ERROR_NO_DEVICE.
NO_DEVICE = 100
# Where functions without a version go: they are looked up by name alone, and everything loads this library.
WITHOUT_VERSION = "libcudart.so.12"


def main() -> None:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("there is no torch here; install it with `pip install --no-deps torch==2.6.0`")
    folder = Path(spec.origin).parent / "lib"
    own = sorted(folder.glob("lib*.so"))
    needed: dict[str, set[str]] = defaultdict(set)
    for library in own:
        for line in printed("readelf", "-d", str(library)).splitlines():
            found = re.search(r"\(NEEDED\).*\[(lib(?:cu|nccl|nvrtc|nvToolsExt)[^]]*)\]", line)
            if found is not None:
                # Written, even if torch refers to none of its functions.
                needed[found[1]].update()
        for line in printed("nm", "-D", "--undefined-only", str(library)).splitlines():
            function, _, version = line.split()[-1].partition("@")
            if CUDA.fullmatch(function):
                needed[version.lstrip("@") or WITHOUT_VERSION].add(function)
    for name, functions in sorted(needed.items()):
        write(folder / name, functions)
    print(f"wrote stand-ins for {len(needed)} libraries")


def write(path: Path, functions: set[str]) -> None:
    """A shared library of this name, whose functions have its name as their version."""
    with tempfile.TemporaryDirectory() as scratch:
        source, versions = Path(scratch) / "stand_in.c", Path(scratch) / "versions"
        answers = ((function, 0 if REGISTER.fullmatch(function) else NO_DEVICE) for function in sorted(functions))
        body = "".join(f"long {function}(void) {{ return {answer}; }}\n" for function, answer in answers)
        source.write_text(body or "typedef int empty;\n")
        versions.write_text(f"{path.name} {{ global: *; }};\n")
        options = ["-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-w"]
        options += [f"-Wl,-soname,{path.name}", f"-Wl,--version-script,{versions}"]
        subprocess.run(["cc", *options, "-o", str(path), str(source)], check=True)


def printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()

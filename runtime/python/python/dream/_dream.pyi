from collections.abc import Callable
from os import PathLike

from . import Actions as Actions
from . import Generated as Generated
from . import Model as Model
from . import ModelInfo as ModelInfo
from . import Policy as Policy
from . import PolicyInfo as PolicyInfo
from . import __version__ as __version__
from . import load as load

def serve(
    path: str,
    started: Callable[[str], None],
    *,
    listen: str,
    token_file: PathLike[str] | None,
    queue: int,
    timeout: float,
    late_after: float | None,
    camera: str,
    gripper: str,
    keys: str | None,
    device: str,
    threads: int,
    pin: list[int],
    lock_weights: bool,
) -> None: ...

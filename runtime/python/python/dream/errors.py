"""What can go wrong, by who can do something about it.

Each error says in one line what is wrong and what to do.
"""


class DreamError(RuntimeError):
    """Every error of this package."""


class ArgumentError(DreamError, ValueError):
    """An argument is not what the function or the model takes. Nothing was run."""


class FileError(DreamError, OSError):
    """The file cannot be read."""


class ArtifactError(DreamError):
    """The file is not a sound artifact: cut off, damaged, or something else."""


class UnsupportedError(DreamError):
    """The artifact is sound but cannot do this: it was built for other entries or other devices."""


class SystemResourceError(DreamError, OSError):
    """The system gave no memory, may not lock that much of it, or has no device that runs the artifact."""


class BusyError(DreamError):
    """The model is in the middle of a call of this thread: a callback may not call it again."""


class NotFiniteError(DreamError, ArithmeticError):
    """The model's numbers are not finite. There is no answer; the model can be used again."""


class BugError(DreamError):
    """What should not happen. The model is of no use any more: open it again, and please report it."""

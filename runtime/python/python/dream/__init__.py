"""Runs artifacts that ``dreamc build`` compiled from Dream models.

A policy gives robot actions, a model text::

    import dream

    with dream.load("policy.dream") as policy:
        chunk = policy.act([image], "pick up the red block")
        for action in chunk.actions:
            robot.move(action)

``dream.load`` says which of the two a file is. Every call computes without the GIL, so other threads of Python go on;
a second thread that asks the same model waits for the first.
"""

from ._dream import Actions, Generated, Model, ModelInfo, Policy, PolicyInfo, __version__, load
from .errors import (
    ArgumentError,
    ArtifactError,
    BugError,
    BusyError,
    DreamError,
    FileError,
    NotFiniteError,
    SystemResourceError,
    UnsupportedError,
)

__all__ = [
    "Actions",
    "ArgumentError",
    "ArtifactError",
    "BugError",
    "BusyError",
    "DreamError",
    "FileError",
    "Generated",
    "Model",
    "ModelInfo",
    "NotFiniteError",
    "Policy",
    "PolicyInfo",
    "SystemResourceError",
    "UnsupportedError",
    "__version__",
    "load",
]

"""Runs compiled Dream-VLA policies in LeRobot: policy type ``dream``.

LeRobot's commands import every installed distribution whose name begins with ``lerobot_policy_``, which registers the type.
"""

from .configuration_dream import DreamConfig as DreamConfig

__version__ = "0.1.0"

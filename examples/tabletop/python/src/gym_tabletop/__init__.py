"""A simulated robot that picks up blocks.

`gym_tabletop.scene` is the simulation and needs numpy alone. `gym_tabletop.env` is its form for gymnasium, and
`gym_tabletop.lerobot` that for LeRobot, whose commands find it by ``--env.discover_packages_path=gym_tabletop``.
"""

__version__ = "0.1.0"

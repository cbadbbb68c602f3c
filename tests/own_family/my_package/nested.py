"""A family that a file could name, and nobody would find."""

from __future__ import annotations

from my_package.mine import Bottleneck


class Outer:
    class Inner(Bottleneck):
        pass

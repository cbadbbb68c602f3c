"""The codes of candidates, read again: `slicewise.encoder.candidates.Proposal.code`.

Imports nothing heavy: whoever reports needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_UNITS = {"h": "heads", "n": "neurons"}


@dataclass(frozen=True)
class Kept:
    """What stands in the place of a slice.

    Attributes:
        first, last: The slice's first and last layer.
        layers: Those of the original's layers that are kept; empty where none is.
        family: Of a student that is made of no layers; None: there is none.
        sizes: Each a name and a value: `heads` and `neurons` of each layer, or what the family
            takes.
    """

    first: int
    last: int
    layers: tuple[int, ...] = ()
    family: str | None = None
    sizes: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """As `Proposal.name` says it.

        Example:
            >>> read_code("L1/6h/64n", [(0, 1)]).name
            'layer 1, 6 heads, 64 neurons'
            >>> read_code("low_rank0-1/rank=96", [(0, 1)]).name
            'low_rank, rank 96'
        """
        if not self.layers and self.family is None:
            return "nothing"
        words = [
            f"{value} {name.removesuffix('s') if value == '1' else name}"
            if name in _UNITS.values()
            else f"{name} {value}"
            for name, value in self.sizes
        ]
        kept = ", ".join(map(str, self.layers))
        what = self.family or f"{'layer' if len(self.layers) == 1 else 'layers'} {kept}"
        return ", ".join([what, *words])

    @property
    def slice_name(self) -> str:
        """Of the slice.

        Example:
            >>> read_code("drop2-3", [(0, 1), (2, 3)]).slice_name
            'layers 2 to 3'
        """
        if self.first == self.last:
            return f"layer {self.first}"
        return f"layers {self.first} to {self.last}"

    def size(self, name: str) -> int | None:
        """Of each layer that is kept; None where it is not said."""
        found = dict(self.sizes).get(name)
        return int(found) if found is not None else None


def read_code(code: str, spans: Sequence[Sequence[int]]) -> Kept:
    """What a code stands for.

    Args:
        code: Of a candidate.
        spans: First and last layer of each slice; of one slice where it is known which.

    Raises:
        ValueError: It is no code of a candidate for one of these slices.
    """
    what, *words = code.split("/")
    sizes = tuple(_size(word) for word in words)
    if match := re.fullmatch(r"L(\d+(?:\+\d+)*)", what):
        layers = tuple(map(int, match[1].split("+")))
        for first, last in spans:
            if first <= layers[0] <= last:
                return Kept(first, last, layers, sizes=sizes)
    # The longest first: a slice of layer 11 is no slice of layer 1.
    for first, last in sorted(spans, key=lambda span: -len(_span(*span))):
        if what.endswith(_span(first, last)):
            family = what.removesuffix(_span(first, last))
            return Kept(first, last, family=None if family == "drop" else family, sizes=sizes)
    raise ValueError(f"{code}: no candidate for one of {len(spans)} slices")


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _size(word: str) -> tuple[str, str]:
    if match := re.fullmatch(r"(\d+)([hn])", word):
        return _UNITS[match[2]], match[1]
    name, _, value = word.partition("=")
    return name, value

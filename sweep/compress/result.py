"""result.json: what came out of a compression, beside the original."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slicewise.atomic import write_atomically
from slicewise.errors import SlicewiseError

RESULT_NAME = "result.json"


@dataclass(frozen=True)
class Figures:
    """Of a model, as measured on this machine.

    Attributes:
        parameters: Of its layers.
        flops: Of its layers, for one text of `data.seq_length` tokens.
        latency_ms: Of its layers, for one such text.
        megabytes: Of all weights of the model, four bytes each.
        texts_per_second: From text to embedding, taking turns with the other model.
        spearman: Rank correlation of the pairs' cosines with their scores; None: no pairs.
    """

    parameters: int
    flops: int
    latency_ms: float
    megabytes: float
    texts_per_second: float
    spearman: float | None = None


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        made_of: Names what it follows from.
        study: Name of the compression.
        command: What makes it again.
        teacher: Where the original's weights come from.
        hardware: What it was measured on.
        threads: torch's.
        healed: The trial's folder, from that of the compression.
        steps: Of its healing.
        plan: Its candidates in words, first slice to last.
        candidates: Their codes.
        original, result: Figures of both.
        damage_before: Of the plan as it was put together; None: not measured.
        damage: After healing; on validation text.
        cosine: Mean, to the original's embeddings, on `held_out`.
        held_out: How many texts, and where they come from.
        docstring_cosine: The same on the 256 docstring sentences that every study is compared on.
        overlap: Mean share of the original's ten nearest texts that are among the result's.
        ndcg: Of the result's ten nearest, by the original's cosines.
        full_vocabulary_cosine: Of the result before its vocabulary was cut; None: it was not.
        pieces: Of the vocabulary.
        is_plain: Whether it is a plain model of its family.
        why_not_plain: What keeps it from being one.
        has_onnx: Whether there are ONNX files.
    """

    made_of: str
    study: str
    command: str
    teacher: str
    hardware: str
    threads: int
    healed: str
    steps: int
    plan: list[str]
    candidates: list[str]
    original: Figures
    result: Figures
    damage_before: float | None
    damage: float
    cosine: float
    held_out: tuple[int, str]
    docstring_cosine: float
    overlap: float | None
    ndcg: float | None
    full_vocabulary_cosine: float | None
    pieces: int
    is_plain: bool
    why_not_plain: str
    has_onnx: bool

    @property
    def speed(self) -> float:
        """How many times the original's texts a second."""
        return self.result.texts_per_second / self.original.texts_per_second

    @property
    def promised_speed(self) -> float:
        """What the layers' FLOPs promise."""
        return self.original.flops / max(1, self.result.flops)

    @property
    def was_healed_for_nothing(self) -> bool:
        """Whether the model is no nearer to the original than before its steps.

        Of few steps: the first of them lead away from weights that were solved for.
        """
        known = self.damage_before is not None and self.steps > 0
        return known and self.damage >= (self.damage_before or 0.0)

    def write(self, folder: Path) -> None:
        """Writes result.json; it appears whole or not at all."""
        write_atomically(folder / RESULT_NAME, json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def remove(folder: Path) -> None:
        """Removes result.json, if there is one."""
        (folder / RESULT_NAME).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Reads a compression's folder.

        Raises:
            SlicewiseError: There is no result.json, or it is damaged.
        """
        path = folder / RESULT_NAME
        try:
            told: dict[str, Any] = json.loads(path.read_text())
            figures = {name: Figures(**told[name]) for name in ("original", "result")}
            count, where = told["held_out"]
            return cls(**{**told, **figures, "held_out": (count, where)})
        except FileNotFoundError:
            raise SlicewiseError(f"{folder} has no {RESULT_NAME}: it is not finished") from None
        except (ValueError, TypeError, KeyError) as error:
            raise SlicewiseError(f"{path} is damaged: {error}") from error

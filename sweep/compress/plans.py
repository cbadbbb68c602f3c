"""plans.json: what a budget buys of a library, and whether damage adds up."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slicewise.atomic import write_atomically
from slicewise.errors import SlicewiseError

PLANS_NAME = "plans.json"


@dataclass(frozen=True)
class ChosenPlan:
    """A candidate for every slice, and what that comes to.

    Attributes:
        candidates: Their codes, first slice to last.
        names: In words.
        costs: By resource; `megabytes` with the embeddings.
        predicted: The damages of the candidates, added up.
        measured: The damage of the encoder that is put together from them, before it learns
            anything; None: not measured.
        homogeneous: Whether a plain model of the family can hold it.
    """

    candidates: list[str]
    names: list[str]
    costs: dict[str, float]
    predicted: float
    measured: float | None = None
    homogeneous: bool = False

    @property
    def text(self) -> str:
        """As the configuration of its healing has it."""
        return " ".join(self.candidates)


@dataclass(frozen=True)
class Plans:
    """What was chosen, and what else there was.

    Attributes:
        made_of: Names the settings and measurements that it follows from.
        budget: In the resources' own units.
        original: What the original takes of each resource.
        spans: First and last layer of each slice.
        shapes: Heads and neurons of each layer of the original.
        chosen: The plans to heal, the best first.
        homogeneous: The best plan under the budget that a plain model can hold; None: there is
            none.
        resource: What the curve is over.
        curve: The best plans over all budgets, the smallest first.
        rank_correlation: Spearman's, of predicted and measured damages; None: too few.
        layer_reduction: As the curve, but every layer of the original stays whole or goes.
    """

    made_of: str
    budget: dict[str, float]
    original: dict[str, float]
    spans: list[list[int]]
    shapes: list[dict[str, int]]
    chosen: list[ChosenPlan]
    homogeneous: ChosenPlan | None
    resource: str
    curve: list[ChosenPlan] = field(default_factory=list)
    rank_correlation: float | None = None
    layer_reduction: list[ChosenPlan] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Writes plans.json; it appears whole or not at all."""
        write_atomically(folder / PLANS_NAME, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Plans:
        """Reads a compression's folder.

        Raises:
            SlicewiseError: There is no plans.json, or it is damaged.
        """
        path = folder / PLANS_NAME
        try:
            told: dict[str, Any] = json.loads(path.read_text())
            plain = told["homogeneous"]
            return cls(
                **{
                    **told,
                    "chosen": [ChosenPlan(**plan) for plan in told["chosen"]],
                    "curve": [ChosenPlan(**plan) for plan in told["curve"]],
                    "layer_reduction": [
                        ChosenPlan(**plan) for plan in told.get("layer_reduction", [])
                    ],
                    "homogeneous": None if plain is None else ChosenPlan(**plain),
                }
            )
        except FileNotFoundError:
            raise SlicewiseError(
                f"{folder} has no {PLANS_NAME}: nothing was chosen there"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise SlicewiseError(f"{path} is damaged: {error}") from error

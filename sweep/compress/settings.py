"""The settings of a compression: its part of the configuration, read once.

Imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slicewise.arguments import check_integers
from slicewise.errors import ArgumentError, SlicewiseError
from sweep.compress.inputs import contents
from sweep.trial.settings import FitSettings, Node, check_study_name, seeds_of

Section = TypeVar("Section")
# Types, for people.
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a word",
    "str | None": "the path of a file, or null",
    "list[Any]": "a list",
}
# The vocabulary that the data's own texts need.
AUTO = "auto"
_BUDGETS = ("parameters", "flops", "latency_ms", "megabytes")


@dataclass(frozen=True)
class LibrarySettings:
    """What may stand in the place of a slice: `library`.

    Attributes:
        neurons, heads: Of each layer kept; numbers, or shares of what the original has.
        others: Other families: each its `_target_`, and arguments of its constructor.
        texts: Training texts that first weights are solved on.
        damage_texts: Validation texts that damage is measured on.
        steps: Of a local fit of each candidate; 0: none.
        keep: Whose students stay on disk after local fits.
    """

    neurons: list[Any] = field(default_factory=list)
    heads: list[Any] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)
    texts: int = 1024
    damage_texts: int = 128
    steps: int = 0
    keep: str = "front"


@dataclass(frozen=True)
class ChoiceSettings:
    """Which candidates: `choose`.

    Attributes:
        plans: How many different plans.
        homogeneous: Only plans that a plain model of the family can hold.
        measured: Plans of the curve that are put together and measured.
    """

    plans: int = 1
    homogeneous: bool = False
    measured: int = 8


@dataclass(frozen=True)
class HealingSettings:
    """How the whole learns: `heal`.

    Attributes:
        steps: Optimizer steps; 0: it is exported as it was put together.
        hidden_weight, cosine_weight: Of the parts of the loss.
        groups: Parts of a batch, each of about one length.
    """

    steps: int = 300
    hidden_weight: float = 1.0
    cosine_weight: float = 1.0
    groups: int = 8


@dataclass(frozen=True)
class EvaluationSettings:
    """What the result is compared by: `evaluate`.

    Attributes:
        pairs: A .csv file with two texts and a score in each row; None: none.
        retrieval: Whether neighbours are compared.
        texts: Held-out texts.
    """

    pairs: str | None = None
    retrieval: bool = True
    texts: int = 1000


@dataclass(frozen=True)
class EmbeddingsSettings:
    """What becomes of the embeddings: `embeddings`.

    Attributes:
        vocabulary: Whose pieces are kept: `auto`, or a file of texts; None: all.
    """

    vocabulary: str | None = None


@dataclass(frozen=True)
class ExportSettings:
    """What is written: `export`.

    Attributes:
        onnx: Whether ONNX files are exported too.
    """

    onnx: bool = False


@dataclass(frozen=True)
class CompressSettings(FitSettings):
    """All settings of a compression, and of a trial of its studies.

    Attributes:
        study: Name of the result, or of one of its studies.
        budget: The most that the result may take, by resource: numbers, or shares below 1 of what
            the original takes.
        partition: Layers a slice.
        library, choose, heal, evaluate: Of each stage.
        vocabulary: Whose pieces are kept: `auto`, or a file of texts; None: all.
        onnx: Whether ONNX files are exported too.
    """

    study: str
    budget: dict[str, float]
    partition: int | list[int]
    library: LibrarySettings
    choose: ChoiceSettings
    heal: HealingSettings
    evaluate: EvaluationSettings
    vocabulary: str | None
    onnx: bool

    @classmethod
    def _of_its_own(cls, config: DictConfig) -> dict[str, Any]:
        library = _section(config, "library", LibrarySettings)
        choose = _section(config, "choose", ChoiceSettings)
        heal = _section(config, "heal", HealingSettings)
        evaluate = _section(config, "evaluate", EvaluationSettings)
        _at_least(1, "library", texts=library.texts, damage_texts=library.damage_texts)
        _at_least(0, "library", steps=library.steps)
        _at_least(1, "choose", plans=choose.plans)
        _at_least(0, "choose", measured=choose.measured)
        _at_least(0, "heal", steps=heal.steps)
        _at_least(1, "heal", groups=heal.groups)
        _at_least(16, "evaluate", texts=evaluate.texts)
        if library.keep not in ("front", "all", "none"):
            raise ArgumentError("library.keep", library.keep, "front, all, none")
        if seeds_of(config):
            given = f"[{','.join(map(str, seeds_of(config)))}]"
            raise ArgumentError("objective.seeds", given, "null: candidates are not averaged")
        return {
            "study": check_study_name(config.study),
            "budget": _budget(config),
            "partition": _partition(config),
            "library": library,
            "choose": choose,
            "heal": heal,
            "evaluate": evaluate,
            "vocabulary": _section(config, "embeddings", EmbeddingsSettings).vocabulary,
            "onnx": _section(config, "export", ExportSettings).onnx,
        }

    @classmethod
    def _objectives(cls) -> list[str]:
        return ["damage", "text_cosine"]

    @property
    def teacher_of_all(self) -> Node:
        """What builds the teacher, as a slice of the one layer that every encoder has."""
        return {**self.teacher, "first_layer": 0, "num_layers": 1}

    @property
    def cut(self) -> tuple[int, int | None]:
        """The first of the layers that are cut into slices, and how many; None: all above it."""
        return int(self.teacher.get("first_layer") or 0), self.teacher.get("num_layers")

    @property
    def text_files(self) -> tuple[str, ...]:
        """The files that the data's texts are read from."""
        files = self.data.node.get("files") or ()
        return (files,) if isinstance(files, str) else tuple(files)

    @property
    def vocabulary_file(self) -> str | None:
        """The file of the texts whose pieces are kept; None where it is no file that says so."""
        return None if self.vocabulary == AUTO else self.vocabulary

    def name_of_healing(self, plans: Sequence[str]) -> str:
        """Names what decides the healing of some plans, in few digits: another study for another.

        What may change while a study goes on is left out, as in `sweep.study.identity`.
        """
        named: dict[str, Any] = {
            "plans": list(plans),
            "heal": asdict(self.heal),
            "library": {k: v for k, v in asdict(self.library).items() if k != "keep"},
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "data": self.data.node,
            "seed": self.seed,
            "teacher": self.teacher,
            "vocabulary": self.vocabulary,
        }
        files = contents(self.text_files)
        if files:
            named["files"] = files
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:6]


def _section(config: DictConfig, key: str, kind: type[Section]) -> Section:
    """A part of the configuration as its dataclass."""
    node = config.get(key)
    allowed = ", ".join(f"{key}.{entry.name}" for entry in fields(kind))  # type: ignore[arg-type]
    if not isinstance(node, DictConfig):
        raise ArgumentError(key, node, allowed)
    for name, value in ((str(name), value) for name, value in node.items()):
        if f"{key}.{name}" not in allowed.split(", "):
            raise ArgumentError(f"{key}.{name}", value, allowed)
        expected = next(str(e.type) for e in fields(kind) if e.name == name)  # type: ignore[arg-type]
        mistake = ArgumentError(f"{key}.{name}", value, _WORDS.get(expected, expected))
        try:
            OmegaConf.merge(OmegaConf.structured(kind), {name: value})
        except OmegaConfBaseException as error:
            raise mistake from error
        # OmegaConf takes words such as off, which would count as true.
        if expected == "bool" and not isinstance(value, bool):
            raise mistake
    return kind(**_plain(node))


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _budget(config: DictConfig) -> dict[str, float]:
    node = config.get("budget")
    known = ", ".join(f"budget.{name}" for name in _BUDGETS)
    if not isinstance(node, DictConfig):
        share = node if isinstance(node, float) else 0.33
        example = f"python -m sweep.compress budget.parameters={share}"
        raise ArgumentError("budget", node, known, f"Of the layers' parameters: {example}")
    given = {key: value for key, value in _plain(node).items() if value is not None}
    for resource, bound in given.items():
        if resource not in _BUDGETS:
            raise ArgumentError(f"budget.{resource}", bound, known)
        if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not bound > 0:
            allowed = "a positive number, or a share below 1 of what the original takes"
            raise ArgumentError(f"budget.{resource}", bound, allowed)
    return given


def _partition(config: DictConfig) -> int | list[int]:
    given: Any = OmegaConf.select(config, "partition")
    plain = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    whole = plain if isinstance(plain, list) else [plain]
    if not whole or any(type(number) is not int or number < 1 for number in whole):
        allowed = "layers a slice: a number, or a list of one number for each slice"
        raise ArgumentError("partition", plain, allowed)
    return plain  # type: ignore[return-value]


def _at_least(least: int, section: str, **values: int) -> None:
    try:
        check_integers(least, **values)
    except ArgumentError as error:
        raise error.within(section) from error


def check_budget(settings: CompressSettings) -> None:
    """Refuses a compression that would have nothing to keep to.

    Raises:
        SlicewiseError: There is no budget.
    """
    if not settings.budget:
        raise SlicewiseError(
            "budget: missing: how small shall the result be? "
            f"One of {', '.join(f'budget.{name}' for name in _BUDGETS)}\n"
            "A third of the layers' parameters: python -m sweep.compress budget.parameters=0.33"
        )

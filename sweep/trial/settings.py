"""The settings of a trial: its configuration, read once.

A part of the fit is handed what it needs of them, and reads no configuration itself. What a
configuration leaves out has the default that its file in `conf/` says. Nodes with a `_target_` stay
as they are: what they build checks its own arguments (`sweep.trial.build`).

Imports nothing heavy: a sweep reads the settings of its trials before it starts any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.overrides import override_text
from sweep.trial.metrics import objectives

Node = dict[str, Any]

CACHE_MODES = ("auto", "off", "memory", "disk")
# Of the teacher's outputs, beside the folders of studies.
CACHE_FOLDER = ".cache"
_GB = 10**9
# What `conf/data` says about targets, and the data module does not know.
_CACHE_KEYS = ("cache", "cache_limit")
# What of the data's configuration says how much of it there is, not what it is.
_AMOUNT_KEYS = ("train_batches", "valid_batches")
# Of the configuration, what says nothing about the student.
_NO_HYPERPARAMETERS = ("callbacks", "logger", "gang", "objective", "study", "hydra")


@dataclass(frozen=True)
class CacheSettings:
    """Whether the trials of a study share the teacher's outputs: `data.cache`.

    Attributes:
        mode: One of `CACHE_MODES`.
        limit: Bytes; None: `DEFAULT_LIMIT`, on a GPU a share of what is free.
    """

    DEFAULT_LIMIT: ClassVar[int] = 8 * _GB

    mode: str
    limit: int | None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> CacheSettings:
        mode = data.get("cache", "auto")
        # YAML's word for false.
        mode = "off" if mode is False else str(mode)
        if mode not in CACHE_MODES:
            raise ArgumentError("data.cache", mode, ", ".join(CACHE_MODES))
        gigabytes = data.get("cache_limit")
        if gigabytes is None:
            return cls(mode, None)
        if not isinstance(gigabytes, (int, float)) or not 0 <= gigabytes < math.inf:
            raise ArgumentError("data.cache_limit", gigabytes, "gigabytes, at least 0, or null")
        return cls(mode, int(gigabytes * _GB))

    @property
    def limit_off_gpu(self) -> int:
        """Bytes on a disk, or in a CPU's memory."""
        return self.DEFAULT_LIMIT if self.limit is None else self.limit


@dataclass(frozen=True)
class DataSettings:
    """Where the hidden states come from.

    Attributes:
        node: Of the data module.
        seq_length: Tokens in a row.
        cache: What becomes of the targets.
    """

    node: Node
    seq_length: int
    cache: CacheSettings

    @classmethod
    def of(cls, data: Node) -> DataSettings:
        node = {key: value for key, value in data.items() if key not in _CACHE_KEYS}
        seq_length = data.get("seq_length")
        if not isinstance(seq_length, int) or isinstance(seq_length, bool) or seq_length < 1:
            raise ArgumentError("data.seq_length", seq_length, "an integer of at least 1")
        return cls(node, seq_length, CacheSettings.of(data))

    def content(self) -> Node:
        """What decides a batch, however many there are."""
        return {key: value for key, value in self.node.items() if key not in _AMOUNT_KEYS}


@dataclass(frozen=True)
class StepSettings:
    """How a fit takes its steps: `steps`; see `slicewise.steps.new_distiller`.

    Attributes:
        capture: Whether CUDA graphs may be used.
        at_once: Steps in a batch of Lightning's, or `auto`.
        compile: Whether student and teacher are compiled.
    """

    capture: bool
    at_once: int | Literal["auto"]
    compile: bool

    @classmethod
    def of(cls, steps: Mapping[str, Any]) -> StepSettings:
        capture, at_once = steps.get("capture", "auto"), steps.get("at_once", "auto")
        compiled = steps.get("compile", False)
        if capture not in ("auto", "off", False):  # YAML's word for false.
            raise ArgumentError("steps.capture", capture, "auto, off")
        if at_once != "auto" and not (type(at_once) is int and at_once > 0):
            raise ArgumentError("steps.at_once", at_once, "auto, or an integer of at least 1")
        if not isinstance(compiled, bool):
            raise ArgumentError("steps.compile", compiled, "true or false")
        return cls(capture == "auto", at_once, compiled)

    def continuing(self, at_once: int | None) -> StepSettings:
        """The settings of a fit that goes on: it counts as the one that saved its checkpoint.

        Args:
            at_once: Steps in a batch of that fit; None where Lightning took them one by one.
        """
        if at_once is None:
            return StepSettings(capture=False, at_once=1, compile=False)
        return StepSettings(self.capture, at_once, self.compile)


# What was learned by before there was a choice.
_L1 = {"_target_": "slicewise.losses.l1_loss", "_partial_": True}


@dataclass(frozen=True)
class Objective:
    """What a trial returns to the study, and what it must not exceed: `objective`.

    Attributes:
        metrics: Names out of the table of metrics.
        max_parameters: Of the student; None: no bound.
        max_latency_ms: Of the student; None: no bound.
        seeds: A trial is the mean over a fit of each; empty: it is one fit, of `seed`.
    """

    metrics: tuple[str, ...]
    max_parameters: int | None
    max_latency_ms: float | None
    seeds: tuple[int, ...] = ()

    @classmethod
    def of(cls, objective: Mapping[str, Any], known: Sequence[str]) -> Objective:
        metrics: Any = objective.get("metrics")
        allowed = ", ".join(known)
        once = isinstance(metrics, list) and len(set(map(str, metrics))) == len(metrics) > 0
        if not once:
            given = f"[{','.join(map(str, metrics))}]" if isinstance(metrics, list) else metrics
            raise ArgumentError("objective.metrics", given, f"a list, each once, of {allowed}")
        for name in metrics:
            if name not in known:
                raise ArgumentError("objective.metrics", f"[{name}]", allowed)
        for key in ("max_parameters", "max_latency_ms"):
            most = objective.get(key)
            number = isinstance(most, (int, float)) and not isinstance(most, bool)
            if most is not None and not (number and most > 0):
                raise ArgumentError(f"objective.{key}", most, "a number above 0, or null")
        most_parameters, slowest = objective.get("max_parameters"), objective.get("max_latency_ms")
        return cls(tuple(metrics), most_parameters, slowest, _seeds(objective.get("seeds")))

    @property
    def is_pruned_by_loss(self) -> bool:
        """Whether the loss of a validation is what the study compares."""
        return self.metrics[0] == "valid_l1"

    @property
    def needs_latency(self) -> bool:
        return self.max_latency_ms is not None or "student_latency_ms" in self.metrics

    @property
    def needs_text(self) -> bool:
        return any(name.startswith("text_") for name in self.metrics)


@dataclass(frozen=True)
class FitSettings:
    """The settings that every fit has, whatever it trains.

    Attributes:
        seed: Of the first weights, the data and the dropout.
        teacher, optimizer, trainer: What builds them.
        scheduler: What builds it; None: a constant learning rate.
        data: Where the hidden states come from.
        callbacks, logger: What builds each, by name; loggers as they stand, since they may be named
            after the trial that runs.
        objective: What the trial returns to the study.
        hyperparameters: What says something about the result, as dotted keys and plain values.
    """

    seed: int
    teacher: Node
    optimizer: Node
    scheduler: Node | None
    trainer: Node
    data: DataSettings
    callbacks: dict[str, Node]
    logger: dict[str, DictConfig]
    objective: Objective
    hyperparameters: dict[str, Any]

    @classmethod
    def of(cls, config: DictConfig) -> Self:
        """Reads the application's configuration.

        Raises:
            ArgumentError: A value is not allowed.
            SlicewiseError: A part is missing, or an interpolation leads nowhere.
        """
        # First: parts of the configuration may be interpolated from these.
        own = cls._of_its_own(config)
        return cls(
            seed=_seed(config.get("seed")),
            teacher=_node(config, "teacher"),
            optimizer=_node(config, "optimizer"),
            scheduler=_optional(config, "scheduler"),
            trainer=_trainer(_node(config, "trainer")),
            data=DataSettings.of(_node(config, "data")),
            callbacks=_optional(config, "callbacks") or {},
            logger={str(name): config.logger[name] for name in config.get("logger") or {}},
            objective=Objective.of(_node(config, "objective"), cls._objectives()),
            hyperparameters=_hyperparameters(config),
            **own,
        )

    @classmethod
    def _of_its_own(cls, config: DictConfig) -> dict[str, Any]:
        """The settings that only this kind of fit has."""
        return {}

    @classmethod
    def _objectives(cls) -> list[str]:
        """What this kind of fit can be judged by."""
        return objectives()


@dataclass(frozen=True)
class TrialSettings(FitSettings):
    """All settings of a trial that fits a student.

    Attributes:
        student: What builds it.
        loss: What builds the loss that is learned by.
        steps: How steps are taken.
    """

    student: Node
    loss: Node
    steps: StepSettings

    @classmethod
    def _of_its_own(cls, config: DictConfig) -> dict[str, Any]:
        return {
            "student": _node(config, "student"),
            "loss": _node(config, "loss") if "loss" in config else dict(_L1),
            "steps": StepSettings.of(_optional(config, "steps") or {}),
        }


def _node(config: DictConfig, key: str) -> Node:
    """A part that every trial has."""
    node = _optional(config, key)
    # An experiment may set a part's arguments where no option says what they are of.
    if node is None or ("_target_" not in node and key != "objective"):
        raise SlicewiseError(f"{key}: missing; choose one of {key}=..., see python -m sweep --help")
    return node


def _optional(config: DictConfig, key: str) -> Node | None:
    """A part as a plain map, None where there is none: `scheduler=null`, `~callbacks`."""
    node = config.get(key)
    if node is None:
        return None
    if not isinstance(node, DictConfig):
        raise ArgumentError(key, node, f"one of {key}=..., see python -m sweep --help")
    try:
        plain = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise SlicewiseError(f"{key}: {error}") from error
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _trainer(node: Node) -> Node:
    strategy = node.get("strategy")
    if isinstance(strategy, str) and strategy.endswith(("_spawn", "_fork", "_notebook")):
        raise ArgumentError(
            "trainer.strategy",
            strategy,
            "auto, ddp: ranks are started once, and fit one student after the other",
            "For two devices: trainer=ddp trainer.devices=2",
        )
    return node


def check_study_name(name: Any) -> str:
    """The name of a study, or of a compression, which is also that of its folder.

    Args:
        name: `study`, as the configuration has it or as it was typed.

    Raises:
        ArgumentError: No folder below multirun/ can have it.
    """
    # The last is that of the teacher's outputs.
    no_folder = {"", ".", "..", CACHE_FOLDER}
    is_name = isinstance(name, (str, int, float)) and no_folder.isdisjoint(str(name).split("/"))
    if not is_name:
        raise ArgumentError(
            "study",
            override_text(name) if isinstance(name, str) else name,
            f"a name that a folder can have, below multirun/, other than {CACHE_FOLDER}",
            "Such as study=small",
        )
    return str(name)


def seeds_of(config: DictConfig) -> tuple[int, ...]:
    """The seeds over which a trial is the mean: `objective.seeds`; none where it is one fit.

    Raises:
        ArgumentError: They are no such list.
    """
    seeds = OmegaConf.select(config, "objective.seeds")
    return _seeds(OmegaConf.to_container(seeds) if OmegaConf.is_config(seeds) else seeds)


def _seeds(seeds: Any) -> tuple[int, ...]:
    if seeds is None:
        return ()
    listed = isinstance(seeds, list) and all(map(_is_seed, seeds))
    if not listed or len(set(seeds)) != len(seeds) or len(seeds) < 2:
        given = f"[{','.join(map(str, seeds))}]" if isinstance(seeds, list) else seeds
        allowed = f"null, or a list of two or more different integers from 0 to {2**32 - 1}"
        raise ArgumentError("objective.seeds", given, allowed, "One fit of another seed: seed=1")
    return tuple(seeds)


def _seed(seed: Any) -> int:
    if not _is_seed(seed):
        raise ArgumentError("seed", seed, f"an integer from 0 to {2**32 - 1}")
    return int(seed)


def _is_seed(seed: Any) -> bool:
    return isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32


def _hyperparameters(config: DictConfig) -> dict[str, Any]:
    names = [str(name) for name in config if name not in _NO_HYPERPARAMETERS]
    kept = OmegaConf.masked_copy(config, names)
    try:
        tree = OmegaConf.to_container(kept, resolve=True)
    except OmegaConfBaseException as error:
        raise SlicewiseError(str(error)) from error
    return dict(_flat(tree))


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [
        item
        for key, value in tree.items()
        for item in _flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]

"""How many ranks fit one student, and what they and those who start them tell each other.

Imports nothing heavy: the process that starts ranks need not load torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.devices import visible_gpus
from sweep.trial.active import RankDied
from sweep.trial.record import TrialRecord

_DEFAULT_TIMEOUT = 120.0


class End(Enum):
    """How a rank's share of a fit ended; all but the last two end it on all ranks alike."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    STOPPED = "stopped"
    FAILED = "failed"
    IMPOSSIBLE = "impossible"
    RAISED = "raised"
    LOST_CONTACT = "lost contact"


@dataclass(frozen=True)
class Place:
    """A rank's place in its gang.

    Attributes:
        rank: 0 and up.
        world_size: Number of ranks.
        accelerator: Lightning's word for their devices.
        timeout: Seconds that a rank waits for the others.
    """

    rank: int
    world_size: int
    accelerator: str
    timeout: float


@dataclass
class Task:
    """What a rank is to run.

    Attributes:
        config: The trial's configuration.
        hydra: Hydra's own part of it.
        params: The swept values; None for a single fit.
        number: Of the trial.
    """

    config: DictConfig
    hydra: Any
    params: dict[str, Any] | None
    number: int


@dataclass
class Outcome:
    """What became of a rank's share.

    Attributes:
        end: How it ended.
        reason: Why, where it is not complete.
        record: Of the trial as this rank saw it.
    """

    end: End
    reason: str
    record: TrialRecord


@dataclass
class Meeting:
    """Where the ranks find each other: the port of rank 0 on this machine."""

    port: int


class Stop:
    """To rank 0: the trial should stop at the next batch."""


@dataclass
class Question:
    """From rank 0: a method of the active trial, to be called where the study is."""

    method: str
    arguments: Sequence[Any] = field(default_factory=tuple)


@dataclass
class Answer:
    """What the method returned."""

    value: Any


def number_of_ranks(config: DictConfig) -> int:
    """How many processes fit a student: `trainer.devices` on each of `trainer.num_nodes`."""
    return devices_per_node(config) * int(OmegaConf.select(config, "trainer.num_nodes") or 1)


def devices_per_node(config: DictConfig) -> int:
    """What `trainer.devices` comes to on this machine, as Lightning reads it.

    Raises:
        ArgumentError: It is no number of devices.
    """
    devices = OmegaConf.select(config, "trainer.devices", default=1)
    if OmegaConf.is_list(devices):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([name for name in devices.split(",") if name.strip()])
    if devices in ("auto", "-1", -1, None):
        accelerator = OmegaConf.select(config, "trainer.accelerator", default="auto")
        return 1 if accelerator == "cpu" else max(1, len(visible_gpus()))
    try:
        number = int(devices)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ArgumentError("trainer.devices", devices, "a number of devices, a list, or auto")
    return number


def rank_timeout(config: DictConfig) -> float:
    """Seconds that a rank may wait for the others: `gang.timeout`.

    Raises:
        ArgumentError: It is not positive.
    """
    seconds = OmegaConf.select(config, "gang.timeout", default=_DEFAULT_TIMEOUT)
    if not isinstance(seconds, (int, float)) or seconds <= 0:
        raise ArgumentError("gang.timeout", seconds, "a number of seconds above 0")
    return float(seconds)


def check_num_nodes(config: DictConfig) -> None:
    """Refuses several nodes where this process is to start the ranks."""
    nodes = OmegaConf.select(config, "trainer.num_nodes", default=1)
    if nodes != 1:
        raise ArgumentError(
            "trainer.num_nodes",
            nodes,
            "1, unless torchrun starts the ranks",
            f"torchrun --nnodes={nodes} --nproc-per-node={devices_per_node(config)} ... "
            "-m sweep trainer=ddp",
        )


def verdict(outcomes: Mapping[int, Outcome], world_size: int) -> Outcome:
    """What becomes of the trial, from what its ranks have said.

    Args:
        outcomes: By rank, in the order in which they came.
        world_size: How many ranks there are.

    Raises:
        RankDied: The ranks lost each other, and none says why.
    """
    for outcome in outcomes.values():
        if outcome.end is End.RAISED:
            return outcome
    missing = world_size - len(outcomes)
    if missing or not in_step(outcomes.values()):
        silent = [f"{missing} of {world_size} ranks no longer answered"] if missing else []
        said = [f"{o.end.value}: {o.reason}" for o in outcomes.values() if o.reason]
        raise RankDied("; ".join([*silent, *said]))
    # The only one that has looked at the whole.
    return outcomes[0]


def in_step(outcomes: Collection[Outcome]) -> bool:
    """Whether all ranks came to the same end, so that they can go on with another trial."""
    ends = {outcome.end for outcome in outcomes}
    return len(ends) == 1 and not ends & {End.RAISED, End.LOST_CONTACT}


def raise_or_return(outcome: Outcome) -> float | tuple[float, ...]:
    """What a trial that has ended so gives back to Hydra.

    Raises:
        TrialStopped, SlicewiseError, FitFailed, optuna.TrialPruned: Where it is not complete.
    """
    from sweep.trial.active import TrialStopped

    if outcome.end is End.STOPPED:
        raise TrialStopped(outcome.reason)
    if outcome.end is End.IMPOSSIBLE:
        raise SlicewiseError(outcome.reason)
    return outcome.record.result()

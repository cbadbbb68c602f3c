"""What the program itself does between its two studies: prepares, chooses, exports."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from safetensors import SafetensorError

from slicewise.cost import count_parameters
from slicewise.encoder.evaluation import read_pairs
from slicewise.encoder.healing import TextBatchDataModule, check_weights
from slicewise.errors import ArgumentError, SlicewiseError
from sweep.command_line import command_of_study
from sweep.compress.application import HEALING, LIBRARY
from sweep.compress.choice import check_least, choose_plans
from sweep.compress.deliver import deliver
from sweep.compress.inputs import tell_changed_texts
from sweep.compress.measure import keep_students
from sweep.compress.plans import Plans
from sweep.compress.settings import CompressSettings, check_budget
from sweep.compress.texts import with_smaller_vocabulary
from sweep.compress.workbench import Workbench, close_workbench, open_workbench
from sweep.trial.parts import named_within
from sweep.trial.rehearsal import check_loggers, rehearse_fit

log = logging.getLogger(__name__)

_ONNX = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class First:
    """What the first look has found.

    Attributes:
        study: Name of the whole.
        candidates: Codes of all candidates.
        fits: Whether they are fitted.
        of_library: Overrides of the library's trials.
    """

    study: str
    candidates: list[str]
    fits: bool
    of_library: list[str]


@dataclass(frozen=True)
class Healing:
    """What is to be healed.

    Attributes:
        study: Name of the study.
        plans: Each as its trial's configuration has it.
    """

    study: str
    plans: list[str]


def prepare(config: DictConfig) -> First:
    """Finds whatever is wrong before anything is measured.

    Raises:
        SlicewiseError: Something is.
    """
    settings = CompressSettings.of(config)
    check_budget(settings)
    _check_no_trial(config)
    if settings.evaluate.pairs is not None:
        with named_within("evaluate"):
            read_pairs(settings.evaluate.pairs)
    missing = [name for name in _ONNX if importlib.util.find_spec(name) is None]
    if settings.onnx and missing:
        raise ArgumentError(
            "export.onnx",
            True,
            f"false, as {missing[0]} is not installed",
            "pip install 'slicewise[onnx]'",
        )
    bench = open_workbench(settings)
    check_loggers(settings)
    rehearse_fit(settings, bench.original.blocks, bench.data)
    with named_within("heal"):
        check_weights(settings.heal.hidden_weight, settings.heal.cosine_weight)
        TextBatchDataModule(bench.data, settings.heal.groups)
    check_least(settings, bench, _embeddings(settings, bench, _folder()))
    folder = _folder()
    with _written(folder):
        tell_changed_texts(folder, folder / LIBRARY, settings.text_files)
    parameters = sum(map(count_parameters, bench.original.block_list))
    log.info(
        "Original: %d layers of %s parameters in all, from %s",
        bench.original.num_layers,
        f"{parameters:,}",
        bench.teacher.source,
    )
    log.info("Library: %d candidates for %d slices", len(bench.codes), len(bench.slices))
    steps = settings.library.steps
    batches = [f"data.train_batches={max(1, steps)}", "data.valid_batches=1"]
    codes = bench.codes
    close_workbench()
    return First(settings.study, codes, bool(steps), batches)


def _check_no_trial(config: DictConfig) -> None:
    """Refuses what names one trial of the whole, which the program sets itself."""
    for key in ("candidate", "plan"):
        if config.get(key) is not None:
            allowed = "null: all that there are, one after the other"
            again = "One of them again: python -m sweep.rerun multirun/NAME/library/0"
            raise ArgumentError(key, config[key], allowed, again)


def choose(config: DictConfig) -> Healing:
    """Chooses plans of what the library has measured."""
    settings, folder = CompressSettings.of(config), _folder()
    embeddings = _embeddings(settings, open_workbench(settings), folder)
    with _written(folder):
        plans = choose_plans(settings, folder, embeddings)
    close_workbench()
    if settings.library.keep == "front":
        wanted = {code for plan in (*plans.chosen, *plans.curve) for code in plan.candidates}
        keep_students(folder / LIBRARY, wanted)
    _tell(plans)
    texts = [plan.text for plan in plans.chosen]
    return Healing(f"{settings.study}/{healing_folder(settings, plans)}", texts)


def export(config: DictConfig) -> None:
    """Evaluates the best of the healed encoders, and writes it for others to load."""
    settings, folder = CompressSettings.of(config), _folder()
    plans = Plans.read(folder)
    with _written(folder):
        deliver(settings, plans, folder, folder / healing_folder(settings, plans))
    if settings.library.keep == "none":
        keep_students(folder / LIBRARY, ())


def healing_folder(settings: CompressSettings, plans: Plans) -> str:
    """Name of the healing's folder, and the end of its study's name."""
    name = settings.name_of_healing([plan.text for plan in plans.chosen])
    return f"{HEALING}-{name}"


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Says where a disk is full, or may not be written to; what was written before stays."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise SlicewiseError(
            f"{os.path.relpath(folder)} cannot be written to: {error}\n"
            f"What was done is kept. To go on: {command_of_study(folder.name)}"
        ) from error


def _folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _embeddings(settings: CompressSettings, bench: Workbench, folder: Path) -> float:
    """Megabytes of the result's embeddings."""
    smaller = with_smaller_vocabulary(bench.original, settings, bench, folder)
    return count_parameters(smaller.embeddings) * 4 / 1e6


def _tell(plans: Plans) -> None:
    budget = ", ".join(f"{name} {bound:,.4g}" for name, bound in plans.budget.items())
    log.info("Budget: %s", budget)
    for number, plan in enumerate(plans.chosen):
        log.info("Plan %d: %s", number, "; ".join(plan.names))
        log.info(
            "  %s of %s parameters, damage %.4f predicted, %.4f put together",
            f"{plan.costs['parameters']:,.0f}",
            f"{plans.original['parameters']:,.0f}",
            plan.predicted,
            plan.measured,
        )
    plain = plans.homogeneous
    if plain is None:
        log.info("No plan that a plain model can hold keeps to the budget")
    elif not plans.chosen[0].homogeneous:
        log.info(
            "A plain model would cost damage %.4f instead of %.4f (choose.homogeneous=true): %s",
            plain.predicted,
            plans.chosen[0].predicted,
            "; ".join(plain.names),
        )
    if plans.rank_correlation is not None:
        measured = sum(plan.measured is not None for plan in (*plans.chosen, *plans.curve))
        log.info(
            "Does damage add up? Rank correlation of predicted and measured, over %d plans: %.3f",
            measured,
            plans.rank_correlation,
        )

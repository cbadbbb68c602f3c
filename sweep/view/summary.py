"""What a finished sweep says: the table on the terminal, and optimization_results.yaml."""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.table import Table

from slicewise.atomic import write_atomically
from sweep.study.attributes import FINISHED, REASON
from sweep.study.failures import failures
from sweep.study.places import rerun_command, trial_folder
from sweep.study.plan import DEFAULT_STORAGE, command_of, reason_stopped
from sweep.trial.metrics import METRICS, Metrics, heading_of, metric_named, seen_in
from sweep.trial.record import RECORD_NAME, STUDENT_FOLDER
from sweep.view.lesson import lesson
from sweep.view.words import counted, in_words, listed, metric_shown, short_keys, shown

RESULTS_NAME = "optimization_results.yaml"
REPORT_NAME = "report.html"
_SHOWN_ROWS = 20
# More of them do not fit into 80 columns.
_PARAMETER_COLUMNS = 5


def save_results(study: optuna.Study, directory: Path) -> None:
    """Writes `optimization_results.yaml` as the official sweeper does."""
    best = study.best_trials if _complete(study) else []
    results: dict[str, Any]
    if len(study.directions) > 1:
        solutions = [
            {"params": t.params, "values": t.values, **_found(study, t, directory)} for t in best
        ]
        results = {"name": "optuna", "solutions": solutions}
    else:
        trial = ranked(study)[0] if best else None
        results = {
            "name": "optuna",
            "best_params": trial.params if trial else {},
            "best_value": trial.value if trial else None,
            **(_found(study, trial, directory) if trial else {}),
        }
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / RESULTS_NAME, OmegaConf.to_yaml(OmegaConf.create(results)))


def _found(study: optuna.Study, trial: FrozenTrial, directory: Path) -> dict[str, Any]:
    """Which trial it is, where it lies, and what else it measured."""
    names = {metric.name for metric in METRICS}
    return {
        "trial": trial.number,
        "directory": os.path.relpath(trial_folder(study, trial, directory), directory),
        "metrics": {k: v for k, v in sorted(trial.user_attrs.items()) if k in names},
    }


def show_study(
    study: optuna.Study,
    directory: Path,
    console: Console | None = None,
    storage_url: str = DEFAULT_STORAGE,
) -> None:
    """Prints the trials, best first, where they are, what they have shown, and what to do next.

    Args:
        study: Which has ended.
        directory: Its folder.
        console: Where to; None: standard output.
        storage_url: Where the study is, for the commands that are named.
    """
    console = console or Console(highlight=False)
    counts = dict.fromkeys(TrialState, 0)
    for trial in study.get_trials(deepcopy=False):
        counts[trial.state] += 1
    console.print()
    if _complete(study):
        console.print(trial_table(study))
        if _seeds_beside_others(study):
            console.print(seed_table(study))
    console.print(f"Study {study.study_name}: {counted(counts) or 'no trials'}.")
    if (stopped := reason_stopped(study)) is not None:
        console.print(f"Stopped before its budget was met: {stopped}.", soft_wrap=True)
    for reason, numbers in _failures(study).items():
        console.print(f"Failed ({listed(numbers)}): {reason}", markup=False, soft_wrap=True)
    if _complete(study):
        best = ranked(study)[0]
        place = trial_folder(study, best, directory)
        found = "Best student:" if (place / STUDENT_FOLDER).is_dir() else "Best trial:  "
        console.print(f"{found} {os.path.relpath(place)}", soft_wrap=True, markup=False)
        if _can_be_repeated(place):
            console.print(f"Run it again: {rerun_command(place)}", soft_wrap=True, markup=False)
        dashboard = command_of("sweep.dashboard", None, storage_url)
        console.print(f"All studies:  {dashboard}", markup=False, soft_wrap=True)
    report = directory / REPORT_NAME
    if report.is_file():
        console.print(f"Look at it:   {os.path.relpath(report)}", soft_wrap=True)
    console.print()
    for line in lesson(study, ranked(study), objective_names(study)):
        console.print(line, markup=False, soft_wrap=True)


def _can_be_repeated(place: Path) -> bool:
    """Whether a trial has left what `sweep.rerun` needs: Hydra may have been told to leave less."""
    return (place / RECORD_NAME).is_file() and (place / ".hydra" / "overrides.yaml").is_file()


def trial_table(study: optuna.Study) -> Table:
    """The finished trials, best first; of several directions, the Pareto front first."""
    trials = ranked(study)
    front = {t.number for t in study.best_trials} if len(study.directions) > 1 else set()
    params = sorted({key for trial in trials for key in trial.params})
    table = _table(f"Study {study.study_name}")
    for heading in ("#", "trial"):
        table.add_column(heading, justify="right", no_wrap=True)
    # Of conditional spaces most cells would be empty, and the others too narrow to be read.
    as_points = len(params) > _PARAMETER_COLUMNS
    if as_points:
        table.add_column("point", overflow="fold")
    else:
        for heading in short_keys(params):
            table.add_column(heading, justify="right")
    objectives = objective_names(study)
    measured = {name for trial in trials for name in trial.user_attrs}
    metrics = [m for m in seen_in("summary") if m.name in measured.difference(objectives)]
    headings = [heading_of(name) for name in objectives] + [metric.heading for metric in metrics]
    for heading in (*headings, "state"):
        table.add_column(heading, justify="right", no_wrap=as_points)
    for rank, trial in enumerate(trials[:_SHOWN_ROWS], start=1):
        known = Metrics.known(trial.user_attrs)
        table.add_row(
            str(rank),
            str(trial.number),
            *([_point(trial, params)] if as_points else _cells(trial, params)),
            *_values(trial, objectives, known),
            *(metric.shown(known.get(metric)) for metric in metrics),
            "pareto" if trial.number in front else trial.state.name.lower(),
        )
    if len(trials) > _SHOWN_ROWS:
        table.caption = f"and {len(trials) - _SHOWN_ROWS} more"
    return table


def _values(trial: FrozenTrial, objectives: Sequence[str], known: Metrics) -> list[str]:
    """What it came to; of one of several objectives that was pruned, what is known all the same."""
    if trial.state is TrialState.PRUNED and known.value_std is not None:
        # It reported each seed, and to Optuna is the last; what stands beside it is of their mean.
        mean = statistics.fmean(trial.intermediate_values.values())
        return [metric_shown(objectives[0], mean)]
    if trial.values:
        return list(map(metric_shown, objectives, trial.values))
    sought = [metric_named(name) for name in objectives]
    return ["" if metric is None else metric.shown(known.get(metric)) for metric in sought]


def _cells(trial: FrozenTrial, params: Sequence[str]) -> list[str]:
    return [shown(trial.params.get(key, "")) for key in params]


def _point(trial: FrozenTrial, params: Sequence[str]) -> str:
    """What the trial was asked, without what it was not."""
    names = zip(params, short_keys(params), strict=True)
    return in_words({s: trial.params[k] for k, s in names if k in trial.params})


def seed_table(study: optuna.Study) -> Table:
    """Mean and standard deviation over seeds, for each point of the other parameters."""
    groups: dict[str, list[float]] = defaultdict(list)
    for trial in ranked(study):
        if trial.state is TrialState.COMPLETE and trial.values:
            others = {k: v for k, v in trial.params.items() if k != "seed"}
            groups[json.dumps(others, sort_keys=True)].append(trial.values[0])
    keys = sorted({key for group in groups for key in json.loads(group)})
    sign = -1 if study.directions[0] is StudyDirection.MAXIMIZE else 1
    table = _table("Over seeds")
    name = objective_names(study)[0]
    for heading in (*short_keys(keys), "seeds", f"mean {heading_of(name)}", "std"):
        table.add_column(heading, justify="right")
    for group, values in sorted(groups.items(), key=lambda g: sign * statistics.mean(g[1])):
        point = json.loads(group)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        table.add_row(
            *(shown(point.get(key, "")) for key in keys),
            str(len(values)),
            metric_shown(name, statistics.mean(values)),
            f"{spread:.2g}",
        )
    return table


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials from best to worst, then pruned ones by their last value."""
    sign = -1 if study.directions[0] is StudyDirection.MAXIMIZE else 1
    front = {t.number for t in study.best_trials} if len(study.directions) > 1 else set()
    finished = [t for t in study.get_trials(deepcopy=False) if t.state in FINISHED]

    def rank(trial: FrozenTrial) -> tuple[bool, bool, float]:
        value = sign * trial.values[0] if trial.values else float("inf")
        return (trial.state is TrialState.PRUNED, trial.number not in front, value)

    return sorted(finished, key=rank)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def objective_names(study: optuna.Study) -> Sequence[str]:
    """What the study's values are called."""
    return study.metric_names or [
        "value" if len(study.directions) == 1 else f"value {i}"
        for i in range(len(study.directions))
    ]


def _table(title: str) -> Table:
    """A table that fits five parameters into 80 columns."""
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )


def _seeds_beside_others(study: optuna.Study) -> bool:
    keys = {key for trial in _complete(study) for key in trial.params}
    return "seed" in keys and len(keys) > 1


def _failures(study: optuna.Study) -> dict[str, list[int]]:
    reasons: dict[str, list[int]] = defaultdict(list)
    for trial in failures(study.get_trials(deepcopy=False)):
        reasons[str(trial.user_attrs.get(REASON, "unknown"))].append(trial.number)
    return reasons

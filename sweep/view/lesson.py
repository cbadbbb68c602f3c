"""What a sweep has shown, and what to do next: the last lines that it says, three as a rule."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweep.overrides import override_text
from sweep.study.attributes import FINISHED, IDENTITY
from sweep.study.plan import Plan, command_to_go_on, read_plan
from sweep.trial.metrics import Metrics
from sweep.view.words import counted, listed, metric_shown, point

_COMPRESS = ("python", "-m", "sweep.compress", "budget.parameters=0.33")
# From this cosine on, what was learned from noise is of some use on text.
_TRANSFERS = 0.9
# What loads a teacher of which there is a whole model, and the option that does by default there.
_LOADED = ("minilm", "load_slice")
_DEFAULT, _RANDOM = "minilm", "random_bert"
# What says which texts, in the same words there, and what the option `text` has.
_TEXTS = {
    "files": None,
    "dataset": None,
    "dataset_config": None,
    "dataset_split": "train",
    "text_field": "text",
}


def lesson(study: optuna.Study, ranking: Sequence[FrozenTrial], names: Sequence[str]) -> list[str]:
    """The lines: what came out, what it is worth, and a command.

    Args:
        study: Which has ended.
        ranking: Its finished trials, best first.
        names: What its values are called.
    """
    plan = read_plan(study)
    complete = [trial for trial in ranking if trial.state is TrialState.COMPLETE]
    if not complete:
        return _of_nothing(study)
    if plan.application is not None:
        return _of_an_application(study, plan, complete, names)
    best, config = complete[0], study.user_attrs.get(IDENTITY, {}).get("config", {})
    return [
        f"Shown:        {_losses(study, complete, names)}{_beside_baseline(best)}",
        f"On text:      {_transfer(best, config)}",
        f"Next:         {_smaller(best, config)}",
    ]


def _of_nothing(study: optuna.Study) -> list[str]:
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(t.state is state for t in trials) for state in TrialState}
    lines = [
        f"Shown:        nothing yet, as no trial is complete: {counted(counts) or 'none ran'}."
    ]
    if (command := command_to_go_on(study)) is not None:
        mended = "  # once what is said above is mended" if counts[TrialState.FAIL] else ""
        lines.append(f"Next:         {command}{mended}")
    return lines


def _of_an_application(
    study: optuna.Study,
    plan: Plan,
    complete: Sequence[FrozenTrial],
    names: Sequence[str],
) -> list[str]:
    lines = [f"Shown:        {_losses(study, complete, names)}."]
    if complete[0].params:
        lines.append(f"Best with:    {point(complete[0].params)}")
    command = command_to_go_on(study)
    if command is not None and not plan.exhausted:
        # The folder is part of it, which nobody has typed.
        lines.append(f"To go on:     {command}{_more_trials(study, plan)}")
    return lines


def _more_trials(study: optuna.Study, plan: Plan) -> str:
    """Where all trials are done that were asked for: twice as many."""
    done = len(study.get_trials(deepcopy=False, states=FINISHED))
    if plan.n_trials is None or done < plan.n_trials:
        return ""
    return f" hydra.sweeper.n_trials={2 * plan.n_trials}  # as many again"


def _losses(study: optuna.Study, complete: Sequence[FrozenTrial], names: Sequence[str]) -> str:
    """What the trials came to, from the best to the worst."""
    best, count = complete[0], len(complete)
    if count == 1:
        said = ", ".join(
            f"{n} {metric_shown(n, v)}" for n, v in zip(names, best.values, strict=True)
        )
        return f"{said} (trial {best.number})"
    if len(names) == 1:
        worst = complete[-1]
        ends = [f"{metric_shown(names[0], t.values[0])} (trial {t.number})" for t in (best, worst)]
        return f"{names[0]} from {ends[0]} to {ends[1]} in {count} trials"
    front = sorted(trial.number for trial in study.best_trials)
    if len(front) == 1:
        return f"of {count} trials, trial {front[0]} is best in all of {', '.join(names)}"
    reach = "; ".join(
        _reach(name, d, i, complete)
        for i, (name, d) in enumerate(zip(names, study.directions, strict=True))
    )
    return f"no trial is better in all than {listed(front)} of {count}; the best in each: {reach}"


def _reach(
    name: str, direction: StudyDirection, index: int, complete: Sequence[FrozenTrial]
) -> str:
    sign = 1 if direction is StudyDirection.MINIMIZE else -1
    best = min(complete, key=lambda trial: sign * trial.values[index])
    return f"{name} {metric_shown(name, best.values[index])} (trial {best.number})"


def _beside_baseline(best: FrozenTrial) -> str:
    ratio = Metrics.known(best.user_attrs).baseline_ratio
    if ratio is None:
        return "."
    if ratio <= 1:
        return "; the best is no better than the best baseline, which needs no student."
    return f"; the best is {ratio:.2f} times better than what needs no student."


def _transfer(best: FrozenTrial, config: Mapping[str, Any]) -> str:
    """Whether the best student would do in the whole model, and what it has learned from."""
    cosine = Metrics.known(best.user_attrs).text_cosine
    if cosine is None:
        return "not compared with the original, so nothing is known of how it does there."
    said = f"cosine {cosine:.4f} to the original's embeddings, where the same is 1"
    if _target(config.get("teacher")) == _RANDOM:
        return f"{said}; with random weights that says nothing of language."
    if not _is_of_noise(best, config):
        return f"{said}."
    if cosine < _TRANSFERS:
        return f"{said}: noise alone does not transfer; data=text does better."
    return f"{said}, learned from noise alone; data=text does better."


def _is_of_noise(best: FrozenTrial, config: Mapping[str, Any]) -> bool:
    chosen = best.params.get("data")
    return chosen == "noise" if chosen else _target(config.get("data")) == "NoiseDataModule"


def _smaller(best: FrozenTrial, config: Mapping[str, Any]) -> str:
    """The command that makes a smaller model of the whole teacher."""
    teacher, data = config.get("teacher") or {}, config.get("data") or {}
    chosen, pretrained = best.params.get("teacher"), best.params.get("teacher.pretrained")
    pretrained = pretrained or teacher.get("pretrained")
    if chosen == _RANDOM or not (chosen or _target(teacher) in _LOADED):
        return f"{shlex.join(_COMPRESS)}  # a smaller MiniLM"
    overrides = [f"teacher={chosen}"] if chosen not in (None, _DEFAULT) else []
    if pretrained:
        overrides.append(f"teacher.pretrained={override_text(pretrained)}")
    overrides += [
        f"data.{key}={override_text(data[key])}"
        for key, default in _TEXTS.items()
        if key in data and data[key] != default
    ]
    return f"{shlex.join([*_COMPRESS, *overrides])}  # a smaller model"


def _target(node: Any) -> str:
    """The last part of what a node builds; nothing of what is none."""
    target = node.get("_target_", "") if isinstance(node, Mapping) else ""
    return str(target).rpartition(".")[2]

"""A study that goes on with another space: what of its trials still counts, and teaches.

A swept key may get other values, a fixed key be set free, a swept one be fixed. Trials that lie in
today's space count, and samplers see them as if they had always been of it; the others stay as they
are. What a trial had in a key that was not swept then is noted in the study (`Era`).

Optuna takes a key into a study only with the choices, or the kind of numbers, that it had first.
Where that has changed, the study is made anew under its name, with all of its trials: `_made_anew`.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.command_line import study_override
from sweep.overrides import override_text
from sweep.study.attributes import ERAS, FINISHED, IDENTITY, STOPPED
from sweep.study.compose import TrialComposer
from sweep.study.copying import copy_study
from sweep.study.dimension import Dimension, described, number_for, same_value, stored_forms
from sweep.study.gained import groups_gained, keys_gained
from sweep.study.identity import (
    DECIDES,
    Rules,
    check_identity,
    identity_of,
    keep_identity,
    node_of,
    same_space,
)
from sweep.study.presence import Heartbeat, working_sweeps, write_heartbeat
from sweep.study.space import CUSTOM, Era, History, SearchSpace
from sweep.study.storage import decided

log = logging.getLogger(__name__)

# Of a study that is being made anew: its copy, and that all trials are in it.
_COPY = "{} (another space)"
_WHOLE = "whole"

# Other values of a choice that a study keeps: of an interval, each trial had another.
_MOST_OPTIONS = 100


def take_up(
    study: optuna.Study,
    storage: BaseStorage,
    directory: Path,
    space: SearchSpace,
    config: DictConfig,
    composer: TrialComposer,
    is_group: Callable[[str], bool],
    force: bool,
    sign: Heartbeat,
    rules: Rules = DECIDES,
) -> tuple[optuna.Study, SearchSpace]:
    """Begins a study, or goes on with one, in whatever space it was before.

    From then on the sweep is seen to work on it: of two that begin at one moment in different
    spaces, the second finds the first.

    Args:
        study: New, or opened again.
        storage: Its storage.
        directory: Its folder.
        space: What is to be searched.
        config: The sweep's configuration.
        composer: Of this space.
        is_group: Whether a key is a config group.
        force: Go on although what is not swept differs.
        sign: The sweep's first sign of life.
        rules: What can change a result, as `DECIDES`.

    Returns:
        The study, and the space as it is to be searched there.

    Raises:
        SlicewiseError: It is about something else, or its trials cannot be carried over.
    """
    name, directions = study.study_name, study.directions

    def decide() -> tuple[optuna.Study, SearchSpace]:
        _finish(storage, name)
        found = optuna.create_study(
            study_name=name, storage=storage, directions=directions, load_if_exists=True
        )
        taken = _taken_up(found, storage, space, config, composer, is_group, force, rules)
        write_heartbeat(taken[0], "sweep", sign.sweep, sign)
        return taken

    return decided(storage, name, directory, decide)


def _taken_up(
    study: optuna.Study,
    storage: BaseStorage,
    space: SearchSpace,
    config: DictConfig,
    composer: TrialComposer,
    is_group: Callable[[str], bool],
    force: bool,
    rules: Rules,
) -> tuple[optuna.Study, SearchSpace]:
    identity = identity_of(config, space, rules)
    trials = study.get_trials(deepcopy=False)
    known = study.user_attrs.get(IDENTITY)
    # A sweep that has just begun may have no trial yet.
    begun = bool(trials) or (known is not None and bool(working_sweeps(study)))
    known = known if begun else None
    eras = [Era(**era) for era in study.user_attrs.get(ERAS, [])]
    changed = known is not None and not same_space(known, identity)
    if known is None:
        check_identity(study, identity, force, rules)
    else:
        freed = _values_before(known, space, is_group)
        if force:
            freed = {key: value for key, value in freed.items() if value is not _NO_VALUE}
        before = _as_before(known, freed, space, config, composer, rules)
        check_identity(study, before, force, rules, begun)
        values = {key: _stored(value) for key, value in freed.items()}
        if eras and eras[-1].values == values:
            del eras[-1]
        if values:
            eras.append(Era(len(trials), values))
    if changed and working_sweeps(study):
        raise SlicewiseError(
            f"{study_override(study.study_name)}: a sweep works on it, in another space: "
            "wait for its end, or stop it"
        )
    stored = _distributions(trials)
    space.check_custom(
        {key: several[0] for key, several in stored.items()}, study.study_name, config
    )
    dimensions, remade = {}, {}
    for key, own in space.dimensions.items():
        dimensions[key], is_remade = _kept(key, own, stored.get(key, []), trials, study.study_name)
        if is_remade:
            remade[key] = dimensions[key].stored
    if remade:
        study = _made_anew(study, storage, remade)
        trials = study.get_trials(deepcopy=False)
    history = _history(trials, eras, space, config, is_group)
    space = dataclasses.replace(space, dimensions=dimensions, history=history)
    if not (eras or history.fixed or any(_differs(trial, space) for trial in trials)):
        # It is the same study as ever.
        space = dataclasses.replace(space, history=None)
    if eras:
        study.set_user_attr(ERAS, [dataclasses.asdict(era) for era in eras])
    keep_identity(study, identity)
    if changed:
        # A rule that has ended it judged another space.
        study.set_user_attr(STOPPED, None)
        _say(study.study_name, space, trials)
    return study, space


def history_of(
    study: optuna.Study,
    space: SearchSpace,
    config: DictConfig,
    is_group: Callable[[str], bool],
) -> History:
    """How the trials of another study are read in a space.

    Args:
        study: The other study.
        space: In which they are read.
        config: The configuration of the sweep that searches it.
        is_group: Whether a key is a config group.
    """
    trials = study.get_trials(deepcopy=False)
    eras = [Era(**era) for era in study.user_attrs.get(ERAS, [])]
    freed = _values_before(study.user_attrs.get(IDENTITY, {}), space, is_group)
    known = {key: _stored(value) for key, value in freed.items() if value is not _NO_VALUE}
    return _history(trials, [*eras, Era(len(trials), known)], space, config, is_group)


def _history(
    trials: Sequence[FrozenTrial],
    eras: Sequence[Era],
    space: SearchSpace,
    config: DictConfig,
    is_group: Callable[[str], bool],
) -> History:
    known = {key for trial in trials for key in trial.params}
    gone = known.union(*(era.values for era in eras)) - set(space.dimensions)
    fixed = {key: _fixed(key, space, config, is_group) for key in gone}
    return History(eras, {key: forms for key, forms in fixed.items() if forms is not None})


class _NoValue:
    """Of a key of which it is not known what it was."""


_NO_VALUE = _NoValue()


def _values_before(
    known: Mapping[str, Any], space: SearchSpace, is_group: Callable[[str], bool]
) -> dict[str, Any]:
    """What the keys had that are swept now and were not before."""
    before = known.get("space", {})
    if (CUSTOM in before) != (space.custom is not None):
        # What it asked, or asks, is known trial by trial alone.
        return {}
    values: dict[str, Any] = {}
    for key in space.dimensions:
        if key in before:
            continue
        if is_group(key):
            option = key.lstrip("+")
            options = {**groups_gained(known), **known.get("groups", {})}
            values[key] = options.get(option, _NO_VALUE)
            continue
        value: Any = known.get("config", {})
        for part in node_of(key).split("."):
            value = value.get(part, _NO_VALUE) if isinstance(value, dict) else _NO_VALUE
        if value is _NO_VALUE:
            value = keys_gained(known).get(node_of(key), _NO_VALUE)
        if isinstance(value, str) and ("${" in value or value == "???"):
            value = _NO_VALUE
        values[key] = value
    return values


def _as_before(
    known: Mapping[str, Any],
    freed: Mapping[str, Any],
    space: SearchSpace,
    config: DictConfig,
    composer: TrialComposer,
    rules: Rules,
) -> dict[str, Any]:
    """What this command would be about, had it swept what the study did before.

    So what is made of a key that has been set free, or fixed, is no difference.
    """
    unknown = [key for key, value in freed.items() if value is _NO_VALUE]
    if unknown:
        raise ArgumentError(
            unknown[0],
            described(space.dimensions[unknown[0]].distribution),
            "a key of which the study knows what its trials had; of this one it does not",
            _another(),
        )
    before = [key for key in known.get("space", {}) if key != CUSTOM]
    swept = [*before, *(key for key in space.decided(config) if key not in freed)]
    if not freed:
        return identity_of(config, space, rules, swept)
    try:
        composed = composer.compose(freed)
    except SlicewiseError as error:
        values = ", ".join(f"{key}={value}" for key, value in freed.items())
        raise SlicewiseError(
            f"{values}, as the study has had it, cannot be composed any more ({error})\n"
            + _another()
        ) from error
    return identity_of(config, space, rules, swept, composed)


def _stored(value: Any) -> Any:
    """A value of a configuration as a storage keeps it."""
    return override_text(value) if isinstance(value, (list, dict)) else value


def _fixed(
    key: str, space: SearchSpace, config: DictConfig, is_group: Callable[[str], bool]
) -> Sequence[Any] | None:
    """What a key has that is not swept, in each form that a storage may keep.

    None where `custom` asks for it, in some cases.
    """
    if space.custom is not None and key not in space.fixed:
        return None
    if is_group(key):
        chosen = OmegaConf.to_container(config.hydra.runtime.choices)
        assert isinstance(chosen, dict)
        value = chosen.get(key.lstrip("+"))
    else:
        try:
            value = OmegaConf.select(config, node_of(key), default=_NO_VALUE)
        except OmegaConfBaseException:
            return ()
        if value is _NO_VALUE:
            return ()
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value)
    texts = [override_text(value), *(space.fixed[k] for k in (key,) if k in space.fixed)]
    return [form for text in texts for form in stored_forms(value, text)]


def _distributions(trials: Sequence[FrozenTrial]) -> dict[str, list[BaseDistribution]]:
    """What each key of a study's trials was kept under, the first one first."""
    found: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for key, distribution in trial.distributions.items():
            if distribution not in found.setdefault(key, []):
                found[key].append(distribution)
    return found


def _kept(
    key: str,
    own: Dimension,
    stored: Sequence[BaseDistribution],
    trials: Sequence[FrozenTrial],
    study: str,
) -> tuple[Dimension, bool]:
    """The dimension as a study keeps it, and whether its trials must be made anew for that.

    Raises:
        ArgumentError: Some trial's value cannot be kept with this dimension's.
    """
    if not stored:
        return own, False
    try:
        return own.as_stored(stored[0]), False
    except ValueError:
        pass
    values = [(trial.number, trial.params[key]) for trial in trials if key in trial.params]
    if isinstance(own.distribution, CategoricalDistribution):
        options = list(own.distribution.choices)
        before = [c for d in stored if isinstance(d, CategoricalDistribution) for c in d.choices]
        for option in (*before, *(value for _, value in values)):
            if not any(same_value(option, known) for known in options):
                if option in options:
                    raise _refused(key, own, study, f"to Optuna {option!r} is an option already")
                options.append(option)
        if len(options) > _MOST_OPTIONS + len(own.distribution.choices):
            raise _refused(key, own, study, "their other values are too many to be choices")
        return dataclasses.replace(own, kept=CategoricalDistribution(options)), True
    for number, value in values:
        try:
            _holding(own.distribution, value)
        except ValueError as error:
            raise _refused(key, own, study, f"trial {number}: {error}") from error
    return own, True


def _another() -> str:
    return f"Another search is another study: {study_override()}"


def _refused(key: str, own: Dimension, study: str, why: str) -> ArgumentError:
    allowed = f"what the trials of {study_override(study)} can be carried over to ({why})"
    return ArgumentError(key, described(own.distribution), allowed, _another())


def _holding(distribution: BaseDistribution, value: Any) -> BaseDistribution:
    """A distribution of this kind that has the value, wherever it lies.

    Raises:
        ValueError: There is none.
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    number: Any = number_for(distribution, value)
    low, high = min(distribution.low, number), max(distribution.high, number)
    if distribution.log and number <= 0:
        raise ValueError(f"{value!r} has no logarithm")
    if isinstance(distribution, IntDistribution):
        return IntDistribution(int(low), int(high), log=distribution.log)
    return FloatDistribution(low, high, log=distribution.log)


def _made_anew(
    study: optuna.Study, storage: BaseStorage, kept: Mapping[str, BaseDistribution]
) -> optuna.Study:
    """The same study, of whose trials some keys are kept under other distributions.

    Whoever dies over it leaves either the study as it was or a whole copy: see `_finish`.
    """
    name, copied = study.study_name, _COPY.format(study.study_name)

    def anew(trial: FrozenTrial) -> FrozenTrial:
        changed = copy.copy(trial)
        changed.params, changed.distributions = dict(trial.params), dict(trial.distributions)
        for key, distribution in kept.items():
            if key in trial.params:
                held = _holding(distribution, trial.params[key])
                changed.distributions[key] = held
                if not isinstance(held, CategoricalDistribution):
                    assert isinstance(held, (IntDistribution, FloatDistribution))
                    changed.params[key] = number_for(held, trial.params[key])
        return changed

    copy_study(study, storage, copied, anew).set_user_attr(_WHOLE, True)
    _finish(storage, name)
    return optuna.load_study(study_name=name, storage=storage)


def _finish(storage: BaseStorage, name: str) -> None:
    """Ends what a process has begun that died while it made a study anew."""
    copied = _COPY.format(name)
    names = optuna.get_all_study_names(storage)
    if copied not in names:
        return
    found = optuna.load_study(study_name=copied, storage=storage)
    if found.user_attrs.get(_WHOLE):
        if name in names:
            optuna.delete_study(study_name=name, storage=storage)
        copy_study(found, storage, name, but=(_WHOLE,))
    optuna.delete_study(study_name=copied, storage=storage)


def _differs(trial: FrozenTrial, space: SearchSpace) -> bool:
    """Whether a trial is not of this space, as far as it has suggested anything."""
    return not space.holds(trial) or any(
        key in trial.distributions and trial.distributions[key] != dimension.distribution
        for key, dimension in space.dimensions.items()
    )


def _say(name: str, space: SearchSpace, trials: Sequence[FrozenTrial]) -> None:
    finished = [trial for trial in trials if trial.state in FINISHED]
    inside = sum(space.holds(trial) for trial in finished)
    log.info(
        "Study %s goes on in another space: %d of its %d finished trials lie in it, and count",
        name,
        inside,
        len(finished),
    )

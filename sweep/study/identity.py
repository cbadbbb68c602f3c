"""What a study is about: what must stay the same from one resume to the next.

Whatever can change a trial's result decides; the rest may change while a study goes on. `DECIDES`
is the rule. What it does not name decides: a key of an application of one's own, an argument of
Lightning's that was added with `+`.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import optuna
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf._utils import split_key
from omegaconf.errors import OmegaConfBaseException

import slicewise
from slicewise.errors import SlicewiseError
from sweep.command_line import study_override
from sweep.study.attributes import IDENTITY
from sweep.study.gained import keys_gained
from sweep.study.space import CUSTOM, SearchSpace

# Keys of a configuration, and whether what is at or below them can change a result.
Rules = Mapping[str, bool]
DECIDES: Rules = {
    # What the study is called, where it is kept, who works on it, and how it is asked for.
    "study": False,
    "hydra": False,
    "resume": False,
    # What is fitted to what, on what, how, and by what it is judged.
    "seed": True,
    "teacher": True,
    "student": True,
    "data": True,
    "loss": True,
    # Where the teacher's outputs are kept: they are the same from there.
    "data.cache": False,
    "data.cache_limit": False,
    "optimizer": True,
    "scheduler": True,
    "objective": True,
    # Compiled code sums in another order. The other two give the same digits (docs/performance.md).
    "steps.compile": True,
    "steps.capture": False,
    "steps.at_once": False,
    # Ranks that wait for each other: how long, not for what.
    "gang": False,
    # Of a compression: which of its trials there are is the space's; what is done with them comes
    # after. Of healings, the name of the study says what decides.
    "budget": False,
    "choose": False,
    "evaluate": False,
    "embeddings": False,
    "export": False,
    "library.keep": False,
    # Where metrics go.
    "logger": False,
    # Weights, stops and learning rates; but for those of `HARMLESS_CALLBACKS`.
    "callbacks": True,
    # Which device; it may be another machine's.
    "trainer.accelerator": False,
    "trainer.strategy": False,
    # Each adds its batch to every step.
    "trainer.devices": True,
    "trainer.num_nodes": True,
    # In how many digits.
    "trainer.precision": True,
    "trainer.deterministic": True,
    "trainer.benchmark": True,
    "trainer.plugins": True,
    "trainer.sync_batchnorm": True,
    # How many steps, on what of the data.
    "trainer.max_epochs": True,
    "trainer.min_epochs": True,
    "trainer.max_steps": True,
    "trainer.min_steps": True,
    "trainer.max_time": True,
    "trainer.limit_train_batches": True,
    "trainer.limit_val_batches": True,
    "trainer.overfit_batches": True,
    "trainer.fast_dev_run": True,
    "trainer.use_distributed_sampler": True,
    "trainer.reload_dataloaders_every_n_epochs": True,
    # When a fit is validated: that is what a pruner sees.
    "trainer.val_check_interval": True,
    "trainer.check_val_every_n_epoch": True,
    "trainer.num_sanity_val_steps": True,
    "trainer.barebones": True,
    # What a step does.
    "trainer.accumulate_grad_batches": True,
    "trainer.gradient_clip_val": True,
    "trainer.gradient_clip_algorithm": True,
    "trainer.detect_anomaly": True,
    "trainer._target_": True,
    # What is shown and logged.
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "trainer.enable_autolog_hparams": False,
    "trainer.log_every_n_steps": False,
    "trainer.profiler": False,
    # Nothing is tested or predicted, and a validation takes no gradients either way.
    "trainer.limit_test_batches": False,
    "trainer.limit_predict_batches": False,
    "trainer.inference_mode": False,
    # Given by the trial itself, whatever is written here.
    "trainer.callbacks": False,
    "trainer.logger": False,
    "trainer.enable_checkpointing": False,
    "trainer.default_root_dir": False,
    # Where Lightning uploads to.
    "trainer.model_registry": False,
}
# Callbacks that look on, or keep what a fit could be taken up from.
HARMLESS_CALLBACKS = (
    "sweep.trial.resume.ResumePoint",
    "pytorch_lightning.callbacks.*ProgressBar",
    "pytorch_lightning.callbacks.*ModelSummary",
    "pytorch_lightning.callbacks.LearningRateMonitor",
    "pytorch_lightning.callbacks.DeviceStatsMonitor",
)
# What may hold a secret, or the time of day: named in a study, not resolved.
_UNRESOLVED = ("${oc.env:", "${now:")
_VERSION = "version"


def decides(key: str, rules: Rules = DECIDES) -> bool:
    """Whether a key of the configuration, or an override of it, can change a trial's result."""
    return _decides(split_key(node_of(key)), rules)


def _decides(path: Sequence[str], rules: Rules) -> bool:
    prefixes = (".".join(path[:length]) for length in range(len(path), 0, -1))
    return next((rules[prefix] for prefix in prefixes if prefix in rules), True)


def identity_of(
    config: DictConfig,
    space: SearchSpace,
    rules: Rules = DECIDES,
    swept: Collection[str] | None = None,
    composed: DictConfig | None = None,
) -> dict[str, Any]:
    """What the study is about: its space, and all that its trials share and that decides.

    Args:
        config: The sweep's configuration, which knows nothing of what is swept.
        space: What is swept.
        rules: As `DECIDES`; of another application they are others.
        swept: What is left out of the configuration, instead of what is swept.
        composed: The configuration that is described; `config` unless given.

    Returns:
        JSON values: `version` that wrote it; `space`; `config`, what decides of the configuration;
        `overrides`, what decides and the configuration does not show; and `groups`, which option
        each has.
    """
    left_out = space.decided(config) if swept is None else list(swept)
    hidden = [key for key in space.fixed if not _is_shown(config, key)]
    overrides = {key: space.fixed[key] for key in hidden}
    above = space.dimensions if swept is None else swept
    overrides |= {
        key: text for key, text in space.fixed.items() if key not in above and _is_below(key, above)
    }
    overrides |= {text: text for text in space.fixed_overrides if _is_below(text, above)}
    shared = copy.deepcopy(config if composed is None else composed)
    OmegaConf.set_readonly(shared, False)
    OmegaConf.set_struct(shared, False)
    for key in (*left_out, *hidden):
        # What is made of it cannot be resolved then, and so is shown as it is made.
        with contextlib.suppress(OmegaConfBaseException):
            OmegaConf.update(shared, node_of(key), MISSING, force_add=True)
    present = [str(key) for key in shared if not OmegaConf.is_missing(shared, key)]
    names = [name for name in present if _decides([name], rules)]
    chosen = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(chosen, dict)
    return {
        _VERSION: slicewise.__version__,
        "space": space.describe(),
        "config": _deciding({n: _resolved(_value(shared, n)) for n in names}, rules),
        "overrides": {key: text for key, text in overrides.items() if decides(key, rules)},
        "groups": {k: v for k, v in chosen.items() if not str(k).startswith("hydra/")},
    }


def check_identity(
    study: optuna.Study,
    identity: dict[str, Any],
    force: bool,
    rules: Rules = DECIDES,
    begun: bool = False,
) -> None:
    """Refuses to go on with a study that was about something else.

    What is swept may change (`sweep.study.growth`), all else may not.

    Args:
        study: New, or opened again.
        identity: What the study is about, as nested JSON values.
        force: Go on all the same.
        rules: As `identity_of` had them.
        begun: Whether a sweep works on it, though it may have no trials yet.

    Raises:
        SlicewiseError: It differs, with each difference.
    """
    known = study.user_attrs.get(IDENTITY)
    # A study without trials is about nothing yet: a mistake in its first command can be mended.
    has_trials = begun or bool(study.get_trials(deepcopy=False))
    differences = [] if known is None else _differences(known, _as_json(identity), rules)
    if differences and has_trials and not force:
        raise SlicewiseError(
            f"{study_override(study.study_name)} exists and is about something else:\n"
            + "\n".join(differences)
            + f"\nChoose another {study_override()}, or go on all the same with +resume=force"
        )


def keep_identity(study: optuna.Study, identity: dict[str, Any]) -> None:
    """Notes in a study what it is about from now on."""
    identity = _as_json(identity)
    if study.user_attrs.get(IDENTITY) != identity:
        study.set_user_attr(IDENTITY, identity)


def same_space(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two identities search one and the same space."""
    spaces = [
        {key: _in_order(one) for key, one in _as_json(identity).get("space", {}).items()}
        for identity in (one, other)
    ]
    return spaces[0] == spaces[1]


def _as_json(identity: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return found


def node_of(override: str) -> str:
    """The node of the configuration that an override is about."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")


def _is_shown(config: DictConfig, key: str) -> bool:
    """Whether the sweep's configuration holds what a fixed override says.

    It does not where the sweeper's own `params` say it, nor a list that each parsing shuffles.
    """
    given = {text.partition("=")[0]: text for text in config.hydra.overrides.task}
    return key in given and "shuffle(" not in given[key]


def _is_below(override: str, keys: Collection[str]) -> bool:
    """Whether it varies what one of the keys chooses, such as a key of a swept group."""
    path = split_key(node_of(override))
    above = [split_key(node_of(key)) for key in keys]
    return any(path[: len(other)] == other for other in above)


def _resolved(node: Any) -> Any:
    """A part of the configuration as plain values, without what is missing."""
    if isinstance(node, ListConfig):
        return [_resolved(_value(node, index)) for index in range(len(node))]
    if isinstance(node, DictConfig):
        present = (key for key in node if not OmegaConf.is_missing(node, key))
        return {str(key): _resolved(_value(node, key)) for key in present}
    return node


def _value(node: Any, key: Any) -> Any:
    """One value of a node; its text where it cannot be resolved, or should not be."""
    if OmegaConf.is_missing(node, key):
        return MISSING
    if not OmegaConf.is_interpolation(node, key):
        return node[key]
    written: Any = OmegaConf.to_container(node, resolve=False)
    text = written[key]
    if any(part in text for part in _UNRESOLVED):
        return text
    try:
        return node[key]
    except OmegaConfBaseException:
        return text


def _deciding(tree: dict[str, Any], rules: Rules, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """What decides of a configuration of plain values."""
    deciding: dict[str, Any] = {}
    for name, value in tree.items():
        path = (*above, name)
        if not _decides(path, rules):
            continue
        kept = _deciding(value, rules, path) if isinstance(value, dict) else value
        if path == ("callbacks",) and rules is DECIDES:
            kept = {k: one for k, one in (kept or {}).items() if not _is_harmless(one)}
            if not kept:
                # None that decides is none at all, whichever way that is written.
                continue
        deciding[name] = kept
    return deciding


def _is_harmless(callback: Any) -> bool:
    target = str(callback.get("_target_")) if isinstance(callback, dict) else ""
    return any(fnmatch(target, pattern) for pattern in HARMLESS_CALLBACKS)


def _differences(known: dict[str, Any], identity: dict[str, Any], rules: Rules) -> list[str]:
    """What differs between what a study was about and what it is to be about, a line each.

    Another version has other keys, so of its configuration only those count that both know, or of
    which it is known what was without them.
    """
    before, now = _flat(_normal(known, rules)), _flat(_normal(identity, rules))
    gained = {f"config.{key}": value for key, value in keys_gained(known).items()}
    before = {key: value for key, value in gained.items() if key in now} | before
    same_version = known.get(_VERSION) == identity.get(_VERSION)
    differences = []
    for key in sorted({*before, *now}):
        both_know = key in before and key in now and not _is_interpolation(now[key])
        compared = same_version or both_know or key.startswith("space.")
        # A key that a configuration gains is null where it changes nothing.
        if compared and not _same(before.get(key), now.get(key)):
            differences.append(f"  {key}: was {_shown(before, key)}, now {_shown(now, key)}")
    return differences


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one; to == so are 1 and true, and nan is not itself."""
    same = bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
    return same or json.dumps(one) == json.dumps(other)


def _normal(identity: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """Without what does not decide by today's rule, and what is swept."""
    space = identity.get("space", {})
    return {
        "space": {key: space[key] for key in (CUSTOM,) if key in space},
        "config": _deciding(identity.get("config", {}), rules),
        "overrides": identity.get("overrides", {}),
    }


def _in_order(dimension: Any) -> Any:
    choices = dimension["attributes"].get("choices") if isinstance(dimension, dict) else None
    if choices is None:
        return dimension
    return {**dimension, "attributes": {"choices": sorted(choices, key=json.dumps)}}


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _shown(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"

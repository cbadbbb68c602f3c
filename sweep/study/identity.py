"""What a study is about: what must stay the same from one resume to the next."""

from __future__ import annotations

import json
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf

from slicewise.errors import SlicewiseError
from sweep.study.attributes import IDENTITY
from sweep.study.space import SearchSpace

# What must stay the same over the whole study: top-level keys of the configuration.
_IDENTITY_KEYS = (
    "teacher",
    "student",
    "data",
    "optimizer",
    "scheduler",
    "trainer",
    "objective",
    "seed",
)
# Of the trainer, what may change from one resume to the next: where it runs, what it shows. Not
# the number of devices: each adds its batch to every step.
_PLACEMENT_KEYS = ("accelerator", "strategy", "enable_progress_bar")
# Of the data, where its targets are kept.
_CACHE_KEYS = ("cache", "cache_limit")


def identity_of(config: DictConfig, space: SearchSpace) -> dict[str, Any]:
    """What the study is about: its space, and the configuration that all trials share."""
    shared: dict[str, Any] = {}
    for key in _IDENTITY_KEYS:
        if key in config and key not in space.dimensions:
            node = config[key]
            plain = (
                OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
            )
            shared[key] = plain
    for key in _PLACEMENT_KEYS:
        shared.get("trainer", {}).pop(key, None)
    for key in _CACHE_KEYS:
        shared.get("data", {}).pop(key, None)
    for key in space.dimensions:
        group, _, rest = key.lstrip("+").partition(".")
        _remove(shared.get(group), rest)
    return {"space": space.describe(), "config": shared}


def check_identity(study: optuna.Study, identity: dict[str, Any], force: bool) -> None:
    """Refuses to go on with a study that was about something else.

    Args:
        study: New, or opened again.
        identity: What the study is about, as nested JSON values.
        force: Go on all the same, and take the new identity.

    Raises:
        SlicewiseError: It differs, with each difference.
    """
    identity = json.loads(json.dumps(identity))
    known = study.user_attrs.get(IDENTITY)
    # A study without trials is about nothing yet: a mistake in its first command can be mended.
    has_trials = bool(study.get_trials(deepcopy=False))
    before, now = _flat(known or identity), _flat(identity)
    # A key that a release has added is null where it changes nothing.
    differences = [
        f"  {key}: was {_shown(before, key)}, now {_shown(now, key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if differences and has_trials and not force:
        raise SlicewiseError(
            f"study={study.study_name} exists and is about something else:\n"
            + "\n".join(differences)
            + "\nChoose another study=NAME, or go on all the same with +resume=force"
        )
    if known != identity:
        study.set_user_attr(IDENTITY, identity)


def _remove(tree: Any, key: str) -> None:
    """Removes a dotted key, where it is."""
    *above, last = key.split(".")
    for part in above:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(last, None)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _shown(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"

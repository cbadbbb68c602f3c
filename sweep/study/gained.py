"""What configurations have gained since the first studies, and what was without it.

So a study of an earlier version goes on as what it was. A key that is null where it changes nothing
need not be here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEYS = {
    "loss._target_": "slicewise.losses.l1_loss",
    "loss._partial_": True,
    "teacher.sublayer": "layer",
}
# Of config groups: the option that a configuration without them was like.
_GROUPS = {"loss": "l1"}


def keys_gained(known: Mapping[str, Any]) -> Mapping[str, Any]:
    """What keys had that a study of ours may not know.

    Args:
        known: What it is about (`sweep.study.identity`).

    Returns:
        Values by key; of another application's study none.
    """
    return _KEYS if _is_ours(known) else {}


def groups_gained(known: Mapping[str, Any]) -> Mapping[str, str]:
    """The same of config groups: options by group."""
    return _GROUPS if _is_ours(known) else {}


def _is_ours(known: Mapping[str, Any]) -> bool:
    parts = ("config", "groups", "space")
    names = {str(key).split(".")[0] for part in parts for key in known.get(part, {})}
    return {"teacher", "student", "data", "objective"} <= names

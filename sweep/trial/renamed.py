"""Old names of classes that saved configurations, and people's own, still know them by."""

from __future__ import annotations

_NOW = {
    "sweep.metrics.MetricsFile": "sweep.trial.metrics_file.MetricsFile",
    "sweep.resume.ResumePoint": "sweep.trial.resume.ResumePoint",
}


def current_name(target: str) -> str:
    """The dotted name by which a `_target_` is found now."""
    return _NOW.get(target, target)

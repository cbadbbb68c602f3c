"""Rules for the whole suite."""

from __future__ import annotations

import gc
import os
import signal
import sys

import pytest

# The models here are too small for a second thread, and threads of several processes at once
# wait for each other. Before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores Ctrl-C, and so would all programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hydra._internal.utils
import torch
from hypothesis import settings

# A busy machine takes its time; else as hypothesis has it, which in CI is another profile.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")

# Libraries and tests are no garbage: Python need not look for any while it loads them, nor through
# them in each test after.
gc.disable()

if "coverage" in sys.modules:
    # Hydra takes what measures it for a debugger, to which it shows exceptions instead of messages.
    hydra._internal.utils.is_under_debugger = lambda: False


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    there = torch.cuda.device_count()
    for item in items:
        marker = item.get_closest_marker("gpu")
        wanted = marker.args[0] if marker is not None and marker.args else 1
        if marker is not None and there < wanted:
            reason = f"needs {wanted} CUDA devices, there are {there}"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failure, except where CI has no GPU."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI") != "true":
        return
    skipped = reporter.stats.get("skipped", [])
    unexpected = [report.nodeid for report in skipped if "gpu" not in report.keywords]
    if unexpected:
        print("\nskipped, but CI must run them:", *unexpected, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""A Hydra application whose jobs do what a test asks for; run as a script, or as a module."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


@dataclass
class Config:
    do: str = "wait"
    x: int = 0


@dataclass
class Answer:
    """Defined in `__main__`: the process of a job and the launching one must agree on it."""

    x: int
    python: str
    folder: str
    path: list[str]


def wait(config: DictConfig) -> None:
    """Waits for Ctrl-C, as most jobs would meet it."""
    signal.pause()


def stubborn(config: DictConfig) -> None:
    """Does not end on Ctrl-C, nor does the process that it has started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.fork() == 0:
        _leave_note("descendant")
    while True:
        signal.pause()


def answer(config: DictConfig) -> Answer:
    return Answer(config.x, sys.executable, os.getcwd(), sys.path)


def _leave_note(name: str) -> None:
    """Says which process this is, in a file that is there only when it is whole."""
    note = Path(HydraConfig.get().runtime.output_dir, name)
    note.with_suffix(".part").write_text(str(os.getpid()))
    note.with_suffix(".part").rename(note)


@hydra.main(config_name="local_app")
def main(config: DictConfig) -> Any:
    result_of = {"wait": wait, "stubborn": stubborn, "answer": answer}[config.do]
    if config.do != "answer":
        _leave_note("job")
    result = result_of(config)
    print("result", result)
    return result


ConfigStore.instance().store("local_app", Config)

if __name__ == "__main__":
    main()

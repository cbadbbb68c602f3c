"""Anyone's Hydra application, which the sweeper serves as it serves this package's own.

What it needs to know of one: how it is run, so that its studies can be resumed and its trials
repeated by its own command.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from sweep.command_line import STUDY_NAME, program, program_text
from sweep.overrides import override_text
from sweep.passwords import take_passwords

_OWN = __name__.partition(".")[0]
_FOLDER = "hydra.sweep.dir"
# How `+resume=force` may be written.
FORCED = ("+resume", "++resume")


@dataclass(frozen=True)
class AnyApplication:
    """An application that is not this package's own.

    Attributes:
        program: What Python is told to run: a script, or `-m` and a module.
        places: The flags that say where its configuration lies, as they were typed.
        folder: Where it was started.
        source: The folder of its code.
    """

    program: tuple[str, ...]
    places: tuple[str, ...]
    folder: str
    source: str

    @classmethod
    def of(cls, task: TaskFunction) -> AnyApplication | None:
        """The application that runs, by its task function; None where it is this package's own."""
        if str(getattr(task, "__module__", "")).partition(".")[0] == _OWN:
            return None
        file = getattr(sys.modules["__main__"], "__file__", None) or sys.argv[0]
        source = str(Path(file).absolute().parent)
        return cls(tuple(program()), _places(), str(Path.cwd()), source)

    @property
    def text(self) -> str:
        """What one types to run it, without its arguments."""
        return program_text(self.program)

    def command(self, config: DictConfig, study_name: str, directory: Path) -> str:
        """The command that goes on with a study: the one that began it, with its folder and name.

        Args:
            config: The sweep's configuration.
            study_name: Of the study.
            directory: Its folder.
        """
        typed = [a for a in sys.argv[1:] if a.partition("=")[0] not in FORCED]
        for key, value in _settled(config, study_name, directory):
            typed = [a for a in typed if a.partition("=")[0].lstrip("+") != key]
            typed.append(f"{key}={override_text(value)}")
        return f"{self.text} {shlex.join(take_passwords(typed))}"


def _places() -> tuple[str, ...]:
    """The flags of Hydra's that name folders of configurations."""
    given = get_args_parser().parse_intermixed_args()
    flags = {"--config-path": given.config_path, "--config-dir": given.config_dir}
    return tuple(f"{flag}={value}" for flag, value in flags.items() if value is not None)


def _settled(config: DictConfig, study_name: str, directory: Path) -> Iterator[tuple[str, str]]:
    """What the same command might come to something else in, as a time of day does."""
    hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
    if "${" in str(hydra["sweep"]["dir"]):
        here = Path.cwd()
        below = directory.is_relative_to(here)
        yield _FOLDER, str(directory.relative_to(here) if below else directory)
    # Without a name of its own a study has that of its folder.
    if "${" in str(hydra["sweeper"]["study_name"]):
        yield STUDY_NAME, study_name

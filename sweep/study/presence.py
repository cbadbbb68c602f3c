"""Heartbeats: every sweep and worker of a study shows there that it lives, and monitors the others.

A worker of this machine whose process is gone is dead at once. One elsewhere is dead after it
has not shown itself for some rounds of ours; rounds in which the storage was away do not count,
so an outage kills nobody.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna

from sweep.console import warn_of

log = logging.getLogger(__name__)

# Rounds without a sign after which a participant is dead.
MISSED_HEARTBEATS = 6
# Between two signs of a sweep: its workers know within ten seconds that it is gone.
SWEEP_HEARTBEAT_SECONDS = 1.25
_PREFIXES = {"sweep": "sweep:", "worker": "worker:"}


@dataclass
class Heartbeat:
    """What a participant shows of itself, as a user attribute of the study.

    Attributes:
        host: Where its process identifiers mean something.
        hostname: For people.
        pid: Its process.
        beat: Grows while it lives.
        state: `alive`, `ended`, or `dead` where another found it so.
        started: When, ISO 8601.
        sweep: The sweep it belongs to; its own name for a sweep.
        stop: A sweep's word to its workers to stop.
    """

    host: str
    hostname: str
    pid: int
    started: str
    sweep: str
    beat: int = 0
    state: str = "alive"
    stop: bool = False


def own_heartbeat(sweep: str) -> Heartbeat:
    """The sign of this process."""
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    return Heartbeat(host_identity(), socket.gethostname(), os.getpid(), now, sweep)


def read_heartbeats(study: optuna.Study, kind: str) -> dict[str, Heartbeat]:
    """The signs of all sweeps or workers of a study, by name.

    Args:
        study: Which study.
        kind: `sweep` or `worker`.
    """
    prefix = _PREFIXES[kind]
    return {
        key.removeprefix(prefix): Heartbeat(**value)
        for key, value in study.user_attrs.items()
        if key.startswith(prefix)
    }


def write_heartbeat(study: optuna.Study, kind: str, name: str, sign: Heartbeat) -> None:
    """Shows a sign."""
    study.set_user_attr(f"{_PREFIXES[kind]}{name}", asdict(sign))


class HeartbeatMonitor:
    """Judges which of the others live, by looking at them again and again.

    Args:
        seconds: Between two of their signs; looks that follow each other faster count as one.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._looked = -seconds
        self._seen: dict[str, tuple[int, int]] = {}

    def dead(self, signs: dict[str, Heartbeat]) -> set[str]:
        """The names of those who no longer live."""
        now = time.monotonic()
        another_round = now - self._looked >= self._seconds
        if another_round:
            self._looked = now
        dead = set()
        for name, sign in signs.items():
            if sign.state != "alive" or process_is_gone(sign):
                dead.add(name)
                continue
            beat, rounds = self._seen.get(name, (-1, 0))
            rounds = 0 if beat != sign.beat else rounds + another_round
            self._seen[name] = (sign.beat, rounds)
            if rounds >= MISSED_HEARTBEATS:
                dead.add(name)
        return dead


class Presence:
    """Shows one participant in the study for as long as it is entered.

    Args:
        study: Which study; one of its own, as it is used from another thread.
        kind: `sweep` or `worker`.
        name: Unique in the study.
        sign: The first sign.
        seconds: Between two signs.
        check: Called in every round.
        check_seconds: Between two rounds; `seconds` unless given.
    """

    def __init__(
        self,
        study: optuna.Study,
        kind: str,
        name: str,
        sign: Heartbeat,
        seconds: float,
        check: Callable[[], Any] = lambda: None,
        check_seconds: float | None = None,
    ) -> None:
        self.sign = sign
        self._study = study
        self._kind = kind
        self._name = name
        self._seconds = seconds
        self._check = check
        self._check_seconds = seconds if check_seconds is None else min(seconds, check_seconds)
        self._leaving = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._rounds, name=f"presence-{name}", daemon=True)

    def __enter__(self) -> Presence:
        self.show()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._leaving.set()
        self._thread.join()
        self.show(state="ended")

    def show(self, **changes: Any) -> None:
        """Renews the sign, with changes to its attributes."""
        with self._writing:
            for key, value in changes.items():
                setattr(self.sign, key, value)
            self.sign.beat += 1
            write_heartbeat(self._study, self._kind, self._name, self.sign)

    def _rounds(self) -> None:
        shown = time.monotonic()
        while not self._leaving.wait(self._check_seconds):
            try:
                if time.monotonic() - shown >= self._seconds:
                    self.show()
                    shown = time.monotonic()
                self._check()
            except Exception as error:
                # A round that failed is a round missed; the thread must outlive it.
                warn_of(log, f"Could not show that {self._name} lives", error)


def seems_swept(study: optuna.Study) -> bool:
    """Whether another process sweeps a study, at once: another machine's is taken at its word."""
    return any(not process_is_gone(sign) for sign in _other_sweeps(study).values())


def working_sweeps(study: optuna.Study) -> list[str]:
    """The sweeps of other processes that work on a study.

    Of other machines those that renew their signs meanwhile.
    """
    first = _other_sweeps(study)
    here = [name for name, sign in first.items() if process_is_here(sign)]
    elsewhere = {k: s for k, s in first.items() if s.host != host_identity()}
    deadline = time.monotonic() + MISSED_HEARTBEATS * SWEEP_HEARTBEAT_SECONDS
    while elsewhere and not here and time.monotonic() < deadline:
        time.sleep(SWEEP_HEARTBEAT_SECONDS / 2)
        signs = read_heartbeats(study, "sweep")
        here = [name for name, sign in elsewhere.items() if signs[name].beat != sign.beat]
    return here


def _other_sweeps(study: optuna.Study) -> dict[str, Heartbeat]:
    """The signs of sweeps that have not ended; a process has one at a time, its own is no other."""
    return {
        name: sign
        for name, sign in read_heartbeats(study, "sweep").items()
        if sign.state == "alive" and not (sign.pid == os.getpid() and process_is_here(sign))
    }


def process_is_gone(sign: Heartbeat) -> bool:
    """Whether the process behind a sign of this machine has ended."""
    if sign.host != host_identity():
        return False
    try:
        os.kill(sign.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_zombie(sign.pid)


def process_is_here(sign: Heartbeat) -> bool:
    """Whether the process behind a sign runs on this machine."""
    return sign.host == host_identity() and not process_is_gone(sign)


def host_identity() -> str:
    """Names the machine since it was started, and the namespace of process identifiers on it.

    Two containers can share a hostname, and then see different processes under one number.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended but its parent has not asked how."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"

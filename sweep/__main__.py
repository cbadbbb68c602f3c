"""python -m sweep: one fit. python -m sweep -m KEY=A,B,C: a study."""

from __future__ import annotations

import atexit
import gc
import os
import sys

import hydra
from hydra.core.utils import env_override

from slicewise.waiting import LISTENERS
from sweep import application
from sweep.ahead import start_worker_ahead
from sweep.command_line import without_unread
from sweep.console import exit_code_of
from sweep.devices import started_by_torchrun
from sweep.passwords import take_passwords
from sweep.resolvers import register_resolvers
from sweep.streams import settle_streams
from sweep.trust import trusted_targets


def main() -> int:
    register_resolvers()
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        sys.argv = [sys.argv[0], *without_unread(take_passwords(sys.argv[1:]))]
        application.check_given_name(sys.argv[1:])
        hydra_main = hydra.main(
            config_path=str(application.config_directory()),
            config_name=application.CONFIG_NAME,
            execution_whitelist=trusted_targets(),
        )
        if started_by_torchrun() and os.environ["RANK"] != "0":
            from sweep.ranks import torchrun

            # It would say the same as rank 0.
            LISTENERS.clear()
            torchrun.follow()
            return 0
        # Otherwise Hydra prints and exits before we can say what would be allowed.
        with env_override({"HYDRA_FULL_ERROR": "1"}):
            hydra_main(application.run)()
    except (Exception, KeyboardInterrupt) as error:
        return exit_code_of(error, show_traceback)
    return 0


if __name__ == "__main__":
    settle_streams()
    # Python would look for garbage in all that is loaded before it ends: a second.
    atexit.register(gc.freeze)
    start_worker_ahead(sys.argv[1:])
    sys.exit(main())

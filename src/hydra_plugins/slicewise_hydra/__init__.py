"""What Hydra finds of slicewise: `hydra/sweeper=optuna_workers` and its launcher.

Hydra imports every module here for `--help` already, so nothing heavy is imported.
"""

"""Search spaces whose questions depend on earlier answers; `hydra.sweeper.custom_search_space`."""

from __future__ import annotations

from omegaconf import DictConfig
from optuna.trial import Trial

FAMILIES = ("bert_layer", "low_rank", "approx_ffn", "approx")


def students(config: DictConfig, trial: Trial) -> None:
    """Every family that learns, with its own sizes, up to those of MiniLM and larger teachers.

    Args:
        config: The sweep's configuration.
        trial: What suggests.
    """
    family = trial.suggest_categorical("student", FAMILIES)
    trial.suggest_float("optimizer.lr", 3e-4, 5e-3, log=True)
    if family in ("bert_layer", "approx"):
        trial.suggest_categorical("student.attention_hidden_size", (8, 16, 32))
    if family in ("bert_layer", "approx_ffn"):
        trial.suggest_categorical("student.init", ("teacher", "random"))
        trial.suggest_int("student.intermediate_size", 128, 1536, step=32)
    if family in ("approx", "approx_ffn"):
        trial.suggest_int("student.qkv_layers", 0, 4)
        trial.suggest_categorical("student.dropout", (0.0, 0.1))
    if family == "low_rank":
        trial.suggest_int("student.rank", 16, 192, step=16)

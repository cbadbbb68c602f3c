"""What becomes of a trial, from what its ranks have said."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sweep.trial.outcome import End, RankDied
from sweep.trial.run import Share


def verdict(shares: Mapping[int, Share], world_size: int) -> Share:
    """The trial's outcome and record.

    Args:
        shares: By rank, in the order in which they came.
        world_size: How many ranks there are.

    Raises:
        RankDied: The ranks lost each other, and none says why.
    """
    for share in shares.values():
        if share.outcome.end.is_of_one_rank:
            return share
    missing = world_size - len(shares)
    if missing or not in_step(shares.values()):
        silent = [f"{missing} of {world_size} ranks no longer answered"] if missing else []
        outcomes = [share.outcome for share in shares.values()]
        said = [f"{o.end.value}: {o.reason}" for o in outcomes if o.reason]
        raise RankDied("; ".join([*silent, *said]))
    # The only one that has looked at the whole.
    return shares[0]


def in_step(shares: Collection[Share]) -> bool:
    """Whether all ranks came to the same end, so that they can go on with another trial."""
    ends = {share.outcome.end for share in shares}
    return len(ends) == 1 and not any(end is End.LOST or end.is_of_one_rank for end in ends)

"""Shares of a batch: how many of its rows each is, and which cannot be."""

from collections.abc import Sequence
from fractions import Fraction

PLACE_TOLERANCE = 0.01
"""How far a share of a batch may be from whole rows: 0.333 of 12 rows is meant to be 4."""


def shared_places(batch: int, share: float) -> int | None:
    """Rows of a batch that a share of it is; None where these are no whole number of at least one."""
    places = round(batch * share)
    return places if places and abs(batch * share - places) < PLACE_TOLERANCE else None


def _nearest(batch: int, share: float) -> str:
    """What to write instead: the shares just below and above, or the batch."""
    below = int(batch * share)
    options = [
        f"share {places / batch:.6g} ({places} of {batch} rows)" for places in (below, below + 1) if 0 < places < batch
    ]
    whole = Fraction(share).limit_denominator(100).denominator
    larger = -(-batch // whole) * whole
    if shared_places(larger, share) is not None:
        options.append(f"batch {larger}")
    return f"use {' or '.join(options or ['a larger batch'])}"


def check_shares(shares: Sequence[float | None], batch: int) -> None:
    """Raises ``ValueError`` where entries with these shares cannot fill a batch together."""
    stated = [share for share in shares if share is not None]
    if not stated:
        return
    if len(stated) == len(shares):
        raise ValueError("every data entry has a share; fix: leave out one share, that entry fills the rest of a batch")
    for share in stated:
        if shared_places(batch, share) is None:
            raise ValueError(
                f"share {share:g} of batch {batch} is {batch * share:g} rows; fix: {_nearest(batch, share)}"
            )
    if sum(shared_places(batch, share) or 0 for share in stated) >= batch:
        told = " + ".join(f"{share:g}" for share in stated)
        raise ValueError(f"shares {told} leave no row of a batch to the other entries; fix: make their sum less than 1")

"""Rules that settings keep: what must hold, what was found, what to do."""

from collections.abc import Sequence


def require(holds: bool, rule: str, found: object, remedy: str) -> None:
    """Raise ValueError with the rule, what was found and the remedy unless it holds."""
    if not holds:
        raise ValueError(f"{rule}, found {found!r}; {remedy}.")


def require_unique(what: str, names: Sequence[str]) -> None:
    """Raise ValueError, with the repeated names, unless each is there once."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    require(not repeated, f"{what} once", repeated, "remove the repetitions")

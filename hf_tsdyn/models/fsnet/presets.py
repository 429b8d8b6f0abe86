"""The members of the FSNet family as sets of configuration fields, and the changes that lead from one to another."""

from typing import Any

ADVANCED_CHANGES: dict[str, dict[str, Any]] = {
    "aligned_chunks": {"chunk_by": "output"},
    "adaptive_fusion": {"adaptive_fusion": True},
    "dynamic_retrieval": {"num_retrieved": 3, "dynamic_temperature": True},
    "controller_dropout": {"controller_dropout": 0.1},
}
"""What the Advanced variant changes, by name, against the fixed one."""

ULTRA_CHANGES: dict[str, dict[str, Any]] = {
    "memory_heads": {"num_memory_heads": 4},
    "gated_controller": {"controller": "gated_residual"},
    "more_slots": {"num_memory_slots": 64},
    "second_moment": {"track_second_moment": True},
    "adaptive_trigger": {"adaptive_trigger": True},
    "memory_diversity": {"memory_diversity": 1e-3},
}
"""What the Ultra variant changes, by name, against the Advanced one."""

UNCHANGED: dict[str, Any] = {
    "chunk_by": "input",
    "adaptive_fusion": False,
    "num_retrieved": 2,
    "dynamic_temperature": False,
    "controller_dropout": 0.0,
    "num_memory_heads": 1,
    "controller": "linear",
    "num_memory_slots": 32,
    "track_second_moment": False,
    "adaptive_trigger": False,
    "memory_diversity": 0.0,
}
"""The same fields without any change, as published."""


def _merged(*changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: value for each in changes for fields in each.values() for name, value in fields.items()}


PRESETS: dict[str, dict[str, Any]] = {
    "tcn": {"adaptive": False, "memory": "none"},
    "nomem": {"memory": "none"},
    "published": {"memory": "published"},
    "fixed": {"memory": "fixed"},
    "advanced": {"memory": "fixed"} | _merged(ADVANCED_CHANGES),
    "ultra": {"memory": "fixed"} | _merged(ADVANCED_CHANGES, ULTRA_CHANGES),
}
"""Configuration fields of each member, by name."""


def ultra_without(change: str) -> dict[str, Any]:
    """Return the fields of the Ultra variant with one of its ten changes taken back.

    Raises: KeyError on an unknown change.
    """
    taken_back = {name: UNCHANGED[name] for name in (ADVANCED_CHANGES | ULTRA_CHANGES)[change]}
    return PRESETS["ultra"] | taken_back

"""Random numbers that are pure functions of a seed and an index."""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, stream: str, indices: np.ndarray) -> np.ndarray:
    """Return a number in [0, 1) for each of `indices`: a function of (seed, stream, index) alone.

    `stream`: at most 8 characters; other names give independent numbers.
    Source: splitmix64 (Steele, Lea and Flood 2014), whose n-th output needs none of those before it."""
    name = np.frombuffer(stream.encode().ljust(8, b"\0"), np.uint64)
    key = _mix(_mix(name * _GAMMA) ^ np.uint64(seed))
    bits = _mix(key + (indices.astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return (bits >> np.uint64(11)) * 2.0**-53


def generator(seed: int, index: int) -> np.random.Generator:
    """Return the generator that belongs to (seed, index): counter-based, with no state before it."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))

"""The settings of an online study: networks, the methods that start from them, the streams that they meet."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import ArgumentParser

from training.online_methods import OF_NETWORKS, Method, OnlineClaim, Pretrained, Roles, StreamOptions
from training.study_config import NAME, require


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """What is pre-trained, what learns, on which streams, and what is compared.

    Args:
        name: of the study in its results.
        datasets: files of series, or folders of generated datasets, by the names that tables show.
        streams: of each dataset.
        settings: datasets and horizons of every method that names none.
        pretrained: networks by name.
        methods: rows of the tables by name.
        compare: pairs of methods; the first's error less the second's gets an interval wherever both are scored. So
            does every method's to its own frozen network, to persistence and to ridge under delayed feedback.
        roles: of methods.
        groups: methods by the title of their part of the table.
        leave_one_out: by method, {method that lacks one part: text of that part}.
        claims: errors from elsewhere by the name of their method.
        remarks: sentences that the page adds to its limits: how the study came about, what was known beforehand.
        candidates: learning rates that `chosen` chooses from, beside 0.
        seeds: of every method that names none.
        checkpoint_every: forecasts after which a learner is saved, so that a cell that was stopped goes on from there.
        num_resamples, confidence, bootstrap_seed: of the intervals.
        output_dir: folder of the study.
        jobs: processes at once, of one thread each; -1 = one per core.
        backend: dask, ray or another joblib backend; null = processes of this machine.
        only: methods to run now; all by default. Tables hold whatever is done.
    Raises: ValueError on names that are unknown or no names of folders, or values that break a rule.
    """

    name: str
    datasets: dict[str, str]
    streams: dict[str, StreamOptions]
    settings: dict[str, tuple[int, ...]]
    pretrained: dict[str, Pretrained] = field(default_factory=dict)
    methods: dict[str, Method]
    compare: list[tuple[str, str]] = field(default_factory=list)
    roles: Roles = field(default_factory=Roles)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    leave_one_out: dict[str, dict[str, str]] = field(default_factory=dict)
    claims: dict[str, OnlineClaim] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    candidates: tuple[float, ...] = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4)
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint_every: int = 1000
    num_resamples: int = 2000
    confidence: float = 0.95
    bootstrap_seed: int = 0
    output_dir: str
    jobs: int = 1
    backend: str | None = None
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.methods), "methods must name a method at least", self.methods, "add one")
        for name in (*self.methods, *self.pretrained, *self.datasets):
            require(bool(NAME.fullmatch(name)), "names must be letters, digits and . = + - _ alone", name, "rename it")
        rule = f"streams must say how each of the datasets {list(self.datasets)} is read"
        require(set(self.streams) == set(self.datasets), rule, list(self.streams), "name the same")
        self._check_settings("settings", self.settings)
        for name, method in self.methods.items():
            self._check_method(name, method)
        self._check_names()
        for name in ("checkpoint_every", "num_resamples"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name), "raise it")
        require(self.jobs >= 1 or self.jobs == -1, "jobs must be at least 1, or -1", self.jobs, "give -1")
        require(0 < self.confidence < 1, "confidence must lie between 0 and 1", self.confidence, "correct it")
        fine = bool(self.candidates) and min(self.candidates) >= 0
        require(fine, "candidates must be learning rates of at least 0", self.candidates, "correct them")

    def _check_settings(self, where: str, settings: dict[str, tuple[int, ...]]) -> None:
        horizons = [horizon for each in settings.values() for horizon in each]
        fine = set(settings) <= set(self.datasets) and bool(horizons) and min(horizons) >= 1
        rule = f"{where} must give horizons of at least 1 to some of the datasets {list(self.datasets)}"
        require(fine, rule, settings, "correct it")

    def _check_method(self, name: str, method: Method) -> None:
        if method.settings is not None:
            self._check_settings(f"methods.{name}.settings", method.settings)
        seeds, kind, members = self.seeds_of(method), method.learner.kind, method.learner.members
        fine = bool(seeds) and len(set(seeds)) == len(seeds) and min(seeds) >= 0
        require(fine, f"the seeds of method {name} must be different numbers from 0", seeds, "correct them")
        fine = len(set(method.protocols)) == len(method.protocols) > 0
        require(fine, f"method {name} must have protocols, each once", method.protocols, "correct them")
        expected = OF_NETWORKS.get(kind, False)
        rule = f"method {name}, of kind {kind}, must {'' if expected else 'not '}start from a network"
        require(expected in (None, method.start is not None), rule, method.start, "correct start")
        rule = f"method {name} must start from a network whose model it changes"
        require(method.start is not None or not method.model, rule, method.model, "leave model out")
        rule = f"method {name}, of kind {kind}, must have members if and only if it is a mixture, no mixture or ridge"
        wrong = [m for m in members if m in self.methods and self.methods[m].learner.kind in ("mixture", "ridge")]
        require(bool(members) == (kind == "mixture") and not wrong, rule, members, "correct them")
        fine = len(set(members)) == len(members)
        require(fine, f"the members of method {name} must be different", members, "name each once")
        bound = [m for m in members if m in self.methods and self.methods[m].is_bound_to_protocol]
        wrong = [m for m in bound if set(method.protocols) - set(self.methods[m].protocols)]
        rule = f"the members of method {name} must be able to serve its protocols {list(method.protocols)}"
        require(not wrong, rule, wrong, "leave them out, or give it others")
        rule = f"method {name}, of kind copy_last, copies what one protocol reveals and must serve it alone"
        fine = kind != "copy_last" or method.protocols == ("immediate",)
        require(fine, rule, method.protocols, "give protocols [immediate]")
        rule = f"the learning rate of method {name} is chosen by delayed replay and must serve that protocol alone"
        require(not method.is_rate_chosen or method.protocols == ("delayed",), rule, method.protocols,
                "give protocols [delayed]")  # fmt: skip

    def _check_names(self) -> None:
        """Refuse methods, networks and datasets that are named and are not there."""
        methods = {*self.only, *self.roles.names}
        methods |= {name for each in (*self.compare, *self.groups.values()) for name in each}
        methods |= {name for full, without in self.leave_one_out.items() for name in (full, *without)}
        for method in self.methods.values():
            methods |= {*method.learner.members, *(each for each in (method.frozen, method.memory_off) if each)}
        unknown = sorted(methods - set(self.methods))
        rule = "only, compare, roles, groups, leave_one_out, members, frozen and memory_off must name methods"
        require(not unknown, f"{rule}, which are {list(self.methods)}", unknown, "correct them")
        starts = {method.start for method in self.methods.values()} - {None}
        lost = sorted(starts - set(self.pretrained), key=str)
        require(not lost, f"methods must start from one of {list(self.pretrained)}", lost, "correct them")
        places = {f"{dataset}-{horizon}" for each in self.methods.values() for dataset, horizon in self.places_of(each)}
        lost = sorted({place for each in self.pretrained.values() for place in each.overrides_at} - places)
        require(not lost, f"overrides_at must name some of {sorted(places)}", lost, "correct them")
        lost = [name for name, claim in self.claims.items() if claim.dataset not in self.datasets]
        require(not lost, f"claims must be about one of the datasets {list(self.datasets)}", lost, "correct them")

    def seeds_of(self, method: Method) -> tuple[int, ...]:
        """Return the seeds of a method."""
        return self.seeds if method.seeds is None else method.seeds

    def places_of(self, method: Method) -> Iterator[tuple[str, int]]:
        """Yield the datasets and horizons of a method."""
        settings = self.settings if method.settings is None else method.settings
        return ((dataset, horizon) for dataset, horizons in settings.items() for horizon in horizons)

    def team_of(self, name: str) -> dict[str, Method]:
        """Return the method of this name and its members, by name."""
        return {each: self.methods[each] for each in (name, *self.methods[name].learner.members)}

    def has_draws(self, name: str) -> bool:
        """Return whether a method's seeds make a difference: whether it, or a member, starts from a network."""
        return any(method.start is not None for method in self.team_of(name).values())

    def frozen_of(self, name: str) -> str | None:
        """Return the method that is this one without learning; None of what does not learn, or where none is."""
        if not self.methods[name].learns:
            return None
        if self.methods[name].frozen is not None:
            return self.methods[name].frozen
        starts = [method.start for method in self.team_of(name).values() if method.start is not None]
        frozen = (
            other
            for other, method in self.methods.items()
            if method.learner.kind == "frozen" and not method.model and method.start in starts[:1]
        )
        return next(frozen, None)


def load_online_config(arguments: Sequence[str] | None = None) -> OnlineConfig:
    """Return the settings of a command line.

    Raises: SystemExit with a message on unknown keys, wrong types or values that break a rule.
    """
    parser = ArgumentParser(
        prog="python -m training.run_online", description="Pre-train, then learn online.", allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file; options after it override it")
    parser.add_class_arguments(OnlineConfig, skip={"only"})
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="methods to run now")
    namespace = parser.parse_args(arguments)
    try:
        settings = parser.instantiate(namespace)
        values: dict[str, Any] = {item.name: settings[item.name] for item in dataclasses.fields(OnlineConfig)}
        values["only"] = tuple(values["only"])
        return OnlineConfig(**values)
    except (TypeError, ValueError) as error:
        parser.error(str(error))

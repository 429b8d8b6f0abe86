"""How a model of one system is scored after its training, and what its card says that no number does."""

from dataclasses import dataclass, field, fields

from hf_tsdyn.reconstruction import ReconstructionProtocol


@dataclass(frozen=True)
class ReconstructionConfig(ReconstructionProtocol):
    """How a reconstruction is scored and shown.

    Args:
        name: of the model in tables, cards and results files; that of its run and cell by default.
        model_id: folder or Hub name for `from_pretrained` in the card's example; model_cards/NAME by default.
        system: what the series is of.
        dt: time between two steps, the unit of exponents.
        known: published values by metric (`lyapunov_max`, `kaplan_yorke_dimension`), shown beside the model's.
        ship_weights: false where the licence of the series does not cover weights or pictures of it.
        license: of weights and card, as the Hub spells it; "" where none is chosen yet."""

    name: str | None = None
    model_id: str | None = None
    system: str = "series"
    dt: float = 1.0
    known: dict[str, float] = field(default_factory=dict)
    ship_weights: bool = True
    license: str = "apache-2.0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.dt < float("inf"):
            raise ValueError(f"dt must be a time above 0, found {self.dt}; give the sampling interval, or 1.")

    @property
    def protocol(self) -> ReconstructionProtocol:
        """What of it decides the scores."""
        return ReconstructionProtocol(
            **{item.name: getattr(self, item.name) for item in fields(ReconstructionProtocol)}
        )

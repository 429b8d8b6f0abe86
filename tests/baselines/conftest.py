"""Series that several baselines are tried on."""

import numpy as np
import pytest
import scipy.integrate
import torch


@pytest.fixture(scope="session")
def lorenz() -> torch.Tensor:
    """Lorenz-63 after its transient, (1, 2500, 3) float64, 0.02 units of time a step; its exponent is 0.906."""

    def flow(_, state):
        x, y, z = state
        return [10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]

    times = 20 + 0.02 * np.arange(2500)
    options = {"method": "DOP853", "rtol": 1e-10, "atol": 1e-10}
    found = scipy.integrate.solve_ivp(flow, (0, times[-1]), [1.0, 2.0, 20.0], t_eval=times, **options)
    return torch.from_numpy(found.y.T.copy())[None]

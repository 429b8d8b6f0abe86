"""The linear system that fits a series best: the baseline of models that reconstruct one system."""

import numpy as np
import torch

from .models.alrnn import ALRNNConfig, ALRNNForPrediction


def fit_linear_model(values: np.ndarray) -> ALRNNForPrediction:
    """Return the linear system x[t+1] = B x[t] + c with the least squared error on a series (time, channels).

    The AL-RNN without rectified and hidden units: a baseline whose free run decays to a point, circles or explodes.
    Raises: ValueError on anything but a finite series of more steps than its coefficients need.
    """
    if values.ndim != 2 or len(values) < values.shape[1] + 2 or not np.isfinite(values).all():
        raise ValueError(
            "values must be a finite series (time, channels) of at least channels + 2 steps, found shape "
            f"{values.shape}, finite: {bool(np.isfinite(values).all())}; give a longer one, or fill its gaps."
        )
    channels = values.shape[1]
    loc, spread = values.mean(axis=0), values.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    scaled = (values - loc) / scale
    design = np.column_stack([scaled[:-1], np.ones(len(scaled) - 1)])
    solution = np.linalg.lstsq(design, scaled[1:], rcond=None)[0]
    model = ALRNNForPrediction(ALRNNConfig(num_channels=channels, hidden_size=channels, num_relu_units=0)).eval()
    model.set_scaler(loc.tolist(), scale.tolist())
    fitted = {"A": np.zeros(channels), "W": solution[:channels].T, "h": solution[channels]}
    with torch.no_grad():
        for name, value in fitted.items():
            getattr(model.model, name).copy_(torch.from_numpy(value))
    return model

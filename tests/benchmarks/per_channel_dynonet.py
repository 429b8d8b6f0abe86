"""DynoNet as one would write it first: plain torch, one nn.GRU for each worker, one worker after the other."""

import torch
from torch import nn

from hf_tsdyn import DynoNetForPrediction


def linear(weight, bias):
    """Return nn.Linear of these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def gru(source, group):
    """Return nn.GRU of the weights of one group of a module of ours."""
    weights = {f"{name}_l0": getattr(source, name)[group] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    layer = nn.GRU(weights["weight_ih_l0"].shape[1], weights["weight_hh_l0"].shape[1], batch_first=True)
    layer.load_state_dict(weights)
    return layer


class Worker(nn.Module):
    """The forecaster of one channel."""

    def __init__(self, workers, channel):
        super().__init__()
        self.embedding = linear(workers.input_weight[channel], workers.input_bias[channel])
        self.position = nn.Parameter(workers.position[channel].clone())
        self.grus = nn.ModuleList(gru(layer, channel) for layer in workers.layers)
        self.norms = nn.ModuleList(nn.LayerNorm(workers.position.shape[2]) for _ in workers.layers)
        for norm, layer in zip(self.norms, workers.layers, strict=True):
            norm.load_state_dict({"weight": layer.norm_weight[channel], "bias": layer.norm_bias[channel]})
        self.hidden = linear(workers.hidden_weight[channel], workers.hidden_bias[channel])
        self.output = linear(workers.output_weight[channel], workers.output_bias[channel])

    def forward(self, residual, gate, films, context):
        """(B, steps), (B, h), a pair (B, h) a layer and (B, h) to (B, horizon)."""
        state = (self.embedding(residual[..., None]) + self.position) * gate[:, None]
        for number, (layer, norm, (gamma, beta)) in enumerate(zip(self.grus, self.norms, films, strict=True)):
            states = norm(gamma[:, None] * layer(state)[0] + beta[:, None])
            state = states if number == 0 else state + states
        return self.output(nn.functional.gelu(self.hidden(torch.cat([state[:, -1], context], dim=1))))


class PerChannelDynoNet(nn.Module):
    """The published network with the weights of a model of ours, for complete windows and without dropout and noise."""

    def __init__(self, model: DynoNetForPrediction):
        super().__init__()
        config, net = model.config, model.model
        self.channels, self.window, self.steps = config.num_channels, config.trend_window, config.worker_context_length
        self.norm_weight = nn.Parameter(net.norm_weight.detach().clone())
        self.norm_bias = nn.Parameter(net.norm_bias.detach().clone())
        controller = net.controller
        self.reader = gru(controller.reader, 0)
        self.films = nn.ModuleList(linear(head.weight, head.bias) for head in controller.film)
        self.gate = linear(controller.gate.weight, controller.gate.bias)
        self.context = linear(controller.context.weight, controller.context.bias)
        self.workers = nn.ModuleList(Worker(net.workers, channel) for channel in range(self.channels))
        self.trend_head = linear(net.trend_head.weight, net.trend_head.bias)
        first, last = (linear(net.mixer[at].weight, net.mixer[at].bias) for at in (0, -1))
        self.mixer = nn.Sequential(first, nn.GELU(), last)

    def forward(self, values):
        """(B, L, C) to (B, horizon, C)."""
        loc = values.mean(dim=1, keepdim=True).detach()
        scale = (values.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt().detach()
        values = (values - loc) / scale * self.norm_weight + self.norm_bias
        state = self.reader(values)[0][:, -1]
        films = [head(state).unflatten(1, (self.channels, -1)).chunk(2, dim=2) for head in self.films]
        films = [(1 + 0.1 * gamma.tanh(), 0.1 * beta.tanh()) for gamma, beta in films]
        gates, context = self.gate(state).sigmoid().unflatten(1, (self.channels, -1)), self.context(state)
        series, reach = values.transpose(1, 2), self.window // 2
        ends = series[..., :1].expand(-1, -1, reach), series[..., -1:].expand(-1, -1, reach)
        trend = nn.functional.avg_pool1d(torch.cat([ends[0], series, ends[1]], dim=2), self.window, stride=1)
        residual = (series - trend)[..., -self.steps :]
        forecasts = []
        for channel, worker in enumerate(self.workers):
            own_films = [(gamma[:, channel], beta[:, channel]) for gamma, beta in films]
            forecast = worker(residual[:, channel], gates[:, channel], own_films, context)
            forecasts.append(self.trend_head(trend[:, channel]) + forecast)
        forecast = torch.stack(forecasts, dim=2)
        forecast = forecast + self.mixer(forecast)
        return (forecast - self.norm_bias) / (self.norm_weight + 1e-10) * scale + loc

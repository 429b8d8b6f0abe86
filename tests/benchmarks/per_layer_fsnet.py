"""The FSNet family as one would write it first from its equations: plain torch, one module for each convolution."""

import torch
from torch import nn
from torch.nn.functional import conv1d, cosine_similarity, gelu, normalize, silu

from hf_tsdyn.models.fsnet import FSNetForPrediction


def linear(weight, bias):
    """Return nn.Linear of copies of these weights; a vector is the one row of a map to a single number."""
    weight, bias = torch.atleast_2d(weight), torch.atleast_1d(bias)
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def taps_last(weight, kernel_size):
    """(size, rows, kinds x taps, inputs) to (size, kinds x rows x inputs x taps), the order of flat gradients."""
    return torch.cat([kind.mT.flatten(1) for kind in weight.split(kernel_size, dim=2)], dim=1)


def taps_first(weight, rows, inputs, kernel_size):
    """Undo `taps_last`."""
    kinds = weight.unflatten(1, (-1, rows, inputs, kernel_size)).mT
    return kinds.permute(0, 2, 1, 3, 4).flatten(2, 3)


class Controller(nn.Module):
    """Chunks of gradients (n, values) to what is said of them, (n, size)."""

    def __init__(self, source, index, kernel_size):
        super().__init__()
        self.first = linear(taps_last(source.weight[index], kernel_size), source.bias[index])
        self.gate = self.second = None
        if source.gate is not None:
            self.gate = linear(source.gate.weight[index], source.gate.bias[index])
            self.second = linear(source.second.weight[index], source.second.bias[index])

    def forward(self, chunks):
        hidden = silu(self.first(chunks))
        if self.gate is None or self.second is None:
            return hidden
        gate = torch.sigmoid(self.gate(hidden))
        return (1 - gate) * hidden + gate * silu(self.second(hidden))


class Memory(nn.Module):
    """Slots (size, count), read by attention of the running average of queries."""

    def __init__(self, config, source, index):
        super().__init__()
        self.config = config
        self.slots = source.slots[index].clone()
        self.temperature = None
        if config.dynamic_temperature:
            self.temperature = linear(source.temperature_weight[index], source.temperature_bias[index])

    def ask(self, average, query, *, learning):
        """Return what is read, (size,); slots learn in a learning forward."""
        config = self.config
        temperature = 0.5 if self.temperature is None else 0.3 + 0.4 * torch.sigmoid(self.temperature(query))
        reads, written = [], self.slots.clone()
        size = len(average) // config.num_memory_heads
        for head in range(config.num_memory_heads):
            asked, slots = average[head * size : (head + 1) * size], self.slots[head * size : (head + 1) * size]
            attention = torch.softmax(asked @ slots / temperature, dim=0)
            weights, chosen = attention.topk(config.num_retrieved)
            weights = weights / weights.sum() if config.dynamic_temperature else weights.detach()
            read = slots[:, chosen] @ (chosen.to(slots.dtype) if config.memory == "published" else weights)
            new = (read if config.memory_write == "read" else asked).detach()
            place = written[head * size : (head + 1) * size]
            place[:, chosen] = 0.75 * slots[:, chosen] + 0.25 * torch.outer(new, weights.detach())
            reads.append(read)
        if learning:
            self.slots = self.bounded(self.less_alike(written))
        return torch.cat(reads)

    def less_alike(self, slots):
        """Take one gradient step against the penalty on slots that are alike."""
        if not self.config.memory_diversity:
            return slots
        with torch.enable_grad():
            slots.requires_grad_()
            unit = slots / slots.norm(dim=0)
            different = ~torch.eye(slots.shape[1], dtype=torch.bool)
            penalty = self.config.memory_diversity * (unit.T @ unit)[different].square().mean()
            step = torch.autograd.grad(penalty, slots)[0]
        return slots.detach() - step

    def bounded(self, slots):
        norm = slots.norm() if self.config.slot_normalization == "memory" else slots.norm(dim=0)
        return slots / (torch.relu(norm - 1) + 1)


class Calibration(nn.Module):
    """Scales of one convolution from averages of its gradients, and the state that they come from."""

    def __init__(self, config, source, index, shape):
        super().__init__()
        self.config, self.shape = config, shape
        outputs, inputs, kernel_size = shape
        self.chunks = outputs if config.chunk_by == "output" else inputs
        self.rows = outputs // self.chunks
        self.controller = Controller(source.controller, index, kernel_size)
        heads = (each[index].split([kernel_size, self.rows, self.rows]) for each in vars_of(source.heads))
        self.heads = nn.ModuleList(linear(*each) for each in zip(*heads, strict=True))
        averages = source.averages
        self.slow, self.fast = averages.slow[index].mT.clone(), averages.fast[index].mT.clone()
        self.second = averages.second[index].mT.clone() if config.track_second_moment else None
        self.num_steps, self.trigger = int(averages.num_steps), bool(averages.trigger[index])
        self.threshold = averages.threshold[index].clone()
        self.memory = self.fusion = self.query = None
        if config.memory != "none":
            self.memory = Memory(config, source.memory, index)
            self.query = source.query[index].clone() if source.has_query else None
        if config.memory != "none" and config.adaptive_fusion:
            self.fusion = linear(source.fusion_weight[index], source.fusion_bias[index])

    def forward(self, *, learning):
        """Return scales of weights (outputs or 1, inputs or 1, kernel_size), of biases and of features (outputs,)."""
        outputs, inputs, kernel_size = self.shape
        read = [self.slow.reshape(self.chunks, -1)]
        if self.second is not None:
            corrected = self.second / (1 - self.config.second_moment_decay ** max(self.num_steps, 1))
            read.append(corrected.sqrt().reshape(self.chunks, -1))
        said = self.controller(torch.cat(read, dim=1))
        query = torch.cat([head(said).flatten() for head in self.heads])
        if self.memory is not None:
            query = self.recall(query, said, learning=learning)
        weight, bias, feature = query.split([self.chunks * kernel_size, outputs, outputs])
        by_output = self.config.chunk_by == "output"
        return weight.view((outputs, 1, kernel_size) if by_output else (1, inputs, kernel_size)), bias, feature

    def recall(self, query, said, *, learning):
        average = torch.zeros_like(query) if self.query is None else 0.3 * self.query + 0.7 * query
        if learning:
            self.query = average.detach()
        if not self.trigger:
            return query
        if learning:
            self.trigger = False
        read = self.memory.ask(average, query, learning=learning)
        share = 0.75 if self.fusion is None else torch.sigmoid(self.fusion(said.mean(dim=1)))
        return share * query + (1 - share) * read

    def after_optimizer_step(self, gradient, *, online):
        config = self.config
        found = normalize(gradient, dim=1)
        self.fast = config.fast_decay * self.fast + (1 - config.fast_decay) * found
        if online or config.memory_in_training:
            below = cosine_similarity(self.fast.flatten(), self.slow.flatten(), dim=0, eps=1e-6) < self.threshold
            self.trigger = self.trigger or bool(below)
            if config.adaptive_trigger:
                self.threshold = torch.clip(self.threshold + 0.01 * (0.01 - below.double()), -0.95, -0.25)
        self.slow = config.slow_decay * self.slow + (1 - config.slow_decay) * found
        if self.second is not None:
            decay = config.second_moment_decay
            self.second = decay * self.second + (1 - decay) * found.square()
        self.num_steps += 1


def vars_of(layer):
    """Weight and bias."""
    return layer.weight, layer.bias


class Convolution(nn.Module):
    """One dilated convolution over the whole window, (batch, inputs, time) to (batch, outputs, time)."""

    def __init__(self, config, bank, index, dilation):
        super().__init__()
        self.weight = nn.Parameter(bank.weight[index].detach().clone())
        self.bias = nn.Parameter(bank.bias[index].detach().clone())
        self.dilation, self.padding = dilation, dilation * (config.kernel_size // 2)
        self.calibration = None
        if config.adaptive:
            self.calibration = Calibration(config, bank.calibration, index, self.weight.shape)

    def forward(self, values, *, learning):
        placed = {"padding": self.padding, "dilation": self.dilation}
        if self.calibration is None:
            return conv1d(values, self.weight, self.bias, **placed)
        weight, bias, feature = self.calibration(learning=learning)
        return feature[:, None] * conv1d(values, self.weight * weight, self.bias * bias, **placed)

    def tensors(self, of):
        """Return `of` each parameter, under the name and with the layout that a bank of ours stacks."""
        found = {"weight": of(self.weight), "bias": of(self.bias)}
        if self.calibration is None:
            return found
        controller, heads, memory = self.calibration.controller, self.calibration.heads, self.calibration.memory
        rows, (_, inputs, kernel_size) = self.calibration.rows, self.weight.shape
        layers = {"controller.gate": controller.gate, "controller.second": controller.second}
        parts = {f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items() if layer for kind in KINDS}
        maps = {"fusion": self.calibration.fusion, "memory.temperature": memory and memory.temperature}
        rowlike = {f"{name}_{kind}": getattr(layer, kind) for name, layer in maps.items() if layer for kind in KINDS}
        named = {name: of(value) for name, value in parts.items()}
        named |= {name: of(value)[0] for name, value in rowlike.items()}
        named |= {f"heads.{kind}": torch.cat([of(getattr(head, kind)) for head in heads]) for kind in KINDS}
        named["controller.weight"] = taps_first(of(controller.first.weight), rows, inputs, kernel_size)
        named["controller.bias"] = of(controller.first.bias)
        return found | {f"calibration.{name}": value for name, value in named.items()}

    def state(self):
        """Return what is not a parameter, as `tensors` does."""
        own = self.calibration
        if own is None:
            return {}
        found = {"slow": own.slow.mT, "fast": own.fast.mT, "threshold": own.threshold}
        if own.second is not None:
            found["second"] = own.second.mT
        found = {f"calibration.averages.{name}": value for name, value in found.items()}
        if own.memory is None:
            return found
        kept = {"averages.trigger": torch.tensor(own.trigger), "query": own.query, "memory.slots": own.memory.slots}
        return found | {f"calibration.{name}": value for name, value in kept.items()}


KINDS = ("weight", "bias")


class PerLayerFSNet(nn.Module):
    """A network with the weights and the state of a model of ours, for complete windows and without dropout."""

    def __init__(self, model: FSNetForPrediction):
        super().__init__()
        config, network = model.config, model.model.network
        self.config, self.loc, self.scale = config, model.loc, model.scale
        self.input_projection = linear(*vars_of(model.model.input_projection))
        self.layers = nn.ModuleList()  # in the order in which they are met
        for bank in network.banks:
            for index in range(len(bank.weight)):
                self.layers.append(Convolution(config, bank, index, 2 ** (len(self.layers) // 2)))
        self.residual = linear(*vars_of(network.residual))
        self.head = linear(*vars_of(model.head))
        self.sizes = [len(bank.weight) for bank in network.banks]

    def forward(self, past_values, past_time_features=None, *, learning=False):
        """(batch, context_length, channels) to (batch, prediction_length, channels), data units."""
        values = (past_values - self.loc) / self.scale
        level = values[:, -1:] if self.config.anchor == "last" else 0.0
        features = [] if past_time_features is None else [past_time_features]
        values = self.input_projection(torch.cat([values - level, *features], dim=2)).transpose(1, 2)
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            residual = values if second is not self.layers[-1] else self.residual(values.mT).mT
            values = second(gelu(first(gelu(values), learning=learning)), learning=learning) + residual
        found = self.head(values[:, :, -1]).unflatten(1, (-1, self.config.num_channels))
        return (found + level) * self.scale + self.loc

    def after_optimizer_step(self, *, online):
        for layer in self.layers:
            if layer.calibration is not None:
                layer.calibration.after_optimizer_step(layer.weight.grad, online=online)

    def as_ours(self, of):
        """Return `of` each parameter under the names of our model."""
        maps = {"model.input_projection": self.input_projection, "model.network.residual": self.residual}
        maps["head"] = self.head
        found = {f"{name}.{kind}": of(getattr(layer, kind)) for name, layer in maps.items() for kind in KINDS}
        return found | self._stacked([layer.tensors(of) for layer in self.layers])

    def state_as_ours(self):
        """Return the state of all layers under the names of our buffers; queries that are not there are left out."""
        return self._stacked([layer.state() for layer in self.layers])

    def _stacked(self, layers):
        found, first = {}, 0
        for index, size in enumerate(self.sizes):
            for name in layers[first] if size else ():
                values = [layer[name] for layer in layers[first : first + size]]
                if values[0] is not None:
                    found[f"model.network.banks.{index}.{name}"] = torch.stack(values)
            first += size
        return found

"""CPU seconds of dystformer on one core, beside transformers' PatchTST of the same shape and the core's own floor."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PatchTSTConfig, PatchTSTForPrediction

from hf_tsdyn import DystformerConfig, DystformerForMaskedModeling, DystformerForPrediction

pytestmark = pytest.mark.bench

SHAPE = {"context_length": 512, "prediction_length": 128, "patch_length": 16}
WIDTH, LAYERS, HEADS, FFN, BATCH, CHANNELS = 256, 4, 8, 512, 8, 3


@pytest.fixture(autouse=True)
def one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def batch():
    values = torch.randn(BATCH, 640, CHANNELS, generator=torch.Generator().manual_seed(0)).cumsum(1)
    return {"past_values": values[:, :512], "future_values": values[:, 512:]}


def build(model_class=DystformerForPrediction, **fields):
    torch.manual_seed(0)
    shape = {"d_model": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "ffn_dim": FFN}
    return model_class(DystformerConfig(**(SHAPE | shape | {"num_poly_feats": 56, "num_rff": 128} | fields)))


def patchtst():
    torch.manual_seed(0)
    config = PatchTSTConfig(
        num_input_channels=CHANNELS,
        **SHAPE,
        patch_stride=16,
        d_model=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        ffn_dim=FFN,
        loss="mse",
        share_projection=True,
        pooling_type="mean",
        attention_dropout=0.0,
        head_dropout=0.0,
    )
    return PatchTSTForPrediction(config)


def cpu_seconds(call, repetitions=5):
    call()
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def training_step(model, batch):
    def step():
        model.zero_grad()
        model.train()(**batch).loss.backward()

    return step


def peak_flops():
    """Multiply-adds of one large matrix product in float32, per second."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / cpu_seconds(lambda: a @ a)


@pytest.mark.parametrize("channel_attention", [False, True], ids=["channel_independent", "channel_mixing"])
def test_training_step_beside_patchtst_and_the_floor(batch, channel_attention):
    ours = training_step(build(channel_attention=channel_attention), batch)
    taken, theirs = cpu_seconds(ours), cpu_seconds(training_step(patchtst(), batch))
    with FlopCounterMode(display=False) as counter:
        ours()
    share = counter.get_total_flops() / taken / peak_flops()
    print(f"\n{1e3 * taken:.0f} ms a step, {taken / theirs:.2f} times PatchTST's, {share:.0%} of the core's peak")


def test_quantiles_of_sampled_paths_beside_point_forecasts(batch):
    model = build(distribution="quantiles").eval()
    past_values = batch["past_values"][:2]
    point = cpu_seconds(lambda: model.forecast(past_values, prediction_length=384), repetitions=3)
    levels = [0.1, 0.5, 0.9]

    def quantiles():
        model.forecast_quantiles(past_values, prediction_length=384, quantile_levels=levels, num_samples=50)

    taken = cpu_seconds(quantiles, repetitions=2)
    floor = point * (1 + 50 * 2) / 3  # one block is shared by all paths
    print(f"\n50 paths of 3 blocks: {taken:.2f} s, {taken / floor:.2f} times the forward passes they need")


def test_completion_of_a_long_series():
    model = build(DystformerForMaskedModeling, gap_fill="hermite", embed_unseen=True).eval()
    values = torch.randn(1, 16_384, CHANNELS, generator=torch.Generator().manual_seed(0)).cumsum(1)
    mask = (torch.arange(16_384) // 16 % 2 == 1)[None, :, None].expand_as(values)
    taken = cpu_seconds(lambda: model.complete(values, mask), repetitions=2)
    print(f"\n{values.shape[1] / taken:,.0f} steps of {CHANNELS} channels per CPU second")

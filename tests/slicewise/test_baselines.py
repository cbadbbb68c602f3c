from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from slicewise.baselines import Baselines

B, T, H = 3, 4, 5
Array = npt.NDArray[np.float64]


@pytest.fixture
def batches() -> list[torch.Tensor]:
    """Seven training targets whose mean drifts, so that the two averages differ."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, T, H, generator=generator) + index for index in range(7)]


def _position_mean(targets: list[Array]) -> Array:
    mean: Array = np.concatenate(targets).mean(0)
    return mean


def _running_average(targets: list[Array]) -> Array:
    average: Array = targets[0].mean(0)
    for target in targets[1:]:
        average = 0.99 * average + 0.01 * target.mean(0)
    return average


@pytest.mark.parametrize(
    ("name", "predict"),
    [("position_mean", _position_mean), ("running_average", _running_average)],
)
def test_learned_constant_is_the_plain_computation(
    name: str, predict: Callable[[list[Array]], Array], batches: list[torch.Tensor]
) -> None:
    baselines = Baselines(T, H)
    *training, target = batches
    for batch in training:
        baselines.update(batch)
    baselines.gather()
    prediction = predict([batch.double().numpy() for batch in training])
    expected = np.abs(prediction - target.double().numpy()).mean()
    losses = baselines.losses(torch.zeros(B, T, H), target)
    assert losses[name].item() == pytest.approx(expected, abs=1e-6)


def test_zero_and_input_are_the_plain_computation(batches: list[torch.Tensor]) -> None:
    hidden_states, target = batches[0], batches[1]
    losses = Baselines(T, H).losses(hidden_states, target)
    x, y = hidden_states.double().numpy(), target.double().numpy()
    assert losses["zero"].item() == pytest.approx(np.abs(y).mean(), abs=1e-6)
    assert losses["input"].item() == pytest.approx(np.abs(x - y).mean(), abs=1e-6)


def test_there_are_four() -> None:
    x = torch.zeros(B, T, H)
    assert set(Baselines(T, H).losses(x, x)) == {
        "zero",
        "input",
        "position_mean",
        "running_average",
    }


def test_measuring_teaches_nothing(batches: list[torch.Tensor]) -> None:
    baselines = Baselines(T, H)
    baselines.update(batches[0])
    before = baselines.gather().clone()
    baselines.losses(batches[1], batches[2])
    assert torch.equal(baselines.gather(), before)


def test_state_dict_carries_the_averages_on(batches: list[torch.Tensor]) -> None:
    straight, first = Baselines(T, H), Baselines(T, H)
    for index, batch in enumerate(batches):
        straight.update(batch)
        if index < 3:
            first.update(batch)
    resumed = Baselines(T, H)
    resumed.load_state_dict(first.state_dict())
    for batch in batches[3:]:
        resumed.update(batch)
    assert resumed.num_batches == straight.num_batches
    assert torch.equal(resumed.gather(), straight.gather())


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_shares_of_ranks_add_up_to_what_one_rank_sees(world_size: int) -> None:
    batches = [torch.randn(B, T, H, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    alone = Baselines(T, H)
    ranks = [Baselines(T, H, rank, world_size) for rank in range(world_size)]
    for index, batch in enumerate(batches):
        alone.update(batch)
        ranks[index % world_size].update(batch)
    total_2TF = sum(rank._share_2TF for rank in ranks)
    torch.testing.assert_close(total_2TF, alone.gather())
    assert {rank.num_batches for rank in ranks} == {len(batches)}


def test_half_precision_targets_are_averaged_in_single(batches: list[torch.Tensor]) -> None:
    baselines = Baselines(T, H)
    for batch in batches:
        baselines.update(batch.bfloat16())
    baselines.gather()
    assert baselines.mean_TH.dtype == torch.float32
    expected = torch.cat([batch.bfloat16().float() for batch in batches]).mean(0)
    torch.testing.assert_close(baselines.mean_TH, expected, atol=1e-5, rtol=0)


def test_only_real_tokens_count() -> None:
    """What stands behind a text's end is neither learned from nor measured."""
    target = torch.randn(2, T, H, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True] * T, [True] + [False] * (T - 1)])
    baselines = Baselines(T, H)
    baselines.update(target, real)
    baselines.gather()
    torch.testing.assert_close(baselines.mean_TH[0], target[:, 0].mean(0))
    torch.testing.assert_close(baselines.mean_TH[1:], target[0, 1:])
    polluted = torch.where(real[..., None], target, 1e6)
    losses = baselines.losses(polluted, polluted, real)
    assert losses["zero"].item() == pytest.approx(target[real].abs().mean().item(), rel=1e-6)
    assert losses["input"] == 0
    again = Baselines(T, H)
    again.update(polluted, real)
    assert torch.equal(again.gather(), baselines.gather())

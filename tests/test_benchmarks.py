"""Tests of what benchmarks compute besides running rlkd."""

import torch
from torch import nn

from benchmarks.first_weights.__main__ import dead_units
from benchmarks.teachers.revive import answers, revive
from rlkd import recipe
from rlkd.policy import PolicyNetwork
from rlkd.recipe import Network


def test_revived_filters_answer_again_and_the_policy_stays_as_it_was() -> None:
    network = PolicyNetwork(recipe.load("nature", Network), (4, 84, 84), "categorical", 6)
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    states = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network(states).flat.square().sum().backward()
    optimiser.step()
    first, second = (module for module in list(network.encoder)[:4] if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        for layer, dead in ((first, [0, 5]), (second, [7])):
            assert layer.bias is not None
            layer.bias[dead] = -1e6
        before = network(states).flat
        alive = first.weight[1].clone()
        counts = revive(network, optimiser, states, torch.Generator().manual_seed(2))
        assert [int(count.split()[0]) >= dead for count, dead in zip(counts, (2, 1, 0), strict=True)] == [True] * 3
        assert torch.equal(network(states).flat, before)
        for layer in (first, second):
            assert (answers(network, layer, states) > 0).any(0).all()
        assert torch.equal(first.weight[1], alive)
    network(states).flat.square().sum().backward()
    assert second.weight.grad is not None
    assert (second.weight.grad[:, [0, 5]] != 0).any()
    moments = optimiser.state[second.weight]
    assert (moments["exp_avg"][:, [0, 5]] == 0).all()
    assert (moments["exp_avg_sq"] > 0)[:, [0, 5]].all()


def test_dead_units_are_counted_by_layer() -> None:
    network = PolicyNetwork(recipe.load("nature_62k", Network), (4, 84, 84), "categorical", 6)
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    states = torch.randint(0, 256, (40, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network.standardise(states)
    assert dead_units(network, states) == [0, 0, 0, 0]
    first, hidden = network.encoder[0], network.encoder[7]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(hidden, nn.Linear)
    assert first.bias is not None
    with torch.no_grad():
        first.bias[[1, 3, 4]] = -1e6
        hidden.bias[7] = -1e6
    counts = dead_units(network, states)
    assert (counts[0], counts[3] >= 1) == (3, True)

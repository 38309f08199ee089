"""Give dead filters of a Pong run a new start, without changing what its policy does.

    python -m benchmarks.teachers.revive RUN

A filter that answers zero to every state gets no gradient and stays dead; the high learning rate of the first chunk
left 5 of 32 first-layer filters alive. New incoming weights are drawn for the dead ones until they answer something,
and their outgoing weights are set to zero: outputs stay as they were, and gradients flow again.

Source: Sokar et al. 2023, arXiv:2302.12902 (ReDo), applied once, to units that are wholly dead.
"""

import argparse
import json
import math
import sys
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rlkd import recipe
from rlkd.evaluation import play
from rlkd.learn.checkpoint import FILE, load_checkpoint, restore, save_checkpoint
from rlkd.learn.ppo import policy_spec
from rlkd.policy import Policy, PolicyNetwork
from rlkd.policy.file import build_network
from rlkd.policy.tensors import tensors_of
from rlkd.recipe import Environment, Ppo

STATES, EPISODES, SEED = 600, 4, 4_000_000


def main() -> int:
    """Change the run's checkpoint in place and print how many filters each layer gained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    with safe_open(str(run / FILE), framework="pt") as opened:
        held = json.loads(opened.metadata()["progress"])
    environment = recipe.load("pong", Environment)
    spec = policy_spec(environment, recipe.load("rl/ppo", Ppo), origin="")
    network = build_network(spec)
    optimiser = torch.optim.Adam(network.parameters(), lr=1.0)
    progress, tensors = load_checkpoint(run, identity=held["identity"], seed=held["seed"])
    restore(run, tensors, network, optimiser)
    states = play(Policy(network, spec), environment, episodes=EPISODES, first_seed=SEED, keep_states=STATES).states
    observation = torch.from_numpy(states)
    with torch.no_grad():
        before = network(observation).flat
        counts = revive(network, optimiser, observation, torch.Generator().manual_seed(SEED))
        moved = (network(observation).flat - before).abs().max()
    save_checkpoint(run, tensors_of(network, optimiser), progress)
    print(f"at agent step {progress.steps}, dead filters revived: {counts}; outputs moved by at most {moved:.1e}")
    return 0


def revive(
    network: PolicyNetwork, optimiser: torch.optim.Optimizer, observation: Tensor, generator: torch.Generator
) -> list[str]:
    """Renew the dead filters of each convolution.

    Returns:
        For each convolution, `dead of all`.
    """
    counts = []
    weighted = [module for module in network.encoder if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer, following in pairwise(weighted):
        if not isinstance(layer, nn.Conv2d):
            continue
        dead = (answers(network, layer, observation) <= 0).all(0).nonzero().flatten()
        counts.append(f"{len(dead)} of {layer.out_channels}")
        outgoing = following.weight.view(following.weight.shape[0], layer.out_channels, -1)
        outgoing[:, dead] = 0.0
        layer.bias[dead] = 0.0  # type: ignore[index]  # our layers all have one
        still = dead
        while len(still):
            fresh = torch.empty_like(layer.weight)
            layer.weight[still] = nn.init.orthogonal_(fresh, math.sqrt(2), generator=generator)[still]
            still = dead[(answers(network, layer, observation)[:, dead] <= 0).all(0)]
        for parameter, places in ((layer.weight, dead), (layer.bias, dead)):
            forget(optimiser, parameter, places)
        forget(optimiser, following.weight, dead, inputs=layer.out_channels)
    return counts


def answers(network: PolicyNetwork, layer: nn.Module, observation: Tensor) -> Tensor:
    """[B, C]: the highest answer of each filter of a layer over the picture, before its activation."""
    x = observation.float() / 255.0
    for module in network.encoder:
        x = module(x)
        if module is layer:
            break
    return x.amax((2, 3))


def forget(optimiser: torch.optim.Optimizer, parameter: Tensor | None, places: Tensor, inputs: int = 0) -> None:
    """Adam's moments of renewed weights: no direction, and the size usual in the layer, so that steps are no leap."""
    assert parameter is not None
    for name in ("exp_avg", "exp_avg_sq"):
        moment = optimiser.state[parameter][name]
        usual = float(moment[moment > 0].mean()) if name == "exp_avg_sq" else 0.0
        if inputs:
            moment.view(moment.shape[0], inputs, -1)[:, places] = usual
        else:
            moment[places] = usual


if __name__ == "__main__":
    sys.exit(main())

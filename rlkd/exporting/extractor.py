"""An rlkd encoder as a features extractor of Stable-Baselines3, for networks that it has no class for.

A zip names this class, so rlkd has to be installed where such a zip is loaded.
"""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from rlkd.policy import PolicyNetwork
from rlkd.recipe import Network, build


class Encoder(BaseFeaturesExtractor):
    """All layers of a network recipe before its head."""

    def __init__(self, observation_space: spaces.Box, network: Mapping[str, Any]) -> None:
        """Build the layers.

        Args:
            observation_space: [C, H, W] pixels or [D].
            network: a network recipe as a table of plain values, which is what a zip can tell without code.

        Raises:
            RlkdError: the recipe is none, or does not fit the observations.
        """
        recipe = build(Network, network, where="features_extractor_kwargs")
        made = PolicyNetwork(recipe, observation_space.shape, "q", 1)
        super().__init__(observation_space, made.head.in_features)
        self.encoder = made.encoder

    def forward(self, observations: Tensor) -> Tensor:
        """[B, F] features of observations [B, ...], already scaled by Stable-Baselines3."""
        features: Tensor = self.encoder(observations)
        return features

"""The way of observations to the device that answers them."""

import numpy as np
import torch

from rlkd.recipe import View


class Uplink:
    """Brings observations to the device. Of stacked frames only the newest goes up, once, as uint8: the stack is kept
    there, in one place."""

    def __init__(self, view: View | None, observation: np.ndarray, device: torch.device) -> None:
        """Bring the first observations [n, ...] of n environments.

        Args:
            view: how frames are stacked; None: observations go up whole.
            observation: the first of an episode each.
            device: where to.
        """
        self.view = view
        self.seen = torch.from_numpy(observation).to(device, copy=True)
        """[n, ...], the newest observations on the device."""

    def bring(self, observation: np.ndarray, first: np.ndarray) -> None:
        """The next observations [n, ...]; `first` [n] says which of them begin an episode."""
        if self.view is None:
            self.seen.copy_(torch.from_numpy(observation))
            return
        oldest_first = self.view.stack_order == "oldest_first"
        newest = torch.from_numpy(observation[:, -1 if oldest_first else 0]).to(self.seen.device)
        kept = self.seen[:, 1:] if oldest_first else self.seen[:, :-1]
        padding = newest[:, None] if self.view.stack_padding == "repeat" else torch.zeros_like(newest[:, None])
        begins = torch.from_numpy(first).to(self.seen.device)[:, None, None, None]
        older = torch.where(begins, padding, kept)
        self.seen.copy_(torch.cat([older, newest[:, None]] if oldest_first else [newest[:, None], older], dim=1))

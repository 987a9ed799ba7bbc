"""Conditioning computed once per caption and duration, then read from memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from eisbach.errors import UserError
from eisbach.types import Conditioning, LatentBatch

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone

_LIMIT_BYTES = 2**30


class ConditioningCache:
    """Rows of conditioning by (caption, duration), at most 1 GiB of them, the least recently used forgotten first."""

    def __init__(self, backbone: Backbone, device: torch.device, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._backbone, self._device, self._limit = backbone, device, limit_bytes
        self._rows: OrderedDict[tuple[str, float], Conditioning] = OrderedDict()
        self._bytes = 0

    @torch.no_grad()
    def __call__(self, batch: LatentBatch) -> Conditioning:
        """The conditioning of a batch, one row a sample, on the training device.

        Raises
        ------
        UserError
            The backbone gives captions different numbers of tokens and no mask to tell padding by.
        """
        keys = list(zip(batch.captions, (float(seconds) for seconds in batch.durations.tolist()), strict=True))
        fresh = list(dict.fromkeys(key for key in keys if key not in self._rows))
        rows = {key: self._rows[key] for key in keys if key in self._rows}
        if fresh:
            made = self._backbone.condition([caption for caption, _ in fresh], [seconds for _, seconds in fresh])
            rows |= {key: _row(made, index) for index, key in enumerate(fresh)}
        for key in dict.fromkeys(keys):
            self._remember(key, rows[key])
        return stack([rows[key] for key in keys]).to(self._device)

    def _remember(self, key: tuple[str, float], row: Conditioning) -> None:
        if key in self._rows:
            self._rows.move_to_end(key)
            return
        self._rows[key] = row
        self._bytes += _size(row)
        while self._bytes > self._limit and len(self._rows) > 1:
            self._bytes -= _size(self._rows.popitem(last=False)[1])


def _row(conditioning: Conditioning, index: int) -> Conditioning:
    row = conditioning.select([index])
    mask = row.token_mask
    return Conditioning(
        row.tokens.detach().cpu().clone(),
        row.global_embed.detach().cpu().clone(),
        None if mask is None else mask.detach().cpu().clone(),
    )


def _size(row: Conditioning) -> int:
    return row.tokens.nbytes + row.global_embed.nbytes


def stack(rows: list[Conditioning]) -> Conditioning:
    """Rows of one batch joined; shorter ones are padded with masked-out tokens."""
    longest = max(row.tokens.shape[1] for row in rows)
    tokens, masks = [], []
    for row in rows:
        missing = longest - row.tokens.shape[1]
        if missing and row.token_mask is None:
            raise UserError("captions have different numbers of tokens and the backbone gives no mask for them.")
        tokens.append(torch.cat([row.tokens, row.tokens.new_zeros(1, missing, *row.tokens.shape[2:])], dim=1))
        if row.token_mask is not None:
            masks.append(torch.nn.functional.pad(row.token_mask, (0, missing)))
    return Conditioning(
        torch.cat(tokens), torch.cat([row.global_embed for row in rows]), torch.cat(masks) if masks else None
    )

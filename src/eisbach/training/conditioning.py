"""Conditioning computed once per caption, then read from memory; the text encoder can leave when all captions are
there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from eisbach.errors import UserError
from eisbach.progress import Progress
from eisbach.types import Conditioning, LatentBatch

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone

_LIMIT_BYTES = 2**30
_CHUNK = 16  # captions encoded together when all are


class ConditioningCache:
    """Rows of conditioning, at most 1 GiB of them, the least recently used forgotten first.

    They are kept by caption and duration; by caption alone where the backbone `retimes`: its `with_durations` gives
    rows other durations without reading their captions again.
    """

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
        durations = [float(seconds) for seconds in batch.durations.tolist()]
        # One duration stands for all of them where rows are kept by caption.
        kept = durations if not self._backbone.retimes else [0.0] * len(durations)
        keys = list(zip(batch.captions, kept, strict=True))
        fresh = list(dict.fromkeys(key for key in keys if key not in self._rows))
        rows = {key: self._rows[key] for key in keys if key in self._rows}
        if fresh:
            rows |= self._make(fresh)
        for key in dict.fromkeys(keys):
            self._remember(key, rows[key])
        joined = stack([rows[key] for key in keys])
        return (joined if not self._backbone.retimes else self._backbone.with_durations(joined, durations)).to(
            self._device
        )

    def _make(self, keys: Sequence[tuple[str, float]]) -> dict[tuple[str, float], Conditioning]:
        made = self._backbone.condition([caption for caption, _ in keys], [seconds for _, seconds in keys])
        return {key: _row(made, index) for index, key in enumerate(keys)}

    @torch.no_grad()
    def fill(self, captions: Iterable[str], *, quiet: bool = True) -> bool:
        """Encodes every caption in chunks of a fixed size, whatever step training is at, and drops the text encoder.

        What a caption becomes then does not depend, by rounding, on the batch it was first met in: a continued run,
        which encodes again, gets the same numbers.

        Returns
        -------
        bool
            True when all rows are in memory and the encoder (`backbone.release_text_encoder`) has left it. False for a
            backbone that has none to release, or when the rows would outgrow the cache: then the encoder stays.
        """
        if not self._backbone.retimes:
            return False
        keys = [(caption, 0.0) for caption in dict.fromkeys(captions)]
        with Progress(len(keys), "captions", quiet=quiet) as bar:
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                for key, row in self._make(chunk).items():
                    self._remember(key, row)
                bar.advance(len(chunk))
                if len(self._rows) < start + len(chunk):
                    return False
        self._backbone.release_text_encoder()
        return True

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

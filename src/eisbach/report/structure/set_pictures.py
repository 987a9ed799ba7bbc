"""Pictures of whole sets for the page: mean spectra and block scales, from the clips that the page embeds."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from eisbach.report.structure.figures import MOST_GROUPS, blocks_figure, spectrum_figure
from eisbach.report.structure.players import Player
from eisbach.report.structure.style import PictureClip
from eisbach.structure.metrics.form import BLOCKS_MIN_SECONDS


@dataclass(frozen=True)
class GroupPicture:
    """A picture of the page, as a data address, with its words."""

    title: str
    caption: str
    alt: str
    uri: str


def group_pictures(players: Sequence[Player], names: Sequence[str]) -> list[GroupPicture]:
    """What can be drawn of at most seven sets; clips too short for a picture are left out of it."""
    clips = [
        PictureClip(str(player.record["id"]), player.features, str(player.record["arm"]))
        for player in players
        if player.features is not None and player.features.duration > 0
    ]
    made = []
    if clips and len(names) <= MOST_GROUPS:
        made.append(
            GroupPicture(
                "Mean spectra",
                "Above: where the energy lies, on average over each set’s clips (band: ± 1 standard deviation over "
                "clips). Below: how "
                "much each frequency comes and goes within a clip.",
                f"Mean spectral energy and its spread over time for {', '.join(names)}.",
                _address(spectrum_figure(clips, form="svg")),
            )
        )
    long = [clip for clip in clips if clip.source.duration >= BLOCKS_MIN_SECONDS]  # type: ignore[union-attr]
    if long and len(names) <= MOST_GROUPS:
        made.append(
            GroupPicture(
                "Block scales",
                "How strongly the clips fall into blocks of each length: thin lines are clips, thick ones a set’s "
                "mean. A peak is the "
                "length of the sections; a low, even curve is music without sections.",
                f"Block strength by time scale for {', '.join(names)}.",
                _address(blocks_figure(long, form="svg")),
            )
        )
    return made


def _address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"

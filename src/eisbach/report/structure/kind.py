"""What a figure by name is: how it is drawn, what stands under it, and which clips it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eisbach.errors import UserError
from eisbach.report.figures import features_of
from eisbach.report.structure.style import PictureClip
from eisbach.structure.features import Features


@dataclass(frozen=True)
class Kind:
    """One figure by name.

    Attributes
    ----------
    name : str
    draw : callable (clips, out=, form=, view=) -> bytes
    shows : str
        For lists and help.
    caption : str
        What stands under it: what is shown, and how to read it.
    figure : str
        The figures of the paper that it makes; "" for none.
    most : int
        Clips that it can hold.
    exactly : int or None
        Clips that it needs, where it cannot be any number.
    pools : bool
        Clips of a group are drawn together rather than each by itself.
    """

    name: str
    draw: Callable[..., bytes]
    shows: str
    caption: str
    figure: str = ""
    most: int = 12
    exactly: int | None = None
    pools: bool = False

    def checked(self, clips: Sequence[PictureClip]) -> list[Features]:
        """The features of as many clips as the figure holds; `UserError` for others, or where none has sound."""
        if self.exactly is not None and len(clips) != self.exactly:
            raise UserError(
                f"the figure '{self.name}' needs {self.exactly} clips, the baseline first, not {len(clips)}."
            )
        if not 1 <= len(clips) <= self.most:
            raise UserError(f"the figure '{self.name}' holds 1 to {self.most} clips, not {len(clips)}; choose fewer.")
        features = [features_of(clip.source) for clip in clips]
        if all(sound.duration <= 0 for sound in features):
            raise UserError(f"{clips[0].label} is silent, so there is nothing to draw; give a clip with sound.")
        return features

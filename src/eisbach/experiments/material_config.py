"""What a fine-tuning set is made of that an experiment makes for itself."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import Field, field_validator

from eisbach.config import StrictModel


class MaterialGroup(StrictModel):
    """A part of the set that differs from the rest in who plays and in which mode; its clips have the label `group`.

    Attributes
    ----------
    share : float
        Of the clips, developing and flat alike.
    styles : tuple of str or None
        Only these ensembles (`data.synth.ENSEMBLES`); None takes all.
    mode : {"major", "minor"} or None
        Only performances that are heard in it.
    """

    share: float = Field(gt=0, le=1)
    styles: tuple[str, ...] | None = None
    mode: Literal["major", "minor"] | None = None


class MaterialConfig(StrictModel):
    """The fine-tuning set that the experiment makes for itself; leave it out to train on manifests of your own.

    Attributes
    ----------
    clips : int
        Clips in all (train and held out).
    flat_share : float
        Share of them that is structurally flat, in [0, 1]; the rest are performances of scores.
    duration : float
        Seconds a clip.
    seed : int
        Draws pieces, instruments and flat kinds.
    redraw : bool
        Each training seed is a *draw*: it trains on a set of its own, drawn by `seed` and the training seed, so that
        what is inferred over draws holds for other sets too.
    kinds : tuple of str or None
        Kinds of flat clips, which take turns: those of `data.flat_material.KINDS`, which None takes, and "noise" and
        "cloud".
    groups : mapping of str to MaterialGroup or None
        Parts of the set, whose shares sum to 1.
    """

    clips: int = Field(default=200, ge=4)
    flat_share: float = Field(default=0.7, ge=0, le=1)
    duration: float = Field(default=30.0, ge=5.0, le=300.0)
    seed: int = Field(default=0, ge=0)
    redraw: bool = False
    kinds: tuple[str, ...] | None = None
    groups: dict[str, MaterialGroup] | None = None

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        from eisbach.data.flat_material import check_kinds

        if value is not None:
            check_kinds(value)
        return value

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, value: dict[str, MaterialGroup] | None) -> dict[str, MaterialGroup] | None:
        if value is not None and abs(sum(group.share for group in value.values()) - 1) > 1e-6:
            raise ValueError(f"the shares of the groups must sum to 1 (got {sum(g.share for g in value.values()):g})")
        return value

    def of_draw(self, train_seed: int) -> MaterialConfig:
        """The set of one draw; with `redraw` off, the one set of all."""
        if not self.redraw:
            return self
        digest = hashlib.blake2b(f"{self.seed},{train_seed}".encode(), digest_size=4).digest()
        return self.model_copy(update={"seed": int.from_bytes(digest, "little"), "redraw": False})

    def values(self) -> dict[str, Any]:
        """What decides the set, as plain values without what is not asked for."""
        values = self.model_dump()
        return {key: value for key, value in values.items() if value is not None}

    @property
    def flat_clips(self) -> int:
        """Number of flat clips."""
        return round(self.clips * self.flat_share)

    @property
    def developing_clips(self) -> int:
        """Number of developing clips."""
        return self.clips - self.flat_clips

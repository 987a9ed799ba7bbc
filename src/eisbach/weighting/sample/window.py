"""The length of a window, given in seconds or in frames: shared by the weightings that look through windows."""

from __future__ import annotations

import math

from eisbach.errors import UserError

_DEFAULT_SECONDS = 3.0


def window_in_frames(
    who: str, window_seconds: float | None, latent_rate: float | None, window_frames: int | None, least: int = 1
) -> int:
    """Frames of a window, at least `least`.

    Parameters
    ----------
    who : str
        Names the weighting in messages.
    window_seconds : float > 0 or None
        `_DEFAULT_SECONDS` when neither length is given; needs `latent_rate`.
    latent_rate : float > 0 or None
        Latent frames per second.
    window_frames : int >= least or None

    Raises
    ------
    UserError
        A window in both units, a window in seconds without `latent_rate`, or a value out of range.
    """
    if window_frames is not None:
        if window_seconds is not None:
            raise UserError(
                f"{who} got a window of {window_seconds!r} seconds and one of {window_frames!r} frames; "
                "give one of the two."
            )
        if isinstance(window_frames, bool) or not isinstance(window_frames, int) or window_frames < least:
            raise UserError(f"window_frames must be a whole number of at least {least}; got {window_frames!r}.")
        return window_frames
    window_seconds = _DEFAULT_SECONDS if window_seconds is None else window_seconds
    if latent_rate is None:
        raise UserError(
            f"{who}'s window is given in seconds, so it needs latent_rate (latent frames per second); "
            "pass latent_rate, or give window_frames instead."
        )
    if not (0 < latent_rate < math.inf and 0 < window_seconds < math.inf):
        raise UserError(
            f"{who} needs window_seconds and latent_rate above 0; got {window_seconds!r} and {latent_rate!r}."
        )
    return max(least, round(window_seconds * latent_rate))

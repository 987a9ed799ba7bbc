"""DoRA's two parts apart: the directions of one adapter with the magnitudes of another.

DoRA (Liu et al. 2024, arXiv 2402.09353, Eq. 5) writes an adapted weight as ``W′ = m V / ‖V‖_row`` with
``V = W + s B A``: A and B give every row its direction, m its length. Both parts train at once; what each of them has
learnt is heard when they are exchanged between two adapters of one base.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eisbach.adapters.formats import peft as peft_format
from eisbach.adapters.formats.low_rank import LowRankAdapter
from eisbach.errors import CheckpointError
from eisbach.output_folder import weights_identity


def swap_magnitudes(direction: Path, magnitude: Path, out: Path) -> None:
    """Writes into `out` the adapter with the directions of the first folder and the magnitudes of the second.

    Parameters
    ----------
    direction, magnitude : Path
        Folders in peft's layout, of DoRA adapters of the same layers of one base; their ranks may differ.
    out : Path
        Its stamp names the base, and both adapters by the hashes of what they play.

    Raises
    ------
    CheckpointError
        One of them is no DoRA adapter or cannot be read, or they are of other layers or of another base.
    StorageError
        The disk is full or the folder is not writable.
    """
    ours, theirs = (peft_format.read_adapter(folder) for folder in (direction, magnitude))
    for folder, adapter in ((direction, ours), (magnitude, theirs)):
        if adapter.kind != "dora":
            raise CheckpointError(f"{folder} is a LoRA adapter, which has no magnitudes to exchange; train it as DoRA.")
    bases = [adapter.stamp.get("base_identity") for adapter in (ours, theirs)]
    if bases[0] != bases[1]:
        raise CheckpointError(
            f"{direction} and {magnitude} were trained on two base models; swap adapters of one base only."
        )
    stamp = {"swap": {"direction": weights_identity(direction), "magnitude": weights_identity(magnitude)}}
    if bases[0] is not None:
        stamp = {"base_identity": bases[0], **stamp}
    made = replace(_exchanged(ours, theirs, direction, magnitude), stamp=stamp, native={})
    peft_format.write_adapter(out, made)


def _exchanged(ours: LowRankAdapter, theirs: LowRankAdapter, direction: Path, magnitude: Path) -> LowRankAdapter:
    apart = sorted(ours.layers.keys() ^ theirs.layers.keys())
    if apart:
        raise CheckpointError(
            f"{direction} and {magnitude} adapt other layers ('{apart[0]}' is in one of them); swap adapters of the "
            "same layers."
        )
    layers = {}
    for name, factors in ours.layers.items():
        lengths = theirs.layers[name].magnitude
        if lengths is None or factors.magnitude is None or lengths.shape != factors.magnitude.shape:
            raise CheckpointError(f"the rows of '{name}' differ in {direction} and {magnitude}; swap one base's.")
        layers[name] = replace(factors, magnitude=lengths)
    return replace(ours, layers=layers)

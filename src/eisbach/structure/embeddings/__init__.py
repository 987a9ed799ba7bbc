"""Embeddings of clips: the texture and musicnn out of the box, pretrained audio models from a folder or the hub.

``load_embedding("texture")``, ``"musicnn"``, ``"clap:FOLDER"`` or ``"mert:FOLDER"``; then
``embedding.embed(waveforms)`` or ``embed_files(embedding, paths)``, rows for `eisbach.structure.sets`.

What is supported: ``musicnn`` is the tagger of that name, whose weights are here (`structure.embeddings.musicnn`);
``clap`` is any checkpoint that transformers' `ClapModel` loads (laion/clap-htsat-unfused, laion/larger_clap_music …);
``mert`` is any HuBERT, which MERT-v1 is when its configuration names no CQT, no deepnorm and no attention relaxation
(MERT-v1-95M). Weights must be safetensors. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

from eisbach.errors import UserError
from eisbach.structure.embeddings.base import Embedding, TextureEmbedding, embed_files

__all__ = ["EMBEDDINGS", "Embedding", "TextureEmbedding", "embed_files", "load_embedding"]

EMBEDDINGS = ("texture", "musicnn", "clap", "mert")
"""Kinds that `load_embedding` knows."""


def load_embedding(spec: str, *, device: str = "cpu", batch_size: int = 8, layer: int | None = None) -> Embedding:
    """An embedding by name.

    Parameters
    ----------
    spec : str
        ``texture``, ``musicnn``, or a kind and a model folder (or hub id): ``clap:path/to/folder``,
        ``mert:m-a-p/MERT-v1-95M``.
    device : str
        Where a pretrained model runs: "cpu", "cuda", "mps", or "auto" for the best there is.
    batch_size : int
        Windows at once, at least 1.
    layer : int or None
        For mert: which hidden state is averaged, 0 (before the first layer) to the number of layers; None takes the
        last.

    Raises
    ------
    UserError
        An unknown kind, no folder, or a checkpoint that cannot be used.
    """
    kind, _, source = spec.partition(":")
    if kind not in EMBEDDINGS:
        raise UserError(f"there is no embedding {kind!r}; choose texture, musicnn, clap:FOLDER or mert:FOLDER.")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}.")
    if layer is not None and kind != "mert":
        raise UserError(f"the embedding {kind} has no choice of layer; only mert has.")
    if kind in ("texture", "musicnn"):
        if source:
            raise UserError(f"{kind} needs no folder, but {source!r} was given; write just '{kind}'.")
        if kind == "texture":
            return TextureEmbedding()
        from eisbach.structure.embeddings.musicnn import MusicnnEmbedding

        return MusicnnEmbedding(device=device, batch_size=batch_size)
    if not source:
        raise UserError(f"{kind} needs a model folder or a hub id; write {kind}:FOLDER.")
    if kind == "clap":
        from eisbach.structure.embeddings.windowed import ClapEmbedding

        return ClapEmbedding(source, device=device, batch_size=batch_size)
    from eisbach.structure.embeddings.windowed import HubertEmbedding

    return HubertEmbedding(source, device=device, batch_size=batch_size, layer=layer)

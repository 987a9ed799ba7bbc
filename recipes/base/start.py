"""The model that training of the embedded base starts from: start.py FIRST_VERSION RENDERED OUT.

FIRST_VERSION is the folder of the first version's base (latents of the codec `bands`). Its blocks are taken over. Only
what reads and writes latents differs, and is carried across by a linear map between the two codecs' latents, fitted to
training clips of the rendered set: a start a third of the way below random weights, which 150 steps mend.
"""

import sys
from pathlib import Path

import torch

from eisbach.audio import read_audio
from eisbach.backbones.tiny import TinyMusicBackbone
from eisbach.codecs import load_codec
from eisbach.data.manifest import load_manifest

_CLIPS, _SECONDS, _RIDGE = 40, 40.0, 0.01

first, rendered, out = (Path(word) for word in sys.argv[1:4])
torch.set_num_threads(1)
old, old_codec, codec = TinyMusicBackbone.load(first), load_codec("bands"), load_codec("wide-bands")

pairs = []
manifest = load_manifest(rendered)
for row in manifest.select(split="train").rows[:_CLIPS]:
    waveform = read_audio(manifest.root / row.path, duration=_SECONDS)
    new_latents, old_latents = codec.encode(waveform), old_codec.encode(waveform)
    # The old latents where the new frames have their centres.
    centres = (torch.arange(new_latents.shape[1]) + 0.5) / codec.latent_rate * old_codec.latent_rate - 0.5
    centres = centres.clamp(0, old_latents.shape[1] - 1.001)
    index, share = centres.long(), centres.frac()
    old_latents = old_latents[:, index] * (1 - share) + old_latents[:, index + 1] * share
    pairs.append((new_latents[:, :-1], old_latents[:, :-1]))
x, y = (torch.cat(side, dim=1) for side in zip(*pairs, strict=True))
gram = x @ x.T
across = y @ x.T @ torch.linalg.inv(gram + _RIDGE * gram.diagonal().mean() * torch.eye(len(x)))

values = old.config.model_dump()
values.update(latent_channels=codec.channels, latent_rate=codec.latent_rate, codec=codec.name)
new = TinyMusicBackbone.create(values)
state, before = new.module.state_dict(), old.module.state_dict()
state.update({key: before[key] for key in state if state[key].shape == before[key].shape})
identity = torch.eye(len(y))
inward = identity + before["dit.preprocess_conv.weight"][:, :, 0]
outward = identity + before["dit.postprocess_conv.weight"][:, :, 0]
state["dit.proj_in.weight"] = before["dit.proj_in.weight"] @ inward @ across
state["dit.proj_out.weight"] = torch.linalg.pinv(across, rtol=0.05) @ outward @ before["dit.proj_out.weight"]
for key in state:
    if key in ("dit.preprocess_conv.weight", "dit.postprocess_conv.weight") or key.endswith("to_local_embed.0.weight"):
        state[key] = torch.zeros_like(state[key])
new.module.load_state_dict(state)
new.save(out)
print(f"{new.identity()}: {out}")

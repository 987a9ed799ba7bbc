"""EDM2: the magnitude-preserving UNet of Karras et al. 2024 (arXiv 2312.02696, configuration G), class-conditional, on
the "edm" path.

Written from the paper (equations beside the code) with the parameter names of the published networks, so that their
weights fit by name: a folder with `config.json` and `model.safetensors`. The published files are pickles, which run
code when they are opened and are never read here; `docs/signature.md` says how a user converts one.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from eisbach.backbones.image_base import ImageBackbone, ImageConfig, fill_size
from eisbach.diffusion.paths import expand_like
from eisbach.types import Conditioning

SIZES: dict[str, dict[str, int]] = {
    "XS": {"model_channels": 128},
    "S": {"model_channels": 192},
    "M": {"model_channels": 256},
    "L": {"model_channels": 320},
    "XL": {"model_channels": 384},
    "XXL": {"model_channels": 448},
}
"""Width of the published ImageNet-512 networks (Table 6); everything else is the same in all of them."""
_CLIP = 256.0


def normalize(x: Tensor, dims: list[int] | None = None, eps: float = 1e-4) -> Tensor:
    """`x` with unit mean square over `dims` (None: all but the first), Eq. 66."""
    dims = list(range(1, x.dim())) if dims is None else dims
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    return x / (eps + norm * math.sqrt(norm.numel() / x.numel())).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU that keeps the magnitude of unit normal input, Eq. 81."""
    return functional.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Blend that keeps the magnitude of uncorrelated inputs, Eq. 88."""
    return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Concatenation whose halves contribute (1 - t) and t whatever their channels, Eq. 103."""
    first, second = a.shape[1], b.shape[1]
    scale = math.sqrt((first + second) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale / math.sqrt(first) * (1 - t)), b * (scale / math.sqrt(second) * t)], dim=1)


class _MPFourier(nn.Module):
    """Random Fourier features of unit magnitude, Eq. 75."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[shape=(B,)] to [shape=(B, channels)]."""
        angles = x.to(torch.float32).outer(self.freqs.to(torch.float32)) + self.phases.to(torch.float32)
        return (angles.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(nn.Module):
    """Convolution (or linear layer, without kernel) with forced weight normalisation, Eq. 47 and Algorithm 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """The output for weights of unit magnitude, times `gain`."""
        weight = self.weight.to(torch.float32)
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalize(weight))
        weight = (normalize(weight) * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        if weight.dim() == 2:
            return x @ weight.T
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


class Block(nn.Module):
    """Encoder or decoder block with optional resampling and cosine attention (Figures 20 and 21)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        encoder: bool,
        resample: Literal["keep", "up", "down"] = "keep",
        attention: bool = False,
        channels_per_head: int = 64,
        balance: float = 0.3,
    ) -> None:
        super().__init__()
        self.encoder, self.resample, self.balance, self.out_channels = encoder, resample, balance, out_channels
        self.num_heads = out_channels // channels_per_head if attention else 0
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(out_channels if encoder else in_channels, out_channels, (3, 3))
        self.emb_linear = MPConv(emb_channels, out_channels, ())
        self.conv_res1 = MPConv(out_channels, out_channels, (3, 3))
        self.conv_skip = MPConv(in_channels, out_channels, (1, 1)) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, 3 * out_channels, (1, 1)) if self.num_heads else None
        self.attn_proj = MPConv(out_channels, out_channels, (1, 1)) if self.num_heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[shape=(B, in, H, W)] and [shape=(B, emb)] to [shape=(B, out, H', W')]."""
        if self.resample == "down":
            x = functional.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
        if self.encoder:
            if self.conv_skip is not None:
                x = self.conv_skip(x)
            x = normalize(x, [1])  # pixel norm
        residual = self.conv_res0(mp_silu(x))
        modulation = self.emb_linear(emb, gain=self.emb_gain) + 1
        residual = self.conv_res1(mp_silu(residual * modulation[:, :, None, None]))
        if not self.encoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, residual, self.balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            x = mp_sum(x, self.attn_proj(self._attend(self.attn_qkv(x))), self.balance)
        return x.clip(-_CLIP, _CLIP)

    def _attend(self, mixed: Tensor) -> Tensor:
        """Attention between normalised queries, keys and values (cosine attention); the three alternate along
        channels."""
        batch, _, height, width = mixed.shape
        parts = mixed.reshape(batch, self.num_heads, -1, 3, height * width)
        query, key, value = normalize(parts, [2]).permute(3, 0, 1, 4, 2).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(-1, -2).reshape(batch, -1, height, width)


class _EDM2UNet(nn.Module):
    """The raw network F(c_in x, c_noise, class); parameter names as published."""

    def __init__(self, config: EDM2Config) -> None:
        super().__init__()
        self.config = config
        blocks = [config.model_channels * factor for factor in config.channel_mult]
        noise_channels, emb_channels = blocks[0], max(blocks)
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = _MPFourier(noise_channels)
        self.emb_noise = MPConv(noise_channels, emb_channels, ())
        labels = len(config.classes)
        self.emb_label = MPConv(labels, emb_channels, ()) if labels else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips = []
        size, out = config.latent_size, config.latent_channels + 1

        def block(inner: int, outer: int, encoder: bool, **options: Any) -> Block:
            return Block(
                inner, outer, emb_channels, encoder=encoder, channels_per_head=config.channels_per_head, **options
            )

        for level, channels in enumerate(blocks):
            at = size >> level
            name = f"{at}x{at}"
            if level == 0:
                self.enc[f"{name}_conv"] = MPConv(out, channels, (3, 3))
                out = channels
            else:
                self.enc[f"{name}_down"] = block(out, out, True, resample="down")
            skips.append(out)
            for index in range(config.num_blocks):
                attention = at in config.attn_resolutions
                self.enc[f"{name}_block{index}"] = block(out, channels, True, attention=attention)
                out = channels
                skips.append(out)
        for level, channels in reversed(list(enumerate(blocks))):
            at = size >> level
            name = f"{at}x{at}"
            if level == len(blocks) - 1:
                self.dec[f"{name}_in0"] = block(out, out, False, attention=True)
                self.dec[f"{name}_in1"] = block(out, out, False)
            else:
                self.dec[f"{name}_up"] = block(out, out, False, resample="up")
            for index in range(config.num_blocks + 1):
                attention = at in config.attn_resolutions
                self.dec[f"{name}_block{index}"] = block(out + skips.pop(), channels, False, attention=attention)
                out = channels
        self.out_conv = MPConv(out, config.latent_channels, (3, 3))

    def forward(self, x: Tensor, noise_label: Tensor, labels: Tensor | None) -> Tensor:
        """F [shape=(B, C, H, W)]; `labels` [shape=(B, classes)] are one-hot rows, zeros for no class."""
        emb = self.emb_noise(self.emb_fourier(noise_label))
        if self.emb_label is not None and labels is not None:
            emb = mp_sum(emb, self.emb_label(labels * math.sqrt(labels.shape[1])), self.config.label_balance)
        emb = mp_silu(emb)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # a channel of ones stands for biases
        skips = []
        for name, part in self.enc.items():
            x = part(x) if name.endswith("_conv") else part(x, emb)
            skips.append(x)
        for name, part in self.dec.items():
            if "block" in name:
                x = mp_cat(x, skips.pop(), self.config.concat_balance)
            x = part(x, emb)
        return self.out_conv(x, gain=self.out_gain)


class EDM2Model(nn.Module):
    """The denoiser D(x; sigma, class) with EDM's preconditioning (Karras et al. 2022, Table 1), and the uncertainty
    head."""

    def __init__(self, config: EDM2Config) -> None:
        super().__init__()
        self.sigma_data, self.classes = config.sigma_data, len(config.classes)
        self.unet = _EDM2UNet(config)
        self.logvar_fourier = _MPFourier(config.logvar_channels)
        self.logvar_linear = MPConv(config.logvar_channels, 1, ())

    def forward(self, x: Tensor, sigma: Tensor, ids: Tensor | None) -> Tensor:
        """E[x0] [shape=(B, C, H, W)] at x = x0 + sigma noise; `ids` [shape=(B,)], the number of classes for none."""
        labels = None
        if self.classes:
            own = torch.full_like(sigma, self.classes, dtype=torch.int64) if ids is None else ids
            # As one_hot, which looks at the values and so cannot be batched by vmap (the NTK's).
            labels = (own[:, None] == torch.arange(self.classes, device=own.device)).to(x.dtype)
        noise_label = sigma.log() / 4
        level = expand_like(sigma, x)
        total = (level**2 + self.sigma_data**2).sqrt()
        raw = self.unet(x / total, noise_label, labels)
        return (self.sigma_data / total) ** 2 * x + level * self.sigma_data / total * raw


class EDM2Config(ImageConfig):
    """Shape of an EDM2 network; the defaults are ImageNet-512's XS.

    Attributes
    ----------
    size : str or None
        A published width, `SIZES`; what is given beside it stands.
    model_channels, channel_mult, num_blocks, attn_resolutions, channels_per_head, label_balance, concat_balance,
    logvar_channels
        As in the paper's Table 6.
    sigma_data : float
        Standard deviation of the data; ImageNet-512's latents are scaled to 0.5.
    """

    path: Literal["cosine", "linear", "vp", "gvp", "edm"] = "edm"
    target: Literal["eps", "x0", "v", "u"] = "x0"
    latent_channels: int = Field(4, ge=1)
    latent_size: int = Field(64, ge=1)
    size: Literal["XS", "S", "M", "L", "XL", "XXL"] | None = None
    model_channels: int = Field(128, ge=1)
    channel_mult: list[int] = Field(default=[1, 2, 3, 4], min_length=1)
    num_blocks: int = Field(3, ge=1, le=1024)
    attn_resolutions: list[int] = Field(default=[16, 8])
    channels_per_head: int = Field(64, ge=1)
    label_balance: float = Field(0.5, gt=0, lt=1)
    concat_balance: float = Field(0.5, gt=0, lt=1)
    logvar_channels: int = Field(128, ge=1)
    sigma_data: float = Field(0.5, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _of_size(cls, values: Any) -> Any:
        return fill_size(values, SIZES)

    @model_validator(mode="after")
    def _fits(self) -> EDM2Config:
        if self.path != "edm" or self.target != "x0":
            raise ValueError("an EDM2 network is a denoiser: its path is 'edm' and its target 'x0'")
        if self.latent_size % 2 ** (len(self.channel_mult) - 1):
            raise ValueError(
                f"latent_size {self.latent_size} must be halved {len(self.channel_mult) - 1} times without a rest"
            )
        widths = [self.model_channels * factor for factor in self.channel_mult]
        sizes = [self.latent_size >> level for level in range(len(widths))]
        attended = [w for w, s in zip(widths, sizes, strict=True) if s in self.attn_resolutions or s == sizes[-1]]
        if any(width % self.channels_per_head or width < self.channels_per_head for width in attended):
            raise ValueError(f"widths with attention ({attended}) must be multiples of channels_per_head")
        return self


class EDM2Backbone(ImageBackbone):
    """`Backbone` of EDM2: target x0 on the "edm" path (sigma from 0.002 to 80), class-conditional.

    No class is a row of zeros. The published class-conditional networks were not trained with dropped classes: EDM2
    guides with a separate unconditional network, and what these give without a class is no unconditional estimate.
    """

    name = "edm2"
    config_class = EDM2Config
    other_sizes = "resize them"
    adapter_targets = r"unet\.(enc|dec)\..*(attn_qkv|attn_proj|conv_res[01])"

    @classmethod
    def network(cls, config: Any) -> nn.Module:
        """Denoiser and uncertainty head."""
        return EDM2Model(config)

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """E[x0 | x_t] [shape=(B, C, H, W)] at x_t [shape=(B, C, H, W)] and t [shape=(B,)].

        Raises
        ------
        UserError
            Images of another shape than the model's.
        """
        self._check_shape(x_t)
        sigma = self.path.sigma(t)
        return self.module(x_t, sigma, conditioning.tokens[:, 0] if self.config.classes else None)

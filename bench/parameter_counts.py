"""Parameters of every image network beside what its paper prints: ``python bench/parameter_counts.py``.

Networks are built without storage, from their named sizes and, for the rows of "Elucidated Representation Diffusion"
(ERD), from the recipes that train them. Where a printed number counts something else, the row says what, and compares
what both count. A ratio above 1 means more parameters here. Numbers are printed in whole millions, so a ratio within
half a million of 1 is no difference.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eisbach.backbones.dit import DiTBackbone
from eisbach.backbones.unet import UNetBackbone
from eisbach.backbones.uvit import UViTBackbone
from eisbach.config import read_recipe
from eisbach.files import write_json

KINDS: dict[str, Any] = {"dit": DiTBackbone, "uvit": UViTBackbone, "unet": UNetBackbone}
RECIPES = Path(__file__).parents[1] / "recipes" / "erd"


@dataclass(frozen=True)
class Row:
    """One printed number.

    Attributes
    ----------
    source : str
        Where it is printed.
    name : str
    model : str or dict
        A recipe of recipes/erd, or the configuration with its `kind`.
    printed : float
        Millions, or an exact number of parameters.
    counted_there : dict of str to int
        Parameters that the printed number counts and this network does not have, by what they are.
    note : str
    """

    source: str
    name: str
    model: str | dict[str, Any]
    printed: float
    counted_there: dict[str, int] = field(default_factory=dict)
    note: str = ""


PIXELS_64 = {"latent_channels": 3, "latent_size": 64}
ROWS = [
    Row("ERD, Table 5", "DiT-B/2", "table3/dit-b-2-erd", 130),
    Row("ERD, Table 5", "DiT-L/2", "table3/dit-l-2-erd", 458),
    Row("ERD, Table 5", "DiT-XL/2", "table3/dit-xl-2-erd", 675),
    Row("ERD, Table 5", "U-ViT-M/2", "table3/uvit-m-2-erd", 131),
    Row("ERD, Table 5", "U-ViT-L/2", "table3/uvit-l-2-erd", 287),
    Row("ERD, Table 5", "U-ViT-H/2", "table3/uvit-h-2-erd", 501),
    Row("ERD, Table 5", "U-ViT-H/2, 800 epochs", "table4/uvit-h-2-erd", 501),
    Row(
        "ERD, Table 2",
        "DiT-S",
        "table2/dit-s-erd",
        33,
        {"class table of DiT-S/2 on ImageNet (1001 x 384)": 1001 * 384},
        "33 M is the count of DiT-S/2 with ImageNet's classes; CelebA has none",
    ),
    Row("ERD, Table 2", "U-ViT-S", "table2/uvit-s", 44),
    Row(
        "ERD, Table 2",
        "UNet (Ours)",
        "table2/unet-erd",
        50,
        note="the paper gives the count and no shape; ours has the default options of ADM's code on five resolutions",
    ),
    Row("ERD, Table 2 (DDIM)", "DDIM's UNet", {"kind": "unet", **PIXELS_64, "size": "ddim-celeba-64"}, 79),
    Row("DiT, Table 1", "DiT-S", {"kind": "dit", "size": "S", "classes": 1000}, 33),
    Row(
        "DiT, the authors' code",
        "DiT-XL/2, exactly",
        {"kind": "dit", "size": "XL", "classes": 1000},
        675_129_632 / 1e6,
        {"learned variance (1152 x 16 + 16)": 1152 * 16 + 16, "positions that do not train (256 x 1152)": 256 * 1152},
    ),
    Row(
        "ADM, Table 4",
        "ADM, ImageNet 64 x 64",
        {"kind": "unet", **PIXELS_64, "size": "adm-64", "classes": 1000},
        296,
        {"learned variance (3 x (9 x 192 + 1))": 3 * (9 * 192 + 1)},
    ),
]


def measure(row: Row) -> dict[str, Any]:
    """The row's numbers."""
    model = read_recipe(RECIPES / f"{row.model}.yaml")["model"]["create"] if isinstance(row.model, str) else row.model
    values = dict(model)
    count = KINDS[values.pop("kind")].count_parameters(values)
    ratio = (count + sum(row.counted_there.values())) / (row.printed * 1e6)
    result = {
        "source": row.source,
        "name": row.name,
        "recipe": f"recipes/erd/{row.model}.yaml" if isinstance(row.model, str) else None,
        "configuration": None if isinstance(row.model, str) else row.model,
        "parameters": count,
        "printed_millions": row.printed,
        "counted_there_only": row.counted_there,
        "ratio": round(ratio, 6),
        "within_1_percent": abs(ratio - 1) <= 0.01,
    }
    return {**result, "note": row.note} if row.note else result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/parameter_counts.json"))
    options = parser.parse_args()
    results = [measure(row) for row in ROWS]
    for item in results:
        flag = "" if item["within_1_percent"] else f"   <- {item.get('note', '')}"
        print(
            f"{item['source']:24s} {item['name']:56s} {item['parameters']:>13,d} of {item['printed_millions']:>10.6g} M"
            f"  ratio {item['ratio']:.4f}{flag}"
        )
    write_json(options.out, {"results": results})
    print(f"{sum(item['within_1_percent'] for item in results)} of {len(results)} within 1%; written to {options.out}")


if __name__ == "__main__":
    main()

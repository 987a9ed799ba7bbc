"""Puts a trained base model into the package, with its sources and its training curve: pack.py RUN… -- RENDERED_SET…"""

import json
import shutil
import sys
from pathlib import Path

from eisbach.backbones import load_backbone
from eisbach.data.manifest import load_manifest
from eisbach.data.scores import licence_rows, list_pieces
from eisbach.files import read_jsonl, write_json, write_jsonl

cut = sys.argv.index("--")
runs, rendered = [Path(name) for name in sys.argv[1:cut]], [Path(name) for name in sys.argv[cut + 1 :]]
assets = Path("src/eisbach/assets")

source = runs[-1] / "model"
backbone = load_backbone(source)
target = assets / "base"
target.mkdir(parents=True, exist_ok=True)
for name in ("config.json", "model.safetensors"):
    shutil.copyfile(source / name, target / name)

# Every score of the selection that the sets were rendered from, training and held out, with what its file states.
used = set(Path("recipes/base/pieces.txt").read_text(encoding="utf-8").splitlines())
used |= {row.labels["piece"] for folder in rendered for row in load_manifest(folder).rows}
rows = licence_rows(list_pieces(sorted(used)))
refused = [row for row in rows if not row["redistributable"]]
if refused:
    sys.exit(f"{len(refused)} of the scores may not be passed on, first: {refused[0]}")
write_json(assets / "scores" / "sources.json", rows)

curve = [
    {"stage": run.name, "step": row["step"], "held_out_loss": row["held_out_loss"]}
    | {f"held_out_loss_t{level}": loss for level, loss in row["held_out_loss_by_noise_level"].items()}
    for run in runs
    for row in read_jsonl(run / "metrics.jsonl")
    if "held_out_loss" in row
]
write_jsonl(Path("bench/results/base_training.jsonl"), curve)
size = sum(path.stat().st_size for path in assets.rglob("*.safetensors")) / 1e6
print(
    json.dumps(
        {"model": backbone.identity(), "scores": len(rows), "weights_mb": round(size, 2), "last": curve[-1]}, indent=2
    )
)

"""A set of real recordings that anybody can rebuild: ``python bench/recordings.py --out recordings``.

Fetches the music of free-licence Debian packages through ``apt-get download`` (by many hands: orchestral, industrial
ambient, electronic, comic score, trance) and unpacks it, or takes any folder of audio (``--folder``, first level of
folders = style). Writes

- ``OUT/tracks/``: the files as they came, with each package's copyright file;
- ``OUT/excerpts/``: excerpts of `--seconds` from every track that is long enough, evenly spread, at most `--most` of a
  track, as FLAC, and their ``manifest.jsonl`` (labels: style, package, album, composer, track; the split holds out
  whole albums and composers);
- ``OUT/sources.json``: package, version, licences as its copyright file states them, tracks, seconds.

Nothing of it belongs in the repository: results and fitted constants do.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from eisbach.audio import audio_hash
from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, save_manifest
from eisbach.files import read_json, write_json

PACKAGES = {
    "wesnoth-1.16-music": "orchestral",
    "warzone2100-music": "industrial ambient",
    "hyperrogue-music": "electronic",
    "drascula-music": "comic score",
    "singularity-music": "dark ambient",
    "asc-music": "trance",
}
"""Debian package → style."""
SUFFIXES = {".ogg", ".opus", ".mp3", ".flac", ".wav"}
EFFECTS = ("sounds", "sfx")
"""Folders of sound effects, which are no music."""
HELD_OUT_SHARE = 0.4
SILENT_RMS = 1e-3
SOURCE = "source.json"


@dataclass(frozen=True)
class Track:
    """One recording, and whose it is."""

    path: Path
    style: str
    package: str
    album: str
    composer: str
    seconds: float

    @property
    def group(self) -> str:
        """What a split keeps together: everything of one composer, or of one album where no composer is named."""
        return f"{self.style}/{self.composer or self.album}"


def fetch(package: str, out: Path) -> dict[str, str]:
    """Unpacks a Debian package's audio and copyright file to `out`; its version and licences."""
    out.mkdir(parents=True, exist_ok=True)  # also of a package without audio, of which `main` counts none
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, capture_output=True)
        archive = next(Path(folder).glob("*.deb"))
        unpacked = Path(folder) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
        for file in sorted(unpacked.rglob("*")):
            if file.is_file() and file.suffix.lower() in SUFFIXES and not set(EFFECTS) & set(file.parts):
                place = out / file.relative_to(unpacked / "usr/share")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
        notice = (unpacked / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8", errors="replace")
        (out / "copyright.txt").write_text(notice, encoding="utf-8")
        version = subprocess.run(["dpkg-deb", "-f", archive, "Version"], check=True, capture_output=True, text=True)
    licences = sorted(set(re.findall(r"^License:\s*(\S.*)$", notice, flags=re.MULTILINE)))
    readable = notice.startswith("Format:")  # Debian's machine-readable form
    source = {"version": version.stdout.strip(), "licences": "; ".join(licences) if readable else "see copyright.txt"}
    write_json(out / SOURCE, source)
    return source


def tracks(folder: Path, style: str, package: str) -> Iterator[Track]:
    """Every recording below a folder once, by name; a file that cannot be read is named."""
    seen: set[str] = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        try:
            with soundfile.SoundFile(path) as file:
                seconds, composer, album = file.frames / file.samplerate, file.artist, file.album
        except soundfile.LibsndfileError as error:
            print(f"left out: {path} cannot be read ({error})")
            continue
        digest = audio_hash(path)
        if digest in seen:
            continue
        seen.add(digest)
        yield Track(path, style, package, album or f"{package}/{path.parent.name}", composer, seconds)


def hold_out(found: list[Track]) -> dict[str, str]:
    """Group → split: of every style with two groups or more, about `HELD_OUT_SHARE` of its groups, by hash."""
    groups: dict[str, set[str]] = defaultdict(set)
    for track in found:
        groups[track.style].add(track.group)
    splits: dict[str, str] = {}
    for names in groups.values():
        order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        held = round(HELD_OUT_SHARE * len(order)) if len(order) > 1 else 0
        splits |= {name: "held_out" if place < held else "train" for place, name in enumerate(order)}
    return splits


def excerpts(track: Track, seconds: float, most: int) -> Iterator[tuple[float, np.ndarray, int]]:
    """Start, samples (frames, channels) and rate of excerpts, evenly spread; silent ones are passed over."""
    count = min(most, int(track.seconds // seconds))
    with soundfile.SoundFile(track.path) as file:
        length = int(seconds * file.samplerate)
        for start in np.linspace(0, max(0, file.frames - length), count + 2)[1:-1] if count else ():
            file.seek(int(start))
            samples = file.read(length, dtype="float32", always_2d=True)
            if len(samples) == length and np.sqrt(np.mean(samples**2)) > SILENT_RMS:
                yield int(start) / file.samplerate, samples[:, :2], file.samplerate


def build(found: list[Track], out: Path, seconds: float, most: int) -> Manifest:
    """Writes the excerpts and their manifest."""
    splits, rows = hold_out(found), []
    out.mkdir(parents=True, exist_ok=True)
    for number, track in enumerate(found):
        for start, samples, rate in excerpts(track, seconds, most):
            name = f"{number:03d}_{int(start):04d}.flac"
            soundfile.write(out / name, np.clip(samples, -1, 1), rate)
            labels = {
                "style": track.style,
                "package": track.package,
                "album": track.album,
                "composer": track.composer,
                "piece": track.group,
                "track": track.path.name,
            }
            rows.append(
                ManifestRow(
                    id=Path(name).stem,
                    path=name,
                    caption="",
                    duration=len(samples) / rate,
                    labels={key: value for key, value in labels.items() if value},
                    audio_hash=audio_hash(out / name),
                    split=splits[track.group],  # type: ignore[arg-type]
                )
            )
    manifest = Manifest(rows, out)
    save_manifest(manifest, out / MANIFEST_NAME)
    return manifest


def main() -> None:
    """Fetches, cuts, and says what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", nargs="*", default=list(PACKAGES))
    parser.add_argument(
        "--folder", type=Path, help="a folder of audio instead; its first level of folders names styles"
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--most", type=int, default=3, help="excerpts a track")
    options = parser.parse_args()
    found: list[Track] = []
    sources: dict[str, dict[str, str]] = {}
    if options.folder:
        for folder in sorted(path for path in options.folder.iterdir() if path.is_dir()) or [options.folder]:
            found += tracks(folder, folder.name, options.folder.name)
    else:
        for package in options.packages:
            place = options.out / "tracks" / package
            done = place / SOURCE
            sources[package] = read_json(done) if done.is_file() else fetch(package, place)
            found += tracks(place, PACKAGES.get(package, package), package)
    manifest = build(found, options.out / "excerpts", options.seconds, options.most)
    write_json(options.out / "sources.json", sources)
    for style in sorted({track.style for track in found}):
        own = [track for track in found if track.style == style]
        cut = [row for row in manifest if row.labels["style"] == style]
        held = sum(row.split == "held_out" for row in cut)
        print(
            f"{style:20} {len(own):4} tracks {sum(track.seconds for track in own) / 60:6.0f} min "
            f"{len({track.group for track in own}):3} hands {len(cut):4} excerpts, {held} held out"
        )


if __name__ == "__main__":
    main()

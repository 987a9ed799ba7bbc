"""Quality of images against independent formulas, and what is refused."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from eisbach.errors import UserError
from eisbach.image_quality.features import load_features
from eisbach.image_quality.quality import image_quality, inception_score, read_statistics, statistics_of

RNG = np.random.default_rng(0)


class Pixels:
    """Four averages of an image, three of its corners, and its brightness as two classes."""

    name = "pixels"

    def identity(self):
        return "pixels-1"

    def __call__(self, images):
        values = images.astype(np.float64).mean(axis=-1) / 255
        pooled = np.stack(
            [values[:, ::2].mean((1, 2)), values[:, 1::2].mean((1, 2)), values[:, :, 0].mean(1), values[:, 0].mean(1)],
            1,
        )
        return {
            "pooled": pooled,
            "spatial": values[:, :1, :3].reshape(len(images), 3),
            "logits": np.stack([values.mean((1, 2)), -values.mean((1, 2))], 1),
        }


def images(count: int, low: int = 0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 256, (count, 8, 8, 3), dtype=np.uint8)


def frechet(a, b):
    """The published formula with a general matrix square root."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real))


def test_fid_and_sfid_are_the_published_formula():
    network, real, fake = Pixels(), images(60), images(50, low=80, seed=1)
    result = image_quality(statistics_of(real, network), statistics_of(fake, network))
    assert result.fid == pytest.approx(frechet(network(real)["pooled"], network(fake)["pooled"]), rel=1e-6)
    assert result.sfid == pytest.approx(frechet(network(real)["spatial"], network(fake)["spatial"]), rel=1e-6)
    assert result.notes == ()
    same = image_quality(statistics_of(real, network), statistics_of(real, network))
    assert same.fid == pytest.approx(0, abs=1e-9)
    assert same.precision == same.recall == 1


def test_inception_score_has_closed_forms():
    sure = 50 * np.eye(5)[np.arange(100) % 5]
    assert inception_score(sure) == pytest.approx(5)
    assert inception_score(np.ones((7, 5))) == pytest.approx(1)
    p = np.array([[0.9, 0.1], [0.4, 0.6]])
    mean = p.mean(0)
    expected = np.exp(np.mean(np.sum(p * np.log(p / mean), axis=1)))
    assert inception_score(np.log(p) + 3) == pytest.approx(expected)
    with pytest.raises(UserError, match="two classes"):
        inception_score(np.ones((7, 1)))


def test_fewer_images_than_features_are_flagged():
    network = Pixels()
    result = image_quality(statistics_of(images(40), network), statistics_of(images(4, seed=2), network), neighbours=1)
    assert "rank-deficient" in result.notes[0]
    assert "4 images for 4 features" in result.notes[0]


def test_statistics_survive_their_file_and_networks_are_compared(tmp_path):
    network, fake = Pixels(), images(30, seed=3)
    real = statistics_of(images(40), network)
    real.save(tmp_path / "ref.npz")
    again = read_statistics(tmp_path / "ref.npz", network)
    samples = statistics_of(fake, network)
    assert image_quality(again, samples) == image_quality(real, samples)

    class Other(Pixels):
        def identity(self):
            return "pixels-2"

    with pytest.raises(UserError, match="features pixels-1 and the samples with pixels-2"):
        image_quality(again, statistics_of(fake, Other()))


def test_adms_references(tmp_path):
    """mu, sigma, mu_s, sigma_s of ADM's Inception beside the images themselves, or the images alone."""
    network, real = Pixels(), images(40)
    values = network(real)
    moments = {
        "mu": values["pooled"].mean(0), "sigma": np.cov(values["pooled"], rowvar=False),
        "mu_s": values["spatial"].mean(0), "sigma_s": np.cov(values["spatial"], rowvar=False),
    }  # fmt: skip
    np.savez(tmp_path / "adm.npz", arr_0=real, **moments)
    with pytest.raises(UserError, match="features inception and the samples with pixels-1"):
        image_quality(read_statistics(tmp_path / "adm.npz", network), statistics_of(real, network))

    class Inception(Pixels):
        name = "inception"

        def identity(self):
            return "inception-abc"

    whole = image_quality(
        read_statistics(tmp_path / "adm.npz", Inception()), statistics_of(images(30, seed=4), Inception())
    )
    assert whole.precision is not None
    np.savez(tmp_path / "moments.npz", **moments)
    part = image_quality(
        read_statistics(tmp_path / "moments.npz", Inception()), statistics_of(images(30, seed=4), Inception())
    )
    assert part.fid == pytest.approx(whole.fid)
    assert part.precision is None
    assert any("statistics alone" in note for note in part.notes)
    np.savez(tmp_path / "images.npz", arr_0=real)
    assert read_statistics(tmp_path / "images.npz", network).count == 40
    with pytest.raises(UserError, match="name the features"):
        read_statistics(tmp_path / "images.npz", None)


def test_foreign_files_are_refused(tmp_path):
    network = Pixels()
    np.savez(tmp_path / "foreign.npz", weights=np.ones(3))
    with pytest.raises(UserError, match="neither statistics"):
        read_statistics(tmp_path / "foreign.npz", network)
    np.savez(tmp_path / "pickled.npz", mu=np.array([{"a": 1}], dtype=object), sigma=np.eye(1))
    with pytest.raises(UserError, match="without pickles"):
        read_statistics(tmp_path / "pickled.npz", network)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match=r"no whole \.npz archive"):
        read_statistics(tmp_path / "text.npz", network)
    np.savez(tmp_path / "odd.npz", mu=np.ones(3), sigma=np.eye(2))
    with pytest.raises(UserError, match=r"\(d,\) and \(d, d\)"):
        read_statistics(tmp_path / "odd.npz", network)
    np.savez(tmp_path / "floats.npz", arr_0=np.ones((3, 8, 8, 3)))
    with pytest.raises(UserError, match="images of bytes"):
        read_statistics(tmp_path / "floats.npz", network)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "odd.npz").read_bytes()[:60])
    with pytest.raises(UserError, match="cannot be read"):
        read_statistics(tmp_path / "cut.npz", network)
    with pytest.raises(UserError, match="does not exist"):
        read_statistics(tmp_path / "none.npz", network)


def test_feature_networks_say_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="choose one of inception, digits"):
        load_features("clip")
    with pytest.raises(UserError, match="need their weights"):
        load_features("inception")
    with pytest.raises(UserError, match="not downloaded"):
        load_features("inception", tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="need a classifier; name its folder with --weights"):
        load_features("digits")

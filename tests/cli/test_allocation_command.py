"""`eisbach allocation`: its table, files and mistakes."""

import csv
import json
import sys
from pathlib import Path

import pytest

from eisbach.cli import main as cli
from eisbach.cli.allocation import _sort_overrides
from eisbach.diffusion.noise_levels import get_density
from eisbach.errors import UserError
from eisbach.weighting.allocation import allocation
from eisbach.weighting.noise_level import MinSNR


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process; gives its exit code, standard output and standard error."""

    def call(text: str, *more: object):
        monkeypatch.setattr(sys, "argv", ["eisbach", "allocation", *text.split(), *map(str, more)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        streams = capsys.readouterr()
        return int(caught.value.code or 0), streams.out, streams.err

    return call


def test_table_fits_and_says_the_numbers(run):
    code, out, _ = run("--noise-level min_snr --noise-level none --set gamma=2 --density logit_normal:m=0.5,s=0.8")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    assert "density logit_normal(m=0.5, s=0.8)" in out
    found = allocation(MinSNR(2.0), get_density("logit_normal", m=0.5, s=0.8), "linear", "u")
    (row,) = [line for line in out.splitlines() if "min_snr gamma=2" in line]
    assert f"{found.mean_weight:.4g}" in row
    assert f"{found.effective_share:.1%}" in row
    assert all(f"{band.effort:.1%}" in row for band in found.bands)


def test_files_and_json_agree(run, tmp_path: Path):
    code, out, _ = run(
        "--noise-level min_snr:gamma=1e0 --noise-level min_snr:gamma=20 --density edm --path edm --target x0 "
        "--set path.sigma_max=160 --json --out", tmp_path / "made",
    )  # fmt: skip
    assert code == 0
    result = json.loads(out)
    assert result == json.loads((tmp_path / "made" / "allocation.json").read_text(encoding="utf-8"))
    assert result["path_options"]["sigma_max"] == 160
    assert [one["label"] for one in result["allocations"]] == ["min_snr gamma=1.0", "min_snr gamma=20"]
    assert [one["weight_options"]["gamma"] for one in result["allocations"]] == [1, 20]
    with (tmp_path / "made" / "allocation.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 401
    first = [row for row in rows if row["label"] == "min_snr gamma=1.0"]
    assert all(float(row["x0_weight"]) <= 1 + 1e-9 for row in first)
    assert {row["log_snr"] for row in first} == {row["log_snr"] for row in rows[401:]}, "one grid for all"
    assert (tmp_path / "made" / "allocation.png").read_bytes()[1:4] == b"PNG"


def test_defaults_several_densities_and_notes(run):
    code, out, _ = run("")
    assert code == 0
    assert "density uniform(low=0, high=1)" in out
    code, out, _ = run("--density uniform --density mode:s=-0.5 --noise-level constant:target=x0 --target eps")
    assert code == 0
    assert "density mode(s=-0.5)" in out
    assert "the mean weight does not exist" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100


def test_dry_run_resolves_and_writes_nothing(run, tmp_path: Path):
    code, out, _ = run(
        "--noise-level tabulated:points=[[0,1],[1,2]] --noise-level erd --set weight.correct_density=true "
        "--density trunc_logit_normal --frames 646 --dry-run --out", tmp_path / "none",
    )  # fmt: skip
    assert code == 0
    plan = json.loads(out)
    assert plan["compare"][0]["weight_options"] == {"points": [[0, 1], [1, 2]]}
    assert plan["compare"][1]["weight_options"] == {"correct_density": True}
    assert plan["frames"] == 646
    assert not (tmp_path / "none").exists()


MISTAKES = {
    "--noise-level magic": "choose one of none, constant",
    "--density magic": "choose one of uniform",
    "--path magic": "choose one of linear",
    "--target magic": "choose one of eps",
    "--noise-level min_snr --set gamma": "must look like KEY=VALUE",
    "--noise-level min_snr:gamma": "must look like KEY=VALUE",
    "--noise-level min_snr --set colour=3": "nothing named here has the option 'colour'; min_snr has gamma",
    "--noise-level min_snr --set density.gamma=3": "nothing named here has the option 'gamma'",
    "--noise-level min_snr --set wait.gamma=3": "names 'wait'",
    "--noise-level min_snr:k=3": "no option 'k'",
    "--noise-level min_snr --set gamma=-1": "above 0",
    "--noise-level min_snr --set gamma=[1": "cannot be read",
    "--noise-level tabulated": "needs points",
    "--noise-level tabulated:points=3": "[t, value] pairs; got 3",
    "--noise-level sigma_sqrt --path vp --target v": "undefined on the vp path",
    "--density trunc_logit_normal": "add --frames N",
    "--density uniform --frames 20": "no density named here depends on length",
    "--density log_snr_uniform": "needs low and high",
    "--density uniform:s=1": "its options are low, high, shift",
    "--set path.beta_max=3": "the linear path does not take",
    " ".join(["--noise-level none"] * 13): "name fewer",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_sentence(run, line):
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert MISTAKES[line] in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_an_option_of_both_kinds_must_say_which(run):
    code, _, err = run("--noise-level erd --density uniform --set weight.normalise=false --set low=0.1")
    assert code == 0, err
    with pytest.raises(UserError, match=r"write weight\.s or density\.s"):
        _sort_overrides(["s=1"], {"a": {"s"}}, {"b": {"s"}})
    assert _sort_overrides(["density.s=1"], {"a": {"s"}}, {"b": {"s"}})["density"] == {"s": 1}

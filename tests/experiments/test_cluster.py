"""Cells on a Ray cluster of two nodes on this machine's loopback: workers and nodes are killed, bytes stay."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import test_run
from cluster_calls import fragile, hold, refuse, report, until_stopped
from test_run import spec_of, tree

from eisbach.data.manifest import load_manifest
from eisbach.errors import UserError
from eisbach.executors import DeadProcessError, on_ray, open_executor
from eisbach.executors.ray_worker import Place, versions_here
from eisbach.experiments.run import run_experiment
from eisbach.output_folder import exclusive

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's word for: the address of this node is 127.0.0.1
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="the package ray is not installed (pip install 'eisbach[ray]')")

LOOPBACK = "127.0.0.1"
material = test_run.material  # the fixture


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and another node of one processor each, and this process connected to them."""
    from ray.cluster_utils import Cluster

    paths = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)  # workers find this file's functions
    head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": LOOPBACK}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1, node_ip_address=LOOPBACK)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR", _node_ip_address=LOOPBACK)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.whole
def test_each_gives_what_is_returned_sent_and_raised(cluster: Any, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    with on_ray(shared=tmp_path), open_executor(1, 1) as executor:
        assert (executor.jobs, executor.threads, executor.here) == (2, 1, False)
        calls = [(number,) for number in range(7)]
        assert dict(executor.each(report, calls, listen=heard.append)) == {n: 10 * n for n in range(7)}
        assert sorted(heard) == [(number, part) for number in range(7) for part in range(3)]
        with pytest.raises(UserError, match="not this one"):
            list(executor.each(refuse, calls))
        with pytest.raises(UserError, match="not this one"):
            executor.call(refuse, 1)
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(executor.call, [abs] * 6, range(-6, 0))) == list(range(6, 0, -1))
    assert list(tmp_path.iterdir()) == []
    assert open_executor(1, 5).here  # outside, nothing runs on the cluster


@pytest.mark.whole
def test_a_worker_that_dies_costs_another_try_of_its_own_call_alone(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [(tmp_path, number, {1: 1, 2: 99}.get(number, 0)) for number in range(4)]
    with on_ray(), open_executor(1, 1) as executor:
        assert dict(executor.each(fragile, calls, dead=lambda index: -index)) == {0: 0, 1: 10, 2: -2, 3: 30}
        tries = [path.name for path in tmp_path.iterdir()]
        assert sorted(tries) == ["0-0", "1-0", "1-1", "2-0", "2-1", "2-2", "2-3", "3-0"]
        monkeypatch.setattr("eisbach.executors.ray._TRIES", 1)
        for attempt in (executor.call, lambda *call: list(executor.each(call[0], [call[1:]]))):
            with pytest.raises(DeadProcessError, match="a worker or node died 1 times over the same work"):
                attempt(fragile, tmp_path, 9, 99)


@pytest.mark.whole
def test_a_call_that_is_run_again_waits_for_the_folder_of_the_dead(cluster: Any, tmp_path: Path) -> None:
    with on_ray(), open_executor(1, 1) as executor:
        assert dict(executor.each(hold, [(tmp_path, True)])) == {0: "held"}
        with exclusive(tmp_path), pytest.raises(UserError, match="another process is at work"):
            executor.call(hold, tmp_path, False)  # a first try does not wait


@pytest.mark.whole
def test_an_interruption_lets_running_calls_save_and_drops_the_others(cluster: Any, tmp_path: Path) -> None:
    def stop_soon(message: Any) -> None:
        if len(list(tmp_path.glob("*-began"))) == 2:
            raise KeyboardInterrupt

    with on_ray(), open_executor(1, 1) as executor, pytest.raises(KeyboardInterrupt):
        list(executor.each(until_stopped, [(tmp_path, number) for number in range(6)], listen=stop_soon))
    names = sorted(path.name for path in tmp_path.iterdir())
    began = [name for name in names if name.endswith("began")]
    assert len(began) == 2
    assert names == sorted(began + [name.replace("began", "saved") for name in began])


def _busy_workers() -> list[psutil.Process]:
    """The processes that run a cell of an experiment now."""
    busy = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            busy += [child] if "ray::_work" in child.cmdline() else []
    return busy


@pytest.mark.slow
def test_an_experiment_whose_worker_and_node_are_killed_has_the_same_bytes(
    cluster: Any,
    tiny_model: Path,
    material: Path,
    tmp_path: Path,
) -> None:
    local = spec_of(tiny_model, material, tmp_path / "local")
    changes: dict[str, Any] = {
        "train_seeds": [0, 1],
        "arms": {name: local.arms[name].model_dump() for name in ("plain", "oracle")},
        "training": {**local.training, "steps": 12},
    }
    here = run_experiment(spec_of(tiny_model, material, tmp_path / "local", **changes), quiet=True)
    out, killed = tmp_path / "cluster", []
    second = next(iter(cluster.worker_nodes))

    def kill() -> None:
        """A worker when the first checkpoint is there, and the node when both nodes are at work again."""
        end = time.monotonic() + 300  # a loaded machine takes its time
        while len(killed) < 2 and time.monotonic() < end:
            started = {path.parents[2] for path in out.glob("arms/*/*/train/checkpoints/step-*")}
            unfinished = [cell for cell in started if not (cell / "train" / "result.json").is_file()]
            workers = _busy_workers()
            if not killed and unfinished and workers:
                workers[0].kill()
                killed.append("worker")
            elif killed and unfinished and len(workers) == 2 and all(worker.status() != "zombie" for worker in workers):
                cluster.remove_node(second, allow_graceful=False)
                killed.append("node")
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    with on_ray(shared=out):
        there = run_experiment(spec_of(tiny_model, material, out, **changes), quiet=True)
    thread.join()
    cluster.add_node(num_cpus=1, node_ip_address=LOOPBACK)
    assert killed == ["worker", "node"]
    assert tree(out) == tree(tmp_path / "local")
    assert there.records == here.records
    assert not list(out.glob(".shared-*"))


@pytest.mark.slow
def test_the_command_line_renders_on_a_cluster_that_it_is_told(cluster: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eisbach", "data", "render", "-n", "3", "-s", "4", "--pieces", "bach/bwv25*"]
    where = {"here": ["--jobs", "1"], "there": ["--executor", "ray", "--address", cluster.address]}
    for name, options in where.items():
        done = subprocess.run([*command, "-o", name, *options], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    here, there = (load_manifest(tmp_path / name) for name in where)
    assert here.rows == there.rows


@pytest.mark.whole
def test_what_a_cluster_cannot_do_is_one_sentence(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no node of the cluster has 64 processors .* \(the largest has 1 processor\)"):
        on_ray(cell_cpus=64).__enter__()
    with pytest.raises(UserError, match=r"has 1 processors and 2 GPUs for a cell"):
        on_ray(cell_gpus=2).__enter__()
    with pytest.raises(UserError, match="more than 0 processors"):
        on_ray(cell_cpus=0).__enter__()


def test_a_node_of_another_disk_or_other_versions_is_refused(tmp_path: Path) -> None:
    place = Place(str(tmp_path), str(tmp_path / "token"), versions_here(), 1, {})
    with pytest.raises(UserError, match=r"does not see .*token; start the command in a folder"):
        place.enter()
    with pytest.raises(UserError, match=r"has torch \S+, not 1\.0; install the same versions"):
        replace(place, token=None, versions=versions_here() | {"torch": "1.0"}).enter()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--executor", "slurm"], "there is no executor 'slurm'; choose local or ray."),
        (["--address", "auto"], "--address is an option of --executor ray; add that, or leave --address out."),
        (["--cell-gpus", "1"], "--cell-gpus is an option of --executor ray"),
        (["--executor", "ray", "--jobs", "3"], "--jobs 3 counts processes of this machine; with --executor ray leave"),
    ],
)
def test_options_that_the_executor_does_not_have_are_refused(options: list[str], said: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from eisbach.cli.main import app

    result = CliRunner().invoke(app, ["data", "render", "-o", str(tmp_path / "out"), "-n", "1", *options])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the package ray; run: pip install 'eisbach\[ray\]'"):
        on_ray().__enter__()

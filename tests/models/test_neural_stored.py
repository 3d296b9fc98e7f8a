"""Neural models in MLflow: a program without pickled code, or one clear error."""

from __future__ import annotations

import datetime as dt
import json
import pickletools
import zipfile
from functools import lru_cache

import mlflow
import numpy as np
import pytest
import torch

from market.errors import ModelError
from models.families.stored_values import FILE, StoredValues
from models.fit import FittedModel, fit_model
from models.registry import FAMILIES
from models.tracking import Tracker
from tests.families import quick
from tests.markets import dataset_of, market

NEURAL = ("lstm", "cnn", "transformer")
LATE = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@lru_cache(maxsize=3)
def model(name: str) -> FittedModel:
    (family,) = quick([FAMILIES[name]])
    data = dataset_of(market())
    return fit_model(data, np.arange(350), family, horizon="1d", seed=1, data_hash="h")


@pytest.fixture
def tracker(tmp_path) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))


def store(tracker: Tracker, *names: str) -> None:
    models = [model(n) for n in names]
    tracker.log_training("1d", models, params={}, metrics={}, tags={})


def globals_of(record: bytes) -> set[str]:
    """What a pickle would import."""
    found = set()
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(record):
        if opcode.name == "GLOBAL":
            found.add(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


def test_all_three_come_back_and_no_artifact_is_a_pickle(tracker: Tracker, tmp_path) -> None:
    store(tracker, *NEURAL)
    data = dataset_of(market())
    late = data.sample(np.arange(400, 450))
    back = {m.family.name: m.forecaster for m in tracker.champions("1d", LATE)}
    assert sorted(back) == sorted(NEURAL)
    for name, forecaster in back.items():
        made = model(name).forecaster
        assert forecaster.predict(late).mean.tobytes() == made.predict(late).mean.tobytes()
        assert forecaster.predict(late).spread.tobytes() == made.predict(late).spread.tobytes()
        assert forecaster.contributions(late).tobytes() == made.contributions(late).tobytes()
    files = [p for p in (tmp_path / "artifacts").rglob("*") if p.is_file()]
    kinds = {p.suffix for p in files}
    assert kinds <= {".pt2", ".npz", ".json", ".yaml", ".txt", ""}
    for values in (p for p in files if p.suffix == ".npz"):
        # One that held an object would be refused here.
        with np.load(values, allow_pickle=False) as stored:
            assert {stored[n].dtype for n in stored.files} == {np.dtype(np.float32)}
    archives = [p for p in files if p.suffix == ".pt2"]
    assert len(archives) == 3
    for archive in archives:
        with zipfile.ZipFile(archive) as stored:
            named = {n: stored.read(n) for n in stored.namelist()}
        (weights,) = (v for n, v in named.items() if n.endswith("model_weights_config.json"))
        assert not any(e["use_pickle"] for e in json.loads(weights)["config"].values())
        # The example alone is kept by torch.save: an archive whose pickle names tensors alone.
        (example,) = (n for n in named if n.endswith("sample_inputs/model.pt"))
        inner = tmp_path / "inner.zip"
        inner.write_bytes(named[example])
        with zipfile.ZipFile(inner) as of:
            (listed,) = (of.read(n) for n in of.namelist() if n.endswith("data.pkl"))
        assert globals_of(listed) <= {
            "torch._utils._rebuild_tensor_v2",
            "torch.FloatStorage",
            "collections.OrderedDict",
        }


def test_what_is_stored_forecasts_raw_windows_without_this_package(
    tracker: Tracker, tmp_path
) -> None:
    """MLflow's own reader runs the program as it is, for any number of rows."""
    store(tracker, "lstm")
    data = dataset_of(market())
    rows = np.arange(400, 440)
    at = data.lines.windows(rows, 5)
    raw = np.where((at >= 0)[..., None], data.x[at], np.float32("nan")).astype(np.float32)
    (archive,) = (tmp_path / "artifacts").rglob("MLmodel")
    program = mlflow.pytorch.load_model(str(archive.parent))
    out = program(torch.from_numpy(raw)).detach().numpy()
    got = model("lstm").forecaster.predict(data.sample(rows))
    assert out[:, 0] == pytest.approx(got.mean, abs=1e-6)
    assert out[:, 1] == pytest.approx(got.spread, abs=1e-6)
    served = mlflow.pyfunc.load_model(str(archive.parent)).predict(raw)
    assert np.asarray(served) == pytest.approx(out, abs=1e-6)


def test_the_values_beside_a_program_are_those_of_the_program(tracker: Tracker, tmp_path) -> None:
    store(tracker, "transformer")
    (of,) = (tmp_path / "artifacts").rglob("MLmodel")
    program = mlflow.pytorch.load_model(str(of.parent)).state_dict()
    (path,) = (tmp_path / "artifacts").rglob(FILE)
    values = StoredValues(path).state_dict()
    assert sorted(values) == sorted(program)
    assert all(torch.equal(values[name], program[name]) for name in values)


@pytest.mark.parametrize("harm", ["lost", "empty", "cut"])
@pytest.mark.parametrize("what", ["*.pt2", "*.npz"])
def test_a_harmed_archive_is_one_clear_error(
    tracker: Tracker, tmp_path, harm: str, what: str
) -> None:
    store(tracker, "cnn")
    (archive,) = (tmp_path / "artifacts").rglob(what)
    whole = archive.read_bytes()
    archive.unlink()
    if harm != "lost":
        archive.write_bytes(whole[: len(whole) // 2] if harm == "cut" else b"")
    with pytest.raises(ModelError, match="cannot be read"):
        tracker.champions("1d", LATE)

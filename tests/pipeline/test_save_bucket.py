"""Values in a bucket equal those on a disk, from the save to training."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import layertap
from layertap.cli import main
from layertap.errors import OtherRunError, StoreError
from tests.support.store_bucket import Bucket

ROWS, BATCH = 300, 32
# Blocks of fewer than a hundred rows.
SMALL = 3 * 2**14
pytestmark = [
    pytest.mark.one_backend,
    # Addresses are not names of inputs.
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict"),
    # PyTorch's loader forks, unless it is set to spawn.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def two_branches():
    keras.utils.set_random_seed(1)
    x = keras.Input((8,), name="x")
    left = keras.layers.Dense(16, activation="relu", name="left")(x)
    right = keras.layers.Dense(24, name="right")(x)
    joined = keras.layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, keras.layers.Dense(1, name="head")(joined), name="two")


X = np.random.default_rng(0).normal(size=(ROWS, 8)).astype("float32")
LABELS = np.arange(ROWS) % 3


@pytest.fixture(scope="module")
def saved_twice(object_store, tmp_path_factory):
    """Saves the same values on a disk, and in a bucket after an interruption."""
    model, local = two_branches(), tmp_path_factory.mktemp("local") / "v.zarr"
    place = Bucket.new(object_store)

    def stops(rows, written):
        if rows >= 160:
            raise KeyboardInterrupt

    options = {"batch_size": BATCH, "memory": SMALL}
    layertap.save(model, (X, LABELS), local, **options)
    with pytest.raises(KeyboardInterrupt):
        layertap.save(model, (X, LABELS), place.path, progress=stops, **options)
    part = layertap.open(place.path)
    assert not part.complete
    assert 0 < part.rows < ROWS
    layertap.save(model, (X, LABELS), place.path, **options)
    return layertap.open(local), layertap.open(place.path), model


def test_values_and_their_facts(saved_twice):
    local, remote, _ = saved_twice
    assert remote.complete
    assert list(remote) == list(local)
    for address, array in local.items():
        assert remote[address][:].tobytes() == array[:].tobytes()
        assert remote[address].attributes == array.attributes
        assert np.array_equal(remote[address][::-7, 3], array[::-7, 3])
    assert np.array_equal(remote.labels[:], LABELS)
    known = local.reader.attributes["statistics"]
    assert remote.reader.attributes["statistics"] == known
    assert remote.bytes_on_disk > X.nbytes


def test_the_same_call_computes_nothing_and_another_run_is_refused(saved_twice):
    _, remote, model = saved_twice
    assert layertap.save(model, (X, LABELS), remote.path, batch_size=BATCH).complete
    with pytest.raises(OtherRunError, match="is the store of another run"):
        layertap.save(model, (X + 1, LABELS), remote.path, batch_size=BATCH)


def test_an_overwrite_replaces_the_store(object_store):
    place, model = Bucket.new(object_store), two_branches()
    before = layertap.save(model, X, place.path)
    after = layertap.save(model, X + 1, place.path, overwrite=True)
    expected = layertap.capture(model, X + 1)
    assert after["fusion/in/0"][:].tobytes() == expected["fusion/in/0"].tobytes()
    with pytest.raises(StoreError, match="has changed since it was opened"):
        before["fusion/in/0"][:]


def test_verify_and_diff(saved_twice):
    local, remote, model = saved_twice
    assert layertap.verify(remote)
    assert layertap.verify(remote, model, X, rows=None)
    report = layertap.diff(local.path, remote.path)
    assert report
    assert report.paths == (local.path, remote.path)


def test_importance(saved_twice):
    local, remote, model = saved_twice
    _, head = layertap.split(model, before="fusion")
    options = {"loss": "mse", "repeats": 1}
    found = layertap.importance(remote, head, **options)
    assert str(found) == str(layertap.importance(local, head, **options))


def test_data_to_train_on(saved_twice):
    local, remote, _ = saved_twice
    for make in ("dataset", "tf"):
        options = {"shuffle": True, "seed": 3, "batch_size": BATCH}
        pairs = zip(
            getattr(local, make)(**options),
            getattr(remote, make)(**options),
            strict=True,
        )
        for (x, labels), (other, others) in pairs:
            assert list(x) == list(other)
            for address in x:
                assert np.array_equal(x[address], other[address])
            assert np.array_equal(labels, others)


@pytest.mark.campaign(alone=True)
def test_loaders_of_pytorch_spawn_their_workers(saved_twice):
    from torch.utils.data import DataLoader

    local, remote, _ = saved_twice
    data, expected = remote.torch("fusion"), local.torch("fusion")
    options = {"batch_size": BATCH, "num_workers": 1, "collate_fn": data.collate}
    with pytest.raises(StoreError, match='multiprocessing_context="spawn" of a DataL'):
        next(iter(DataLoader(data, multiprocessing_context="fork", **options)))
    spawned = DataLoader(data, multiprocessing_context="spawn", **options)
    for start, (x, labels) in zip(range(0, ROWS, BATCH), spawned, strict=True):
        rows = range(start, min(start + BATCH, ROWS))
        branches, known = expected.collate(expected.__getitems__(rows))
        assert [part.tolist() for part in x.values()] == [
            part.tolist() for part in branches.values()
        ]
        assert labels.tolist() == known.tolist()


def test_the_command_line_reads_a_bucket(object_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two_branches().save("two.keras")
    np.savez("x.npz", x=X[:50])
    path = Bucket.new(object_store).path

    def typed(*words):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        return done.output

    said = typed("save", "two.keras", "x.npz", "-o", path, "--compression", "zstd")
    assert said == f"{path}: 50 rows, complete.\n"
    assert "fusion/in/0" in typed("show", path)
    shown = json.loads(typed("show", path, "--json"))
    assert (shown["rows"], shown["bytes_on_disk"]) == (50, None)
    typed("save", "two.keras", "x.npz", "-o", "v.zarr")
    assert "identical" in typed("diff", "v.zarr", path)
    assert "0 of them found something wrong" in typed("verify", path)
    typed("verify", path, "--model", "two.keras", "--data", "x.npz")

"""The networks in Keras have as many values before their joins as published."""

import keras
import numpy as np
import pytest
from keras import applications

import layertap

pytestmark = pytest.mark.one_backend

alone = pytest.mark.campaign(alone=True)

KNOWN = {
    "InceptionV3": (15, 50),
    "DenseNet121": (58, 116),
    "InceptionResNetV2": (43, 101),
    "NASNetMobile": (20, 96),
}


# PyTorch, on which the others are tested, can't build NASNetMobile.
@pytest.mark.parametrize(
    "name",
    [
        "InceptionV3",
        "DenseNet121",
        "InceptionResNetV2",
        pytest.param("NASNetMobile", marks=pytest.mark.every_backend),
    ],
)
@alone
def test_joins_and_branches_of_known_networks(name):
    if name == "NASNetMobile" and keras.backend.backend() == "torch":
        pytest.skip("Keras does not build NASNetMobile on PyTorch")
    model = getattr(applications, name)(weights=None)
    plan = layertap.plan(model)
    branches = [branch for join in plan.joins for branch in join.branches]
    assert (len(plan.joins), len(branches)) == KNOWN[name]
    assert plan.refused == ()
    if name == "DenseNet121":
        naive = sum(branch.bytes_per_row for branch in branches)
        assert plan.bytes_per_row * 6 <= naive


@alone
def test_the_values_of_a_densely_connected_network(tmp_path):
    model = applications.DenseNet121(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    # Each ends a block, and joins as many values as the block has layers.
    names = [f"conv{block}_block{last}_concat" for block, last in ((2, 6), (3, 12))]
    saved = layertap.save(
        model, x, tmp_path / "dense.zarr", before="conv[23]_*", progress=False
    )
    joins = [model.get_layer(name) for name in names]
    parts = keras.Model(model.inputs, [join.input for join in joins])
    for name, expected in zip(names, parts.predict(x, verbose=0), strict=True):
        for index, truth in enumerate(expected):
            found = saved[f"{name}/in/{index}"]
            np.testing.assert_allclose(found[:], truth, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(found[1:2], found[:][1:2])
    assert saved.plan.recipes[f"{names[1]}/in/0"].axis == 3
    # Reading one address does not open the files of another.
    alone = saved["conv2_block2_concat/in/1"][:]
    folder = tmp_path / "dense.zarr" / "conv2_block2_concat" / "in" / "1"
    for shard in (tmp_path / "dense.zarr").rglob("c.*"):
        if shard.parent != folder:
            shard.unlink()
    again = layertap.open(tmp_path / "dense.zarr")["conv2_block2_concat/in/1"]
    np.testing.assert_array_equal(again[:], alone)

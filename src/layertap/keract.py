"""A bridge for users of keract: its functions, arguments and keys, on Keras 3.

https://github.com/philipperemy/keract needs Keras 2. For new code, use `layertap.save`,
`layertap.capture` and `layertap.tap`: docs/keract.md compares them.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Literal, get_args
from urllib.parse import unquote

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core import address
from layertap.effects.batch_loss import batch_loss_gradients
from layertap.errors import (
    AddressError,
    OptionError,
    PartialWarning,
    RefusedError,
)
from layertap.inputs.convert import Batch, Converter
from layertap.pipeline.capture import capture
from layertap.planning.planner import plan
from layertap.results.views import channel_maps, nested_lists
from layertap.tracing.forward_pass import numbered
from layertap.tracing.model_structure import (
    call_of,
    check_model,
    input_specs,
    layers_of,
    named_inputs,
)

Format = Literal["simple", "full", "numbered"]
# An array, or a list of arrays for a layer of several outputs.
Activation = Any
# The addresses of the outputs of operations, by path.
Calls = dict[str, list[str]]

_CUT = "no differentiable way leads from it to the loss"


def get_activations(
    model: keras.Model,
    x: Any,
    layer_names: str | Sequence[str] | None = None,
    nodes_to_evaluate: Sequence[Any] | None = None,
    output_format: Format = "simple",
    nested: bool = False,
    auto_compile: bool = True,
) -> dict[Any, Activation]:
    """Returns the inputs of a model and the outputs of its layers, in one pass.

    Args:
        model: A Keras model. It is not changed.
        x: The inputs: an array, or a list of arrays.
        layer_names: Name, or names, of layers, such as `"block/fc1"` for a layer inside
            another; by default all of them. A name selects all calls of a layer.
        nodes_to_evaluate: Symbolic tensors of a functional model, and variables.
        output_format: The keys: `"simple"` for the names of layers, `"full"` for those
            of their outputs (`"lstm:0"`), `"numbered"` for numbers from 0.
        nested: Whether to return the layers inside a model in its place.
        auto_compile: False to refuse a model that is not compiled.

    Returns:
        NumPy arrays by key, in the order of the model. A layer of several outputs has a
        list of arrays. The second call of a layer has a key of its own: `"encoder@2"`.

    Warns:
        PartialWarning: If layers that were not named can't be captured.

    Raises:
        AddressError: If no layer has a name.
        RefusedError: If a layer that was named can't be captured.
        OptionError: If an argument is invalid.

    Example:
    ```python
    layertap.keract.get_activations(model, x)["fc1"]
    ```
    """
    _check(model, output_format)
    if not auto_compile and not model.compiled:
        raise OptionError(
            f"{model.name!r} is not compiled. Expected a compiled model, because of "
            "auto_compile=False. Leave the argument out: activations need no loss."
        )
    if nodes_to_evaluate is not None:
        if layer_names is not None:
            raise OptionError(
                "Received both `layer_names` and `nodes_to_evaluate`. Leave one out."
            )
        return _evaluate(model, x, list(nodes_to_evaluate))
    calls = _select(model, x, layer_names, nested, inputs=True)
    return _by_key(calls, capture(model, x, outputs=[*calls]), output_format)


def get_gradients_of_activations(
    model: keras.Model,
    x: Any,
    y: Any,
    layer_names: str | Sequence[str] | None = None,
    output_format: Format = "simple",
    nested: bool = False,
) -> dict[Any, Activation]:
    """Returns the gradients of the loss of a batch with respect to activations.

    The loss is the one that `fit` minimizes, with the losses that layers add, at
    inference. It is a mean: each row has its own gradient divided by the rows.

    Args:
        model: A compiled Keras model. It is not changed.
        x: See `get_activations`.
        y: The labels: an array, or a list of arrays.
        layer_names: See `get_activations`.
        output_format: See `get_activations`.
        nested: See `get_activations`.

    Returns:
        The gradients by key, in the shapes of the activations. The inputs have none. A
        layer of several outputs has a list, with None for an output without gradient.

    Warns:
        PartialWarning: If layers that were not named have no gradient.

    Raises:
        LayertapError: See `get_activations`; also if a layer that was named has no
            gradient, or the model no loss.

    Example:
    ```python
    layertap.keract.get_gradients_of_activations(model, x, y)["fc1"]
    ```
    """
    _check(model, output_format)
    calls = _select(model, x, layer_names, nested, inputs=False)
    points = [name for names in calls.values() for name in names]
    found = batch_loss_gradients(model, _batch(model, (x, y)), points, {})
    cut = [path for path in calls if found.keys().isdisjoint(calls[path])]
    _report(model, dict.fromkeys(cut, _CUT), layer_names is not None, 3)
    calls = {path: names for path, names in calls.items() if path not in cut}
    return _by_key(calls, dict.fromkeys(points) | found, output_format)


def get_gradients_of_trainable_weights(
    model: keras.Model, x: Any, y: Any
) -> dict[str, NDArray[Any]]:
    """Returns the gradients of the loss of a batch with respect to trainable weights.

    Args:
        model: See `get_gradients_of_activations`, also for the loss.
        x: See `get_activations`.
        y: See `get_gradients_of_activations`.

    Returns:
        The gradients by the path of the weight: `"fc1/kernel:0"`. The second weight
        with one path has a key of its own: `"fc1/kernel@2:0"`.

    Warns:
        PartialWarning: If the loss does not depend on some weights.
    """
    batch = _batch(model, (x, y))
    weights: dict[str, Any] = {}
    for variable in model.trainable_weights:
        names = (f"{numbered(variable.path, n)}:0" for n in count(1))
        weights[next(name for name in names if name not in weights)] = variable
    found = batch_loss_gradients(model, batch, [], weights)
    cut = [key for key in weights if key not in found]
    _report(model, dict.fromkeys(cut, _CUT), False, 3)
    return {key: found[key] for key in weights if key in found}


def persist_to_json_file(
    activations: Mapping[Any, Activation], filename: str | os.PathLike[str]
) -> None:
    """Writes activations to a JSON file, as nested lists by key.

    Args:
        activations: The result of a function of this module.
        filename: The path of the file.
    """
    nested_lists.write(activations, filename)


def load_activations_from_json_file(
    filename: str | os.PathLike[str],
) -> dict[str, Activation]:
    """Reads activations from a JSON file, also from one that keract wrote.

    Args:
        filename: The path of the file.

    Returns:
        Equal numbers, by key. A file has no dtypes: numbers that float32 holds exactly
        become float32, as most activations are, and others float64.
    """
    return nested_lists.read(filename)


def display_activations(
    activations: Mapping[Any, Activation],
    cmap: Any = None,
    save: bool = False,
    directory: str | os.PathLike[str] = ".",
    data_format: str = "channels_last",
    fig_size: tuple[float, float] = (24, 24),
    reshape_1d_layers: bool = False,
) -> None:
    """Draws the activations of one row: a figure for each layer.

    Arrays of more rows, or of more than four axes, are named in a warning.

    Args:
        activations: The activations by key, each of one row.
        cmap: The colormap of Matplotlib.
        save: Whether to save the figures, instead of showing them.
        directory: The folder for the files, such as `0_fc1.png`.
        data_format: `"channels_last"` or `"channels_first"`.
        fig_size: The width and the height of a figure, in inches.
        reshape_1d_layers: Whether vectors are drawn as rectangles.
    """
    album = channel_maps.Album(directory if save else None, fig_size)
    arrays = activations, data_format, (2, 3, 4), reshape_1d_layers
    for name, maps in channel_maps.of_rows(*arrays):
        album.add(name, maps, cmap=cmap)


def display_heatmaps(
    activations: Mapping[Any, Activation],
    input_image: Any,
    directory: str | os.PathLike[str] = ".",
    save: bool = False,
    fix: bool = True,
    merge_filters: bool = False,
) -> None:
    """Draws the activations of one image over it: a figure for each layer with maps.

    Channels are where Keras has them. Arrays without maps are named in a warning.

    Args:
        activations: See `display_activations`.
        input_image: The image. It is not changed.
        directory: See `display_activations`.
        save: See `display_activations`.
        fix: Whether to accept a batch of one image, one channel, and numbers to 255.
        merge_filters: Whether to draw the sum of the channels, each scaled to 0 to 1.
    """
    image = channel_maps.as_image(input_image) if fix else np.asarray(input_image)
    album = channel_maps.Album(directory if save else None, (12, 12))
    data_format = keras.config.image_data_format()
    for name, maps in channel_maps.of_rows(activations, data_format, (3, 4)):
        maps = channel_maps.merged(maps) if merge_filters else maps
        album.add_over(image, name, maps)


def display_gradients_of_trainable_weights(
    gradients: Mapping[str, NDArray[Any]],
    directory: str | os.PathLike[str] = ".",
    save: bool = False,
) -> None:
    """Draws the gradients of convolution kernels: a row of maps for each filter.

    Those of other weights, such as biases, are named in a warning.

    Args:
        gradients: The result of `get_gradients_of_trainable_weights`.
        directory: See `display_activations`.
        save: See `display_activations`.
    """
    album = channel_maps.Album(directory if save else None, (12, 12))
    for name, maps, grid in channel_maps.of_kernels(gradients):
        album.add(name, maps, grid, aspect="auto")


def _check(model: Any, output_format: str) -> None:
    """Raises unless this is a model of Keras 3, and the format is known."""
    check_model(model)
    if output_format not in get_args(Format):
        raise OptionError(
            "`output_format` is invalid. Expected 'simple', 'full' or 'numbered'. "
            f"Received {output_format!r}."
        )


def _batch(model: keras.Model, data: Any) -> Batch:
    """Returns data as one batch."""
    return Converter(input_specs(model)).convert(data, 0, copy=False)


def _select(
    model: keras.Model, x: Any, names: Any, nested: bool, *, inputs: bool
) -> Calls:
    """Returns the addresses of the outputs of layers, in the order of the model."""
    made = plan(model, like=x, outputs="*")
    calls: Calls = {}
    if inputs:
        known = named_inputs(model, _batch(model, x).inputs)
        calls = {name: [address.output(name)] for name in known}
    for one in made.addresses:
        calls.setdefault(address.parse(one).path, []).append(one)
    reasons = {address.path_of(one): why for one, why in made.missing.items()}
    chosen = _chosen(model, [*calls | reasons], names, nested)
    refused = {path: reasons[path] for path in chosen if path in reasons}
    _report(model, refused, names is not None, 4)
    return {path: calls[path] for path in chosen if path not in refused}


def _chosen(
    model: keras.Model, paths: Sequence[str], names: Any, nested: bool
) -> list[str]:
    """Returns the paths that names, or the absence of names, select."""
    if names is not None and not len(names):
        raise OptionError("`layer_names` is empty. Expected names of layers, or None.")
    if names is None and not nested:
        return [path for path in paths if "/" not in path]
    if names is None:
        models = [one for one in layers_of(model) if isinstance(one, keras.Model)]
        replaced = {address.component(one.name) for one in models}
        outer = {path.rpartition("/")[0] for path in paths}
        last = {path: address.of_all_calls(path).rpartition("/")[2] for path in paths}
        return [p for p in paths if p not in outer or last[p] not in replaced]
    wanted = {*([names] if isinstance(names, str) else names)}
    # Each with and without the number of its call, encoded and as in Keras.
    forms = {path: {path, address.of_all_calls(path)} for path in paths}
    forms = {path: both | set(map(unquote, both)) for path, both in forms.items()}
    known = {name for names in forms.values() for name in names}
    for name in sorted(wanted - known):
        raise AddressError(
            f"No layer of {model.name!r} matches {name!r}. "
            + address.suggest(name, map(unquote, paths), what="layer")
        )
    return [path for path in paths if forms[path] & wanted]


def _evaluate(model: keras.Model, x: Any, nodes: list[Any]) -> dict[str, Any]:
    """Returns the values of symbolic tensors and of variables, by their names."""
    if not nodes:
        raise OptionError("`nodes_to_evaluate` is empty. Expected tensors.")
    found: dict[str, Any] = {}
    places = {}
    for node in nodes:
        if isinstance(node, keras.Variable):
            found[f"{node.path}:0"] = np.array(keras.ops.convert_to_numpy(node))
            continue
        call = call_of(model, node) if isinstance(node, keras.KerasTensor) else None
        if call is None:
            raise OptionError(
                "`nodes_to_evaluate` is invalid. Expected variables, and symbolic "
                f"tensors of the graph of {model.name!r}. Received {node!r}. Pass "
                "`layer_names` and nested=True for layers inside others."
            )
        path = numbered(address.component(call[0]), call[1])
        places[f"{unquote(path)}:{call[2]}"] = path, call[2]
        found[f"{unquote(path)}:{call[2]}"] = None
    paths = [path for path, _ in places.values()]
    values = capture(model, x, outputs=paths) if paths else {}
    for key, (path, index) in places.items():
        names = [one for one in values if address.parse(one).path == path]
        found[key] = values[names[index]]
    return found


def _by_key(
    calls: Calls, arrays: Mapping[str, Any], output_format: str
) -> dict[Any, Activation]:
    """Returns arrays in the form of keract."""
    found = {unquote(p): [arrays[name] for name in calls[p]] for p in calls}
    if output_format == "full":
        flat = [(name, i, p) for name in found for i, p in enumerate(found[name])]
        return {f"{name}:{index}": part for name, index, part in flat}
    simple = {name: p if len(p) > 1 else p[0] for name, p in found.items()}
    return dict(enumerate(simple.values())) if output_format == "numbered" else simple


def _report(model: Any, reasons: Mapping[str, str], named: bool, level: int) -> None:
    """Refuses layers that were named, and warns of others."""
    text = "; ".join(f"{unquote(path)}: {why}" for path, why in reasons.items())
    if reasons and named:
        text = f"Layers of {model.name!r} are refused. {text}. Leave them out."
        raise RefusedError(text)
    if reasons:
        text = f"Layers of {model.name!r} are left out. {text}."
        warnings.warn(text, PartialWarning, stacklevel=level)

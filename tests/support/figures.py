"""Figures of Matplotlib, drawn and read back."""

import contextlib
import io

import numpy as np


@contextlib.contextmanager
def untouched():
    """Asserts that nothing of Matplotlib that all its users share has changed."""
    import matplotlib
    from matplotlib import pyplot as plt

    before = dict(matplotlib.rcParams), matplotlib.get_backend()
    yield
    assert plt.get_fignums() == []
    assert (dict(matplotlib.rcParams), matplotlib.get_backend()) == before


def drawn(figure):
    """Draws a figure; returns its panels without bars of colours."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return [ax for ax in figure.axes if ax.axison and ax.get_label() != "<colorbar>"]


def lines_of(ax):
    """Returns the numbers of each line by its name."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in ax.get_lines()}


def ends_of(ax):
    """Returns the ends of the vertical lines."""
    return np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])


def images_of(figure):
    """Returns the images, with NaN where they are not finite."""
    return [np.ma.filled(ax.images[0].get_array(), np.nan) for ax in drawn(figure)]


def steps_of(ax):
    """Returns the heights and edges of each histogram by its name."""
    return {patch.get_label(): patch.get_data()[:2] for patch in ax.patches}


def words_of(ax):
    """Returns the names in the legend."""
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]

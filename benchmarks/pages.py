"""Pages of four stores: how large they are, and how long writing and opening take.

It prints, for each store: the bytes of store and page; the seconds of each
`layertap.report`; and the seconds from navigation to the end of the load event in
Chromium without a window, in a new tab each time, or None without Chromium.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.works import application, crops

BACKEND = "jax"
WRITINGS, OPENINGS = 3, 5
# Without a sandbox, which needs rights that containers lack, nor calls home.
_OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "disable-sync")
_OPTIONS += ("disable-background-networking", "disable-component-update")
_LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


@dataclass(frozen=True)
class Store:
    """A store to make.

    Attributes:
        title: What it is, in a few words.
        save: Saves it at a path.
        quick: Whether it is made where only shape and sanity count.
    """

    title: str
    save: Callable[[str], Any]
    quick: bool = False


def digits(path: str) -> Any:
    """Saves the two branches of the demo's network, trained, with labels."""
    import layertap
    from layertap.cli import demo

    images, labels = demo.digits()
    model = demo.network()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=4, batch_size=64, verbose=0)
    return layertap.save(model, (images, labels), path, before="fusion")


def inception(path: str) -> Any:
    """Saves all branches of InceptionV3, averaged over places."""
    return _application("InceptionV3", (96, 96, 3), 64, path, reduce="avg")


def densenet(path: str) -> Any:
    """Saves all branches of DenseNet121, as maps."""
    return _application("DenseNet121", (64, 64, 3), 16, path)


def _application(
    name: str, shape: tuple[int, ...], rows: int, path: str, **options: Any
) -> Any:
    import keras

    import layertap

    (images,) = crops(shape, rows, rows)
    model = application(keras, name, shape[0]).model
    return layertap.save(model, images, path, batch_size=16, **options)


def embeddings(path: str) -> Any:
    """Saves 300 embeddings of 8 numbers."""
    import keras

    import layertap

    columns = np.random.default_rng(0).integers(0, 50, (400, 300), "int32")
    x = keras.Input((300,), dtype="int32")
    branches = [keras.layers.Embedding(50, 8)(x[:, place]) for place in range(300)]
    model = keras.Model(x, keras.layers.Concatenate(name="fusion")(branches))
    return layertap.save(model, columns, path)


STORES = {
    "digits": Store("two branches of 1,797 digits, with labels", digits, quick=True),
    "inception": Store("InceptionV3, averaged over places, 64 images", inception),
    "densenet": Store("maps of DenseNet121, 16 images", densenet),
    "embeddings": Store("300 embeddings of 8 numbers, 400 rows", embeddings),
}


def measure(store: Store, folder: Path, browser: Any, quick: bool) -> dict[str, Any]:
    """Saves a store, writes its page and opens it, some times each."""
    import layertap

    saved, page = store.save(str(folder / "values.zarr")), folder / "page.html"
    writings = []
    for _ in range(1 if quick else WRITINGS):
        start = time.perf_counter()
        layertap.report(saved.path, page, overwrite=True)
        writings.append(time.perf_counter() - start)
    openings = None
    if browser is not None:
        turns = range(1 if quick else OPENINGS)
        openings = [_opening(browser, page.as_uri()) for _ in turns]
    return {
        "values": len(saved),
        "store": saved.bytes_on_disk,
        "page": page.stat().st_size,
        "writing": writings,
        "opening": openings,
    }


def _opening(browser: Any, address: str) -> float:
    """Returns the seconds until a page is loaded, in a new tab."""
    tab = browser.new_page()
    tab.goto(address)
    tab.wait_for_function(f"{_LOADED} > 0")
    loaded: float = tab.evaluate(_LOADED)
    tab.close()
    return loaded / 1000


@contextmanager
def chromium() -> Iterator[Any]:
    """Opens Chromium; None where the machine has none."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        yield None
        return
    arguments = [f"--{option}" for option in _OPTIONS]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def main() -> None:
    """Measures each store in a folder of its own, and prints what was found."""
    folder, quick = Path(sys.argv[1]).resolve(), "--quick" in sys.argv
    found = {}
    with chromium() as browser:
        for name, store in STORES.items():
            if store.quick or not quick:
                (folder / name).mkdir()
                found[name] = measure(store, folder / name, browser, quick)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

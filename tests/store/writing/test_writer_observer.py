"""An observer sees every row once, in order; its errors lose no rows."""

import numpy as np
import pytest

from layertap.errors import OptionError, StoreError
from layertap.store.format.layout import ArraySpec
from layertap.store.location import remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer


def test_finishing_again_observes_no_row_twice(tmp_path):
    seen = []

    def observer(row, arrays):
        seen.append((row, arrays["x"].tolist()))

    array = ArraySpec("x", (), "int64")
    options = {"memory": 3 * 8 * 8, "observer": observer}
    with Writer.create(tmp_path / "v", [array], {}, **options) as writer:
        writer.append({"x": np.arange(19)})
        with pytest.raises(OptionError, match="have to be JSON"):
            writer.finish(lambda: {"no JSON": object()})
        writer.finish(lambda: {"blocks": len(seen)})
    assert seen == [(row, list(range(row, min(row + 8, 19)))) for row in (0, 8, 16)]
    assert Reader(tmp_path / "v").attributes == {"blocks": 3}


class BrokenError(Exception):
    """Raised by the observer."""


@pytest.mark.parametrize("fails_at", [0, 8, 16])
def test_a_failing_observer_loses_no_rows(tmp_path, fails_at):
    seen = []

    def observer(row, arrays):
        if row == fails_at:
            raise BrokenError("no memory to count in")
        seen.append((row, arrays["x"].tolist()))

    array = ArraySpec("x", (), "float32")
    rows = np.arange(20, dtype="float32")
    options = {"memory": 3 * 8 * 4, "observer": observer}
    writer = Writer.create(tmp_path / "v", [array], {}, **options)

    def save():
        with writer:
            writer.append({"x": rows})
            writer.finish()

    with pytest.raises(StoreError, match="no memory to count in"):
        save()
    safe = {0: 8, 8: 16, 16: 20}[fails_at]
    assert Reader(tmp_path / "v").rows == safe
    assert not Reader(tmp_path / "v").complete
    assert [row for row, _ in seen] == list(range(0, fails_at, 8))
    with Writer.resume(tmp_path / "v", memory=96) as second:
        assert second.rows == safe
        second.append({"x": rows[safe:]})
        second.finish()
    assert Reader(tmp_path / "v").array("x")[:].tolist() == rows.tolist()
    remove(tmp_path / "v")

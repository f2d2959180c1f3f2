"""Mutated files of a store raise no errors but those of layertap."""

import copy
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layertap.errors import LayertapError
from layertap.store.location import exists, remove
from layertap.store.writing.writer import Writer
from tests.support.campaign import times
from tests.support.hostile import Store, make, use

pytestmark = pytest.mark.slow


def fuzz(few, many):
    # The first example imports Keras, and every example writes files.
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    repeated = settings(max_examples=times(few, many), suppress_health_check=health)
    return lambda test: pytest.mark.campaign(repeated(test))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "v"
    make(path)
    return Store(path)


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    """A store that is not complete."""
    path = tmp_path_factory.mktemp("growing") / "v"
    make(path, complete=False)
    return Store(path)


def test_the_store_is_valid_before_mutations(store):
    store.restore()
    problems = use(store.path)
    not_padded = {
        f"lengths of {join}/in/{i}" for join in ("fusion", "outer") for i in (0, 1)
    }
    assert problems == not_padded | {"no value", "no join"}


def test_digests_of_mutations_are_right(store):
    store.restore()
    before = use(store.path)
    store.put_root(store.ours())
    store.put_metadata("fusion/in/0", store.metadata("fusion/in/0"))
    store.claim("ids")
    assert use(store.path) == before


# Bytes.

TOKENS = [
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1", b"0", b"1.5", b"null"),
    *(b"true", b"[]", b"{}", b'""', b"9223372036854775808", b"9" * 4300, b"9" * 4400),
    *(b"[" * 100_000, b'{"a":' * 5000, b"[" * 900 + b"]" * 900),
    *(b'"\\ud800"', b'"\\u0000"', b'"\xff"'),
]
TOKEN = re.compile(rb'"[^"]*"|-?[0-9.]+|true|false|null')


@st.composite
def mutated_bytes(draw, content):
    """Bytes that were made by changing other bytes."""
    size = len(content)
    a, b = sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))
    part = content[a : min(b, a + 200)]
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return draw(st.binary(max_size=60))
    if kind == 1:
        return content[:a]
    if kind == 2:
        return content[:a] + content[a + len(part) :]
    if kind == 3:
        return content[:b] + part + content[b:]
    if kind == 4:
        return content[:a] + draw(st.binary(min_size=1, max_size=9)) + content[a:]
    if kind == 5 and a < size:
        flipped = content[a] ^ (1 << draw(st.integers(0, 7)))
        return content[:a] + bytes([flipped]) + content[a + 1 :]
    if kind == 6:
        return draw(st.sampled_from(TOKENS)) * draw(st.integers(1, 3))
    tokens = list(TOKEN.finditer(content)) or [re.match(b"", content)]
    token = draw(st.sampled_from(tokens))
    new = draw(st.sampled_from(TOKENS))
    return content[: token.start()] + new + content[token.end() :]


@fuzz(15, 70)
@given(st.data())
def test_mutated_bytes_of_metadata(store, data):
    store.restore()
    name = data.draw(st.sampled_from(store.manifests))
    store.put(name, data.draw(mutated_bytes(store.files[name])))
    use(store.path)


@fuzz(10, 30)
@given(st.data())
def test_mutated_bytes_of_shards(store, data):
    store.restore()
    for name in data.draw(st.lists(st.sampled_from(store.shards), max_size=3)):
        other = data.draw(st.sampled_from(store.shards))
        mutations = mutated_bytes(store.files[name])
        store.put(name, data.draw(mutations | st.just(store.files[other])))
    use(store.path)


# Their content, with right digests.

TEXTS = [
    *("", ".", "..", "/", "/etc/passwd", "../../outside", "a/../b", "zarr.json", "c.0"),
    *("fusion", "fusion/in/0", "outer/in/0", "ids", "labels/digit", "digests"),
    *("\0", "\x1b[31m", "[red]", "[/red]", "\ud800", "\u202e", "\n\r", "x" * 3000),
    *("a/" * 50, "number", "text", "zstd", "group", "None", "concatenate"),
    *("O", "V8", "M8[s]", "float128", "a5", "(1,2", "00f4", "f4,f4", "S", "T", "U3"),
    *("bfloat16", "float16", "float32", "uint8", "int64", "complex64", "bool"),
]
texts = st.sampled_from(TEXTS) | st.text(st.characters(), max_size=5)
NUMBERS = [2**31, 2**53, 2**62, 2**63, 2**64, -(2**63), 10**400, 10**4000, -(10**4000)]
DEEP = json.loads("[" * 50 + "]" * 50)
leaves = (
    st.sampled_from([None, True, False, [], {}, DEEP, 1.0, 1e300])
    | st.integers(-3, 70)
    | st.sampled_from(NUMBERS)
    | st.floats()
    | texts
)
junk = (
    leaves | st.lists(leaves, max_size=4) | st.dictionaries(texts, leaves, max_size=3)
)


def places(tree, above=()):
    """Returns the places of all parts of a tree, but its root."""
    if isinstance(tree, dict):
        members = list(tree.items())
    else:
        members = list(enumerate(tree)) if isinstance(tree, list) else []
    parts = []
    for key, part in members:
        parts += [(*above, key), *places(part, (*above, key))]
    return parts


def part_of(tree, place):
    for key in place:
        tree = tree[key]
    return tree


def alike(part):
    """Returns a strategy for values of the same type as a part."""
    if isinstance(part, str):
        return texts
    if isinstance(part, int) and not isinstance(part, bool):
        return st.integers(-3, 70) | st.sampled_from(NUMBERS)
    if isinstance(part, list):
        return st.lists(st.sampled_from(part) if part else leaves, max_size=5) | (
            st.lists(st.sampled_from([0, 1, 2, 3, None, *NUMBERS]), max_size=40)
        )
    if isinstance(part, dict):
        values = st.sampled_from(list(part.values())) if part else leaves
        return st.dictionaries(texts, values, max_size=3)
    return junk


@st.composite
def mutated(draw, tree, most=3):
    """A tree of JSON with some of its parts changed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        where = places(tree)
        if not where:
            return tree
        place = draw(st.sampled_from(where))
        holder, key = part_of(tree, place[:-1]), place[-1]
        kind = draw(st.integers(0, 6))
        if kind == 0:
            holder[key] = copy.deepcopy(draw(junk))
        elif kind in (1, 6):
            holder[key] = copy.deepcopy(draw(alike(holder[key])))
        elif kind == 2:
            other = draw(st.sampled_from(where))
            holder[key] = copy.deepcopy(part_of(tree, other))
        elif kind == 3:
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key] if kind == 4 else draw(junk)))
        else:
            holder[draw(st.sampled_from(TEXTS))] = holder.pop(key)
    return tree


@fuzz(20, 90)
@given(st.data())
def test_mutated_root(store, data):
    store.restore()
    store.put_root(data.draw(mutated(store.ours())))
    use(store.path)


@fuzz(15, 70)
@given(st.data())
def test_mutated_plan(store, data):
    store.restore()
    ours = store.ours()
    store.put_root(ours | {"plan": data.draw(mutated(ours["plan"]))})
    use(store.path)


@fuzz(10, 30)
@given(st.data())
def test_mutated_metadata_of_an_array(store, data):
    store.restore()
    array = data.draw(st.sampled_from(store.ours()["arrays"]))
    store.put_metadata(array, data.draw(mutated(store.metadata(array))))
    use(store.path)


sizes = st.integers(0, 9) | st.sampled_from([2**16, 2**22, 2**31, *NUMBERS])
FORMS = {
    "rows": sizes,
    "block_rows": sizes,
    "chunk_rows": sizes,
    "compression": st.sampled_from([None, "zstd"]),
    "dtype": st.sampled_from(TEXTS),
    "shape": st.lists(st.integers(1, 9) | sizes.filter(bool), max_size=4).map(tuple),
}


@fuzz(10, 30)
@given(st.data())
def test_mutated_layout_of_an_array(store, data):
    """The claims agree with each other, like those of another store."""
    store.restore()
    names = data.draw(st.lists(st.sampled_from(sorted(FORMS)), min_size=1, max_size=2))
    claimed = {name: data.draw(FORMS[name]) for name in names}
    array = data.draw(st.sampled_from(store.ours()["arrays"]))
    layout = store.layout(array)
    blocks = -(-claimed.get("rows", layout.rows) // (claimed.get("block_rows") or 4))
    if blocks != layout.blocks:
        claimed["digests"] = "0" * 16 * min(max(blocks, 0), 2**12)
    try:
        store.claim(array, **claimed)
    except LayertapError:
        return  # Such an array can't be described.
    use(store.path)


@fuzz(10, 30)
@given(st.data())
def test_a_mutated_store_is_resumed_or_removed(growing, data):
    growing.reset()
    if data.draw(st.booleans()):
        growing.put_root(data.draw(mutated(growing.ours())))
    else:
        array = data.draw(st.sampled_from(growing.ours()["arrays"]))
        growing.put_metadata(array, data.draw(mutated(growing.metadata(array))))
    for action in (resume, exists, remove):
        try:
            action(growing.path)
        except LayertapError:
            continue


def resume(path):
    with Writer.resume(path) as writer:
        writer.commit()

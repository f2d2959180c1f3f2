"""Columns of Parquet files as arrays of rows, read when they are sliced."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.core.optional import require
from layertap.errors import DataError
from layertap.inputs.lazy_array import PiecewiseRows, Versions, file_versions, reporting
from layertap.store.storage.ahead import map_ahead
from layertap.store.storage.buckets import bucket_spec, in_bucket

SUFFIX = ".parquet"


class ParquetFiles(NamedTuple):
    """The files of a folder, by their paths in it; a bucket is a file system."""

    folder: str
    names: Sequence[str]
    bucket: Any = None


class _File(NamedTuple):
    """A file, and what its footer and the names of its folders say.

    `constants` are the columns that folders such as `year=2020` stand for.
    """

    folder: str
    name: str
    filesystem: Any
    metadata: Any
    schema: Any
    constants: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}".removeprefix("./")


class _Group(NamedTuple):
    """A row group of a file."""

    file: _File
    number: int
    rows: int

    def __str__(self) -> str:
        return f"row group {self.number} of {self.file}"


class ParquetColumn(PiecewiseRows):
    """A column of one or more files, one row after the other.

    Numbers are an array of one axis. Lists of one length, lists of those and tensors
    have more axes. Texts and other values are Python's objects.

    Args:
        name: The column.
        files: All files.
        groups: The row groups of all files, without empty ones.
    """

    def __init__(
        self, name: str, files: Sequence[_File], groups: Sequence[_Group]
    ) -> None:
        super().__init__(group.rows for group in groups)
        self.name = name
        self._files = files
        self._groups = groups

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Its shape, rows first."""
        return (self.rows, *self._first[0])

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Its dtype."""
        return self._first[1]

    def versions(self) -> Versions:
        """See `FromFiles`. Objects of a bucket have none."""
        return file_versions(map(str, self._files))

    def fetch(self, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Reads row groups, and checks that they fit the first one."""
        for group in map(self._groups.__getitem__, numbers):
            array = self._read(group)
            if (array.shape[1:], array.dtype) != self._first:
                row_shape, dtype = self._first
                raise DataError(
                    f"Column {self.name!r} changes its form. Expected {dtype} of shape "
                    f"{('rows', *row_shape)}, as in {self._groups[0]}. Received "
                    f"{array.dtype} of shape {('rows', *array.shape[1:])} in {group}."
                )
            yield array

    @cached_property
    def _first(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        if not self._groups:
            return (), np.dtype("float32")
        self._check_types()
        first = self._read(self._groups[0])
        return first.shape[1:], first.dtype

    def _check_types(self) -> None:
        """Raises if files hold the column in other types, before rows are read."""
        first = self._groups[0].file
        expected = first.schema.field(self.name)
        for file in self._files:
            field = file.schema.field(self.name)
            if file.metadata.num_rows and not _fits(field, expected):
                raise DataError(
                    f"Column {self.name!r} of {file} has another type than in {first}. "
                    f"Expected {expected.type}. Received {field.type}. Write all files "
                    "with one schema."
                )

    def _read(self, group: _Group) -> NDArray[Any]:
        arrow = _pyarrow()
        problem = f"Column {self.name!r}, {group}, can't be read"
        source = group.file
        with reporting(problem, arrow.ArrowException, OSError, ValueError):
            if self.name in source.constants:
                return _array(arrow.repeat(source.constants[self.name], group.rows))
            with arrow.parquet.ParquetFile(
                source.name,
                metadata=source.metadata,
                filesystem=source.filesystem,
                page_checksum_verification=True,
            ) as file:
                table = file.read_row_group(group.number, columns=[self.name])
            array = numpy_array(table.column(self.name))
            shape = _tensor_shape(table.schema.field(self.name))
            if shape is None or array.ndim > 2:
                return array
            # Ray writes tensors as lists.
            return array.reshape(len(array), *shape)


def parquet_files(source: str) -> ParquetFiles | None:
    """Finds the Parquet files at a path, in the order of their paths, or None."""
    if in_bucket(source):
        return _in_bucket(source.rstrip("/"))
    path = Path(source)
    if path.suffix == SUFFIX and path.is_file():
        return ParquetFiles(str(path.parent), [path.name])
    names = _tables(
        file.relative_to(path).as_posix()
        for file in path.rglob(f"*{SUFFIX}")
        if file.is_file()
    )
    return ParquetFiles(source, names) if names else None


def _is_hidden(name: str) -> bool:
    # Other programs write files that begin with `_` next to their data.
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _tables(names: Iterable[str]) -> list[str]:
    """Returns the names of Parquet files, sorted."""
    return sorted(
        name
        for name in names
        if name.endswith(SUFFIX) and not any(map(_is_hidden, name.split("/")))
    )


def _in_bucket(url: str) -> ParquetFiles | None:
    """Finds the Parquet files at the URL of a bucket, or None."""
    fs = require(
        "pyarrow.fs", "parquet", f"{url} is not in Zarr's format. A Parquet file"
    )
    scheme, _, path = url.partition("://")
    with reporting(f"{url} can't be listed", OSError, ValueError):
        bucket = _open_bucket(scheme, path.partition("/")[0])
        if url.endswith(SUFFIX) and bucket.get_file_info(path).is_file:
            folder, _, name = path.rpartition("/")
            names = [name]
        else:
            folder = path
            selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
            names = _tables(
                file.path.removeprefix(f"{folder}/")
                for file in bucket.get_file_info(selector)
                if file.is_file
            )
    below = fs.SubTreeFileSystem(folder, bucket)
    return ParquetFiles(f"{scheme}://{folder}", names, below) if names else None


def _open_bucket(scheme: str, bucket: str) -> Any:
    """Opens a bucket as layertap's stores are opened, by the environment."""
    fs = require("pyarrow.fs", "parquet", "A Parquet file")
    if scheme == "gs":
        return fs.GcsFileSystem()
    spec = bucket_spec(scheme, bucket)
    endpoint, region = spec.get("endpoint"), spec.get("aws_region")
    if not endpoint and not region:
        region = fs.resolve_s3_region(bucket)
    attempts = spec["s3_request_retries"]["max_retries"]
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        connect_timeout=10,
        request_timeout=30,
    )


def read_parquet(files: ParquetFiles) -> dict[str, ParquetColumn]:
    """Opens files with the same columns, and returns the columns by name."""
    arrow = _pyarrow()
    filesystem = files.bucket or arrow.fs.SubTreeFileSystem(
        files.folder, arrow.fs.LocalFileSystem()
    )
    open_file = partial(_open, files.folder, filesystem)
    # Each footer takes two requests to a bucket.
    opened = list(map_ahead(open_file, files.names, threads=16, most=32))
    if any("=" in name.rpartition("/")[0] for name in files.names):
        problem = f"The names of the folders in {files.folder} can't be read"
        with reporting(problem, arrow.ArrowException, OSError, ValueError):
            opened = list(_with_folders(opened))
    groups = [
        _Group(file, number, rows)
        for file in opened
        for number in range(file.metadata.num_row_groups)
        if (rows := file.metadata.row_group(number).num_rows)
    ]
    first, *others = opened
    for file in others:
        for name in sorted({*file.schema.names} ^ {*first.schema.names}):
            has, lacks = (first, file) if name in first.schema.names else (file, first)
            raise DataError(
                f"{lacks} has no column {name!r}. Expected the columns of {has}. Add "
                "it to all files, or drop it from them."
            )
    return {name: ParquetColumn(name, opened, groups) for name in first.schema.names}


def _open(folder: str, filesystem: Any, name: str) -> _File:
    """Reads the footer of a file."""
    arrow = _pyarrow()
    path = f"{folder}/{name}".removeprefix("./")
    with reporting(
        f"{path} is not a readable Parquet file",
        arrow.ArrowException,
        OSError,
        ValueError,
    ):
        metadata = arrow.parquet.read_metadata(name, filesystem=filesystem)
        schema = metadata.schema.to_arrow_schema()
    if len({*schema.names}) < len(schema.names):
        raise DataError(
            f"{path} has columns of the same name. Expected one of each. Received "
            f"{', '.join(schema.names)}. Rename them."
        )
    return _File(folder, name, filesystem, metadata, schema)


def _with_folders(files: Sequence[_File]) -> Iterator[_File]:
    """Yields files with the columns that their folders name, but for their own."""
    arrow = _pyarrow()
    dataset = require("pyarrow.dataset", "parquet", "A Parquet file")
    factory = dataset.FileSystemDatasetFactory(
        files[0].filesystem,
        [file.name for file in files],
        dataset.ParquetFileFormat(),
        dataset.FileSystemFactoryOptions(
            partitioning=dataset.HivePartitioning.discover()
        ),
    )
    # The last schema is that of the folders.
    *_, schema = factory.inspect_schemas()
    partitioning = dataset.HivePartitioning(schema)
    for file in files:
        values = dataset.get_partition_keys(partitioning.parse(file.name))
        constants = {}
        for field in schema:
            if field.name in values and field.name not in file.schema.names:
                value = values[field.name]
                # A missing value has a type of its own, so it fits no other.
                kind = field.type if value is not None else arrow.null()
                constants[field.name] = arrow.scalar(value, kind)
        fields = [arrow.field(name, value.type) for name, value in constants.items()]
        yield file._replace(
            schema=arrow.schema([*file.schema, *fields]), constants=constants
        )


def _form(field: Any) -> tuple[str, Sequence[int | None]]:
    """Returns the type of a column, and sizes of its rows, None where these differ."""
    types = _pyarrow().types
    kind, sizes = field.type, []
    while True:
        if hasattr(kind, "storage_type"):
            kind = kind.storage_type
            continue
        if types.is_fixed_size_list(kind):
            sizes.append(kind.list_size)
        elif types.is_list(kind) or types.is_large_list(kind):
            sizes.append(None)
        elif not types.is_dictionary(kind):
            return str(kind).removeprefix("large_"), _tensor_shape(field) or sizes
        kind = kind.value_type


def _fits(field: Any, other: Any) -> bool:
    """Whether rows of two columns may be rows of one array."""
    (kind, sizes), (other_kind, other_sizes) = _form(field), _form(other)
    pairs = zip(sizes, other_sizes, strict=False)
    return (
        kind == other_kind
        and len(sizes) == len(other_sizes)
        and all(None in pair or pair[0] == pair[1] for pair in pairs)
    )


def numpy_array(column: Any) -> NDArray[Any]:
    """Converts a column of Arrow to an array of NumPy."""
    # The form of lists is not known without rows.
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    chunks = chunks or [column.combine_chunks()]
    return np.concatenate([_array(chunk) for chunk in chunks])


def _array(values: Any) -> NDArray[Any]:
    """Converts an array of Arrow to one of NumPy."""
    arrow = _pyarrow()
    types = arrow.types
    if isinstance(values.type, arrow.FixedShapeTensorType):
        values = values if not values.null_count else values.storage
    if hasattr(values, "to_numpy_ndarray"):
        return np.asarray(values.to_numpy_ndarray())
    if isinstance(values.type, arrow.BaseExtensionType):
        values = values.storage
    if types.is_dictionary(values.type):
        words = values.dictionary
        if types.is_string_view(words.type):
            # Polars has these, and Arrow can't take any of them.
            words = words.cast(arrow.large_string())
        values = words.take(values.indices)
    if values.null_count:
        raise DataError(f"Values are missing: {values.null_count:,}. Fill them in.")
    if types.is_fixed_size_list(values.type):
        return _lists(values, values.type.list_size)
    if types.is_list(values.type) or types.is_large_list(values.type):
        lengths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) > 1:
            raise DataError(
                f"The lists have from {lengths[0]} to {lengths[-1]} members. Expected "
                "lists of one length."
            )
        return _lists(values, int(lengths[0]) if len(lengths) else 0)
    if types.is_nested(values.type):
        raise DataError(f"The values are {values.type}. Expected arrays.")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _lists(values: Any, length: int) -> NDArray[Any]:
    members = _array(values.flatten())
    return members.reshape(len(values), length, *members.shape[1:])


def _tensor_shape(field: Any) -> list[int] | None:
    """Returns the shape of a row if Ray wrote tensors as lists, else None."""
    if hasattr(field.type, "shape"):
        return list(field.type.shape)
    metadata = field.metadata or {}
    if b"arrow_tensor" not in metadata.get(b"ARROW:extension:name", b""):
        return None
    try:
        shape = json.loads(metadata[b"ARROW:extension:metadata"])
    except (KeyError, ValueError):
        return None
    return shape if isinstance(shape, list) else None


def _pyarrow() -> Any:
    require("pyarrow.parquet", "parquet", "A Parquet file")
    return require("pyarrow", "parquet", "A Parquet file")

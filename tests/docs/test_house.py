"""The package's structure: sizes of packages, modules, functions and docstrings."""

import ast
from graphlib import TopologicalSorter

import layertap
from tests.support.source import (
    FUNCTIONS,
    MODULES,
    PACKAGE,
    ROOT,
    docstring_of,
    documented,
    name_of,
    tree_of,
)

MODULES_OF_A_PACKAGE = 10
LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 60
# Of internals: what a reader needs is in the first line, which is a sentence.
LINES_OF_A_DOCSTRING = {ast.Module: 8, ast.ClassDef: 16}
LINES_OF_A_FUNCTIONS_DOCSTRING = 8

# Public names beyond `layertap._EXPORTS`, and interfaces that have sections.
PUBLIC = {
    "analysis/importance_report.py": {"BranchImportance"},
    "core/values.py": {"PlannedValues"},
    "distributed/driver.py": {"save"},
    "inputs/images.py": {"ImageFolder"},
    "keract.py": {
        "display_activations",
        "display_gradients_of_trainable_weights",
        "display_heatmaps",
        "get_activations",
        "get_gradients_of_activations",
        "get_gradients_of_trainable_weights",
        "load_activations_from_json_file",
        "persist_to_json_file",
    },
    "results/saved_datasets.py": {"SavedDatasets"},
    "results/saved_rows.py": {"SavedRows"},
    "results/statistics/moments.py": {"Statistics"},
    "store/reading/array.py": {"LazyArray", "StoredArray"},
}
INTERFACES = ("__init__.py", "errors.py", "cli/", "store/storage/")
SECTIONS = ("Args:", "Returns:", "Yields:", "Raises:")


def is_public(path, node, above):
    """Whether a docstring is of the public API or of an interface."""
    name = str(path.relative_to(PACKAGE))
    if name.startswith(INTERFACES):
        return True
    module = name.removesuffix(".py").replace("/", ".")
    exported = {key for key, value in layertap._EXPORTS.items() if value == module}
    exported |= PUBLIC.get(name, set())
    return bool(exported & {getattr(node, "name", ""), *above})


def with_parents(path):
    """Lists a module's nodes, each with the names of what is around it."""
    pending = [(tree_of(path), ())]
    while pending:
        node, above = pending.pop()
        yield node, above
        name = (node.name,) if isinstance(node, (ast.ClassDef, *FUNCTIONS)) else ()
        pending += [(child, above + name) for child in ast.iter_child_nodes(node)]


def test_a_package_has_few_modules():
    packages = {path.parent for path in MODULES}
    sizes = {
        name_of(package): sum(
            path.name != "__init__.py" for path in package.glob("*.py")
        )
        for package in packages
    }
    assert {n: s for n, s in sizes.items() if s > MODULES_OF_A_PACKAGE} == {}


def name_in_imports(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imported(path):
    """Names all that the import statements of a module may mean."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in NAMES else node.module


NAMES = {name_in_imports(path) for path in MODULES}


def test_imports_do_not_run_in_circles():
    # A package may name its members, such as its backends.
    graph = {
        name_in_imports(path): NAMES & {*imported(path)}
        for path in MODULES
        if path.stem != "__init__"
    }
    # An error names the circle. Imports inside of functions and for types count.
    TopologicalSorter(graph).prepare()


def test_a_module_is_short():
    files = [*MODULES, *ROOT.glob("tests/**/*.py")]
    sizes = {name_of(path): path.read_text("utf-8").count("\n") for path in files}
    assert {n: s for n, s in sizes.items() if s > LINES_OF_A_MODULE} == {}


def test_a_function_is_one_screen():
    long = {}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, FUNCTIONS):
                docstring = docstring_of(node)
                lines = node.end_lineno - node.lineno + 1
                if docstring:
                    lines -= docstring.end_lineno - docstring.lineno + 1
                if lines > LINES_OF_A_FUNCTION:
                    long[f"{name_of(path)}:{node.name}"] = lines
    assert long == {}


def test_a_module_says_in_its_docstring_what_it_holds():
    assert [name_of(path) for path in MODULES if not docstring_of(tree_of(path))] == []


def test_the_first_line_of_a_docstring_is_a_sentence():
    cut = [
        f"{name_of(path)}:{docstring.lineno}"
        for path in MODULES
        for _, docstring in documented(path)
        if not docstring.value.value.split("\n")[0].rstrip().endswith(".")
    ]
    assert cut == []


def test_docstrings_of_internals_are_short():
    long = []
    for path in MODULES:
        for node, above in with_parents(path):
            docstring = docstring_of(node)
            if not docstring or is_public(path, node, above):
                continue
            text = docstring.value.value.partition("    Example:\n")[0]
            lines = text.rstrip().count("\n") + 1
            allowed = LINES_OF_A_DOCSTRING.get(
                type(node), LINES_OF_A_FUNCTIONS_DOCSTRING
            )
            if lines > allowed:
                long.append(f"{name_of(path)}:{docstring.lineno}")
    assert long == []


def test_sections_are_for_the_public_api():
    sections = [
        f"{name_of(path)}:{docstring.lineno}"
        for path in MODULES
        for node, above in with_parents(path)
        if isinstance(node, FUNCTIONS)
        if (docstring := docstring_of(node)) and not is_public(path, node, above)
        if any(f"\n    {s}" in docstring.value.value for s in SECTIONS)
    ]
    assert sections == []

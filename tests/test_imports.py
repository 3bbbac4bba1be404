import ast
import importlib
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import ddim

SOURCE = Path(ddim.__file__).parent
FLOORS = [
    ["__init__"],
    ["kinds", "extras", "files", "decoding"],
    ["process"],
    ["schedules", "noise"],
    ["plans", "drawing"],
    ["solvers"],
    ["spec", "guidance", "measurements", "sampling"],
    ["belm", "fixed_point", "likelihood"],
    ["inversion", "gradients"],
    ["nets"],
    ["identity", "tracing"],
    ["programs"],
    ["backends"],
    ["ways"],
    ["model", "losses", "metrics", "data", "sources", "exact", "rows"],
    ["items", "pixels"],
    ["convert", "training", "weights", "hub", "teacher"],
    ["ermongroup", "presets", "interop", "export", "families", "columns", "speed"],
    ["lessons"],
    ["store", "reading"],
    ["checkpoints", "pictures", "latents", "card", "curves"],
    ["trainer"],
    ["keeping"],
    ["fitting"],
    ["recipes"],
    ["classifier", "extractors", "cells", "gains"],
    ["features", "tuning"],
    ["sketches"],
    ["significance"],
    ["places", "packing", "dispatch"],
    ["bulk"],
    ["engines", "generation"],
    ["references", "findings", "charts"],
    ["spreading"],
    ["evaluation", "tables"],
    ["report"],
    ["comparison"],
    ["demo", "app"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
PURE = (
    "process",
    "schedules",
    "noise",
    "plans",
    "solvers",
    "spec",
    "guidance",
    "sampling",
    "measurements",
    "belm",
    "fixed_point",
    "inversion",
    "likelihood",
    "gradients",
)


def imports(path):
    """The modules that a file imports when loaded or run, without those for type checkers."""
    tree = ast.parse(path.read_text())
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module
            if node.module == "ddim":
                yield from (
                    f"ddim.{alias.name}"
                    for alias in node.names
                    if (SOURCE / f"{alias.name}.py").exists()
                )


def room(module):
    return module.split(".")[1] if "." in module else "__init__"


FILES = {
    path: room(".".join(("ddim", *path.relative_to(SOURCE).with_suffix("").parts)))
    for path in SOURCE.rglob("*.py")
}


def test_every_file_has_a_room():
    assert set(FILES.values()) == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_downwards(path):
    for module in imports(path):
        if (
            module.partition(".")[0] == "ddim"
            and room(module) != FILES[path]
            and FILES[path] != "__init__"
        ):
            assert FLOOR[room(module)] < FLOOR[FILES[path]], f"{path} imports {module}"


@pytest.mark.parametrize(
    "path", [p for p, name in FILES.items() if name in PURE], ids=lambda path: path.stem
)
def test_the_mathematics_needs_torch_and_numpy_alone(path):
    allowed = {*sys.stdlib_module_names, "torch", "numpy", "ddim"} - {
        "os",
        "pathlib",
        "logging",
        "random",
        "io",
    }
    outside = {module.partition(".")[0] for module in imports(path)} - allowed
    assert not outside
    text = path.read_text()
    assert not [
        word for word in (".cuda(", "print(", "nn.Module", "manual_seed", "randn") if word in text
    ]


@pytest.mark.parametrize(
    "path", [p for p, name in FILES.items() if name == "solvers"], ids=lambda path: path.stem
)
def test_solvers_know_neither_networks_nor_schedules(path):
    assert not {room(module) for module in imports(path) if module.startswith("ddim")} & {
        "nets",
        "guidance",
        "schedules",
    }


@pytest.mark.parametrize("module", ["ddim", "ddim.cli"])
def test_importing_is_quick(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "PIL", "accelerate", "matplotlib"}


def test_the_lazy_names_are_those_that_type_checkers_see():
    block = next(
        node
        for node in ast.parse((SOURCE / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    )
    promised = {alias.asname: node.module for node in block.body for alias in node.names}
    assert promised == {name: f"ddim.{module}" for name, module in ddim._MODULE.items()}
    for name, module in promised.items():
        assert getattr(ddim, name) is getattr(importlib.import_module(module), name)


def test_no_public_function_is_hidden_by_a_module():
    assert not set(ddim._MODULE) & {
        room(f"ddim.{path.stem}") for path in SOURCE.iterdir() if path.stem != "__init__"
    }
    assert isinstance(ddim.schedules, type(ast))  # a module
    assert {"sample", "schedules"} <= set(dir(ddim))
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        _ = ddim.smaple


@pytest.mark.parametrize("name", sorted(ddim._MODULE))
def test_public_names_are_documented_and_typed(name):
    thing = getattr(ddim, name)
    if callable(thing) and hasattr(thing, "__code__"):
        assert thing.__doc__
        assert "return" in typing.get_type_hints(thing)


def test_nothing_unpickles():
    for path in FILES:
        modules = set(imports(path))
        assert not modules & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
        for call in re.findall(r"\btorch\.load\(.*", path.read_text()):
            assert path.name == "files.py"
            assert "weights_only=True" in call
        assert "allow_pickle=True" not in path.read_text()


def test_the_mathematics_stays_small():
    lines = {p: len(p.read_text().splitlines()) for p, name in FILES.items() if name in PURE}
    assert sum(lines.values()) < 2800
    assert max(lines.values()) <= 250

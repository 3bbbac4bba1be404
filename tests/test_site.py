"""The site of docs/: it builds without a warning and whole, and every picture has its maker."""

import importlib.util
import inspect
import re
import subprocess
import sys
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ddim

pytest.importorskip("furo")
from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PUBLIC = {f"ddim.{name}" for name in ddim._MODULE}


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded  # where its dataclasses look for it
    spec.loader.exec_module(loaded)
    return loaded


def in_page(text, names=()):
    return "\n".join(
        module(DOCS / "conf.py").restructured(inspect.cleandoc(text).splitlines(), names)
    )


def test_every_public_name_has_its_place_and_its_sentence():
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    placed = re.findall(r"^\.\. auto\w+:: (ddim\.\w+)$", pages, re.MULTILINE)
    assert sorted(placed) == sorted(PUBLIC)
    aliases = {"Denoiser", "Noise", "Plan"}  # the build reads what stands below them
    assert all(getattr(ddim, name).__doc__ for name in {*ddim._MODULE} - aliases)


def test_what_calling_an_object_returns_is_on_its_page():
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    for name in ("Mask", "Downsample", "Blur", "Seeded", "Solver"):
        assert f".. autoclass:: ddim.{name}\n   :special-members: __call__\n" in pages, name


def test_docstrings_say_each_thing_of_its_name():
    text = """Carry x, with *no* more.

        x, y: (B, ...), of any
        dtype. Returns x.   k: the k-th
            draw: none.
        In `sample` and `these` words fail
        where: nothing is named.

            a = |program|
        """
    assert in_page(text, ("x", "y", "k")).split("\n\n") == [
        r"Carry x, with \*no\* more.",
        "``x``, ``y``\n    (B, ...), of any dtype.",
        "Returns x.",
        "``k``\n    the k-th draw: none.",
        "In :py:obj:`sample <ddim.sample>` and ``these`` words fail where: nothing is named.",
        "::",
        "    a = |program|\n",
    ]


def test_every_picture_has_its_maker_and_every_maker_its_picture():
    figures = module(ROOT / "benchmarks/figures.py")
    there = {path.name for path in (DOCS / "images").iterdir()}
    shown = set(re.findall(r"images/([\w.-]+)\)", "".join(map(Path.read_text, pages()))))
    elsewhere = {name for name in there for like in figures.ELSEWHERE if fnmatch(name, like)}
    made = elsewhere | {*figures.FIGURES}
    assert there == made
    assert all((ROOT / each.split()[1]).exists() for each in figures.ELSEWHERE.values())
    assert shown <= made
    assert all(figure.__doc__ for figure in figures.FIGURES.values())


def test_pictures_of_the_demo_are_copied_as_the_list_says(tmp_path, monkeypatch, capsys):
    figures = module(ROOT / "benchmarks/figures.py")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/samples.png").write_bytes(b"a picture")
    asked = ("samples", "--demo", tmp_path / "demo", "--out", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["figures.py", *map(str, asked)])
    assert figures.main() == 0
    assert (tmp_path / "out/samples.png").read_bytes() == b"a picture"
    monkeypatch.setattr(sys, "argv", ["figures.py", "--out", str(tmp_path / "out")])
    capsys.readouterr()
    figures.main()
    lines = capsys.readouterr().out.splitlines()
    copied = [line.split()[0] for line in lines if "copies from --demo" in line]
    assert copied == ["samples.png", "quality.png"]


def pages():
    return [ROOT / "README.md", *DOCS.rglob("*.md")]


class Page(HTMLParser):
    """What a page loads, and the pages that it leads to."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.leads = [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "a":
            self.leads.append(given.get("href", "").partition("#")[0])
        else:
            self.loads += [given[key] for key in ("src", "href", "data", "srcset") if key in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_inventory_has_every_public_name(site):
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    named = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    assert named >= PUBLIC


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    for path in site.rglob("*.html"):
        for address in Page(path).loads:
            assert not re.match(r"(\w+:)?//", address), (path, address)
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", path.read_text()), path


@pytest.mark.slow
def test_every_page_is_reached_from_the_first(site):
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            leads = [(path.parent / each).resolve() for each in Page(path).leads if each]
            waiting += [each for each in leads if each.suffix == ".html" and each.exists()]
    assert {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")} <= {
        path.relative_to(site).with_suffix("") for path in reached
    }


@pytest.mark.slow
def test_no_page_names_a_folder_of_the_machine_that_built_it(site):
    for path in (*site.rglob("*.html"), *site.rglob("*.js")):
        assert str(ROOT) not in path.read_text(), path

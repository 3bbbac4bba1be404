"""The pages run as they stand and say what the code says."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml

import ddim
from ddim.cli import app
from tiny import tiny_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOLD = r"text|\{toctree\}|\{eval-rst\}|\{(include|literalinclude)\} [\w./]+"
READ = {"toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}
COMMANDS = r"([A-Z_]+=\S+ )*(ddim|python3?|pip|torchrun|accelerate) "
HELD = ("Eq. (12)", "np.pad(", '"big/')  # blocks that tests below run, or hold against a file


def fences(page):
    """(language, block) of all that is fenced."""
    return re.findall(r"^```(.*)\n((?s:.*?))^```$", page.read_text(), re.MULTILINE)


def blocks(page, language="python"):
    return [block for tag, block in fences(page) if tag == language]


def programs():
    """The blocks that are programs; the others show a part of a file."""
    return [block for page in PAGES for block in blocks(page) if "ddim." in block]


def execute(block, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names, solvers = {"ddim": ddim}, dict(ddim.solvers.SOLVERS)
    try:
        exec(compile(block, "page", "exec"), names)
    finally:  # a page may name a solver of its own
        ddim.solvers.SOLVERS.clear()
        ddim.solvers.SOLVERS.update(solvers)
    return names


@pytest.mark.parametrize("block", programs())
def test_every_program_runs(block, tmp_path, monkeypatch):
    """With three updates where a page trains for minutes; the slow test below trains in full."""
    for name in ("demo", "digits"):
        ddim.save(tiny_model("v"), tmp_path / "runs" / name)
    execute(re.sub(r"steps=\d{4}", "steps=3", block), tmp_path, monkeypatch)


def test_a_solver_is_written_with_the_order_that_the_page_prints(tmp_path, monkeypatch, capsys):
    (block,) = blocks(ROOT / "docs/write-a-solver.md")
    names = execute(block, tmp_path, monkeypatch)
    assert capsys.readouterr().out.split() == re.findall(r"^print.*# (.*)$", block, re.MULTILINE)
    assert names["end"].isfinite().all()


@pytest.mark.slow
def test_the_readmes_ten_lines_draw_digits(tmp_path, monkeypatch):
    names = execute(blocks(ROOT / "README.md")[0], tmp_path, monkeypatch)
    assert (tmp_path / "digits.png").exists()
    assert len([line for line in blocks(ROOT / "README.md")[0].splitlines() if line]) <= 10
    images, real = names["images"].flatten(1), ddim.data.to_float(ddim.digits().pixels).flatten(1)
    # Much nearer to some digit than digits are to each other: it has learned them.
    assert torch.cdist(images, real).min(1).values.mean() < 0.6 * torch.cdist(real, real).mean()


def test_the_seven_lines_of_the_readme_are_those_of_the_solver():
    shown = next(block for block in blocks(ROOT / "README.md") if "Eq. (12)" in block)
    source = (ROOT / "src/ddim/solvers/ddim.py").read_text()
    assert len(shown.splitlines()) == 7
    assert "".join(f"        {line}\n" for line in shown.splitlines()) in source


def test_the_solver_of_the_design_is_that_of_its_file():
    (shown,) = (block for block in blocks(ROOT / "docs/design.md") if "Eq. (12)" in block)
    head, call = shown.split("\n\n")
    source = (ROOT / "src/ddim/solvers/ddim.py").read_text()
    first, body = call.split("\n", 1)
    assert body in source
    assert all(f"{line}\n" in source for line in [*head.splitlines(), first])


def test_the_digits_of_the_results_are_padded(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    np.savez(tmp_path / "mnist_train.npz", images=images, labels=np.arange(3))
    (block,) = (block for block in blocks(ROOT / "docs/results.md") if "np.pad(" in block)
    execute(block, tmp_path, monkeypatch)
    padded = ddim.read(tmp_path / "mnist32.npz")
    assert padded.pixels.shape == (3, 1, 32, 32)
    assert np.array_equal(padded.pixels[:, 0, 2:30, 2:30], images)
    assert padded.pixels.sum() == images.sum()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset's files
def test_what_generate_writes_is_read_as_the_page_says(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    ddim.save(tiny_model("v", classes=4), tmp_path / "model")
    readers = [block for block in blocks(ROOT / "docs/scale.md") if '"big/' in block]
    assert len(readers) == 3
    for i, kinds in enumerate((["npz"], ["webdataset"], ["parquet", "webdataset"])):
        for kind in kinds:
            few = f"--workers 1 --labels 0-3 -n 6 --steps 2 --shard-size 3 --format {kind}".split()
            code, _, said = run(
                "generate", tmp_path / "model", *few, "--out", tmp_path / f"{i}{kind}"
            )
            assert code == 0, said
            (tmp_path / f"{i}/big").mkdir(parents=True, exist_ok=True)
            for path in (tmp_path / f"{i}{kind}").glob("samples-*"):
                path.rename(tmp_path / f"{i}/big" / path.name)
        block = readers[i].replace("00049", "00002").replace("00048", "00001")
        names = execute(block, tmp_path / str(i), monkeypatch)
        assert len(list(names["images" if i != 1 else "samples"])) == (3, 6, 6)[i]


def test_the_tests_that_the_pages_name_exist():
    named = set(re.findall(r"`(test_\w+)`", "".join(page.read_text() for page in PAGES)))
    assert len(named) > 8
    sources = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert named <= set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))


def test_the_figures_of_the_mathematics_are_those_of_the_tests():
    from test_family import W2

    page = (ROOT / "docs/mathematics.md").read_text()
    for row in W2.values():
        assert " | ".join(f"{value:.5f}" for value in list(row.values())[:4]) in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path = link.partition("#")[0]
        assert link.startswith("https://") or (page.parent / path).exists(), link


def test_every_room_of_the_design_is_there_and_every_file_is_in_the_design():
    rooms = re.search(
        r"## Rooms\n```text\n(.*?)```", (ROOT / "docs/design.md").read_text(), re.DOTALL
    )[1]
    named = set(re.findall(r"(\w+)\.py", rooms)) | set(re.findall(r"(\w+)/ ", rooms))
    for path in (ROOT / "src/ddim").iterdir():
        if path.stem not in ("py", "bundled", "__main__", "__pycache__"):
            assert path.stem in named, path


def test_the_version_is_said_once_and_everywhere_the_same():
    assert f"version: {ddim.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {ddim.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_held_by_a_test(page):
    for language, block in fences(page):
        if language == "python":
            assert "ddim." in block or any(mark in block for mark in HELD), block
        elif language in READ:
            READ[language](block)
        elif language in ("", "bash"):
            assert subprocess.run(["bash", "-n", "-c", block], check=False).returncode == 0, block
            for line in joined(block).splitlines() if not language else ():
                assert not line or re.match(COMMANDS, line), line
        else:
            assert re.fullmatch(TOLD, language), language


def joined(block):
    return block.replace("\\\n", "")


def commands(page):
    """What the page writes for a shell, in blocks and in a line."""
    shown = [joined(block) for tag, block in fences(page) if tag in ("", "bash")]
    inline = re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    )
    return "\n".join([*shown, *inline])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_have_these_options(page):
    known = typer.main.get_command(app).commands
    for name, rest in re.findall(r"(?:^|[ '])ddim ([a-z]+)\b([^\n#']*)", commands(page), re.M):
        assert name in known, name
        flags = {"--help", *(flag for option in known[name].params for flag in option.opts)}
        for word in shlex.split(rest):
            assert not re.match(r"--?[a-z]", word) or word.partition("=")[0] in flags, (name, word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_scripts_have_these_options_and_the_extras_exist(page):
    text = commands(page)
    for script, rest in re.findall(r"\b((?:benchmarks|examples)/\w+\.py)\b([^\n#']*)", text, re.M):
        source = (ROOT / script).read_text()
        for option in re.findall(r"--[a-z-]+", rest):
            assert re.search(f'"(--)?{option[2:]}"', source), (script, option)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {*re.findall(r"pip install .*\.\[(\w+)\]", text)} <= {*extras}


@pytest.mark.slow
def test_the_demo_keeps_its_promises(demo):
    """Few steps of DDIM are as good as 1000 of DDPM, five are not, and DDIM beats DDPM at each."""
    document = json.loads((demo / "results.json").read_text())
    rows = {(row["solver"], row["steps"]): row for row in document["rows"]}
    best = rows["ddpm", 1000]
    assert set(document["floor"]) == {"fd_pixels", "sliced_w2"}
    assert rows["ddim:eta=0", 20]["fd_pixels"] <= 1.25 * best["fd_pixels"]
    assert rows["ddim:eta=0", 5]["fd_pixels"] > 1.25 * best["fd_pixels"]
    for steps in (10, 20, 30):
        assert rows["ddim:eta=0", steps]["fd_pixels"] < rows["ddpm", steps]["fd_pixels"]
    assert all(row["calls"] == row["steps"] for row in rows.values())
    for name in ("samples.png", "quality.png", "model_index.json"):
        assert (demo / name).exists()

"""The pages run as they stand and say what the code says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ddim
from tiny import tiny_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


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
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_room_of_the_design_is_there_and_every_file_is_in_the_design():
    rooms = re.search(r"## Rooms\n```\n(.*?)```", (ROOT / "docs/design.md").read_text(), re.DOTALL)[
        1
    ]
    named = set(re.findall(r"(\w+)\.py", rooms)) | set(re.findall(r"(\w+)/ ", rooms))
    for path in (ROOT / "src/ddim").iterdir():
        if path.stem not in ("py", "bundled", "__main__", "__pycache__"):
            assert path.stem in named, path


def test_the_version_is_said_once_and_everywhere_the_same():
    assert f"version: {ddim.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {ddim.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_commands_of_the_readme_have_these_options(capsys, monkeypatch):
    from ddim.cli import main

    for line in "".join(blocks(ROOT / "README.md", "")).splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "ddim":
            continue
        monkeypatch.setattr("sys.argv", ["ddim", words[1], "--help"])
        with pytest.raises(SystemExit):
            main()
        text = capsys.readouterr().out
        assert all(word in text for word in words if word.startswith("-"))


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path):
    """Few steps of DDIM are as good as 1000 of DDPM, five are not, and DDIM beats DDPM at each."""
    subprocess.run([sys.executable, "-m", "ddim", "demo"], cwd=tmp_path, check=True)
    folder = tmp_path / "runs/demo"
    document = json.loads((folder / "results.json").read_text())
    rows = {(row["solver"], row["steps"]): row for row in document["rows"]}
    best = rows["ddpm", 1000]
    assert set(document["floor"]) == {"fd_pixels", "sliced_w2"}
    assert rows["ddim:eta=0", 20]["fd_pixels"] <= 1.25 * best["fd_pixels"]
    assert rows["ddim:eta=0", 5]["fd_pixels"] > 1.25 * best["fd_pixels"]
    for steps in (10, 20, 30):
        assert rows["ddim:eta=0", steps]["fd_pixels"] < rows["ddpm", steps]["fd_pixels"]
    assert all(row["calls"] == row["steps"] for row in rows.values())
    for name in ("samples.png", "quality.png", "model_index.json"):
        assert (folder / name).exists()

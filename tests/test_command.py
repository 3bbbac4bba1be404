"""The command as a whole: one document by --json, one spelling of a flag, how it ends."""

import errno
import importlib
import json
import math
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tomllib
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from fsspec.implementations.memory import MemoryFileSystem

import ddim
from ddim import cli, demo, measurements, presets, schedules
from ddim.backends import BACKENDS
from ddim.cli import doctor, words
from ddim.cli.console import with_eta
from ddim.cli.telling import plain
from ddim.extras import needed
from ddim.nets import SIZES
from ddim.packing import FORMATS
from ddim.places import place
from ddim.process import TARGETS
from ddim.programs import PRECISIONS
from ddim.training import Training
from tiny import tiny_model

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {name: example for group in cli._COMMANDS.values() for name, _, example in group}
FUNCTIONS = {name: function for group in cli._COMMANDS.values() for name, function, _ in group}
GROUP = typer.main.get_command(cli.app)
WITHOUT_JSON = {"app": "it serves a page until it is stopped"}
ELSEWHERE = {
    "tune": "test_tuning.py::test_tune_and_sample_by_the_recipe",
    "likelihood": "test_edits.py::test_likelihood_prints_the_bits_and_the_bound",
}
"""Where their documents are tested, of models made for it."""


def options(name):
    """The options of a command, by their longest spelling."""
    return {p.opts[-1]: p for p in GROUP.commands[name].params if p.param_type_name == "option"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model whose schedule has 20 steps."""
    folder = tmp_path_factory.mktemp("command") / "model"
    ddim.save(replace(tiny_model(), schedule=schedules.linear(20)), folder)
    return folder


SAMPLED = "--steps 2 --seeds 0-1"
JSON = {
    "demo": "demo -n 2 --retrain",
    "doctor": "doctor",
    "train": "train digits --out made --steps 2 --batch-size 2 --model tiny",
    "info": "info MODEL",
    "sample": f"sample MODEL {SAMPLED} --trajectory x.gif",
    "generate": "generate MODEL -n 3 --steps 2 --out set --workers 1",
    "verify": "verify set --repair --workers 1",
    "edit": "edit MODEL digits --strength 0.5 --steps 4 --seeds 0-1",
    "interpolate": "interpolate MODEL --seeds 3,7 --steps 2 -n 3",
    "encode": "encode MODEL digits -n 2 --steps 2",
    "reconstruct": "reconstruct MODEL digits -n 2 --steps 2 --exact fixed_point",
    "evaluate": "evaluate MODEL digits -n 60 --calls 2 --fine 4 --solvers ddim --features pixels",
    "compare": "compare report report",
    "statistics": "statistics digits",
    "bench": "bench MODEL --batch-sizes 1 --precisions fp32 --backends eager",
    "plan": "plan --schedule rectified_flow --steps 2",
    "import": "import MODEL -o theirs",
    "export": "export MODEL -o network.pt2",
    "push": "push MODEL me/mine",
}


def strictly(text):
    """The document of a text, as parsers read it that know no NaN."""

    def refuse(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.export
def test_every_command_prints_one_document(run, model, monkeypatch):
    """In one folder and in the order of the tour, for some read what others made."""
    monkeypatch.setattr(demo, "TRAINING", Training(steps=2, batch_size=2))
    monkeypatch.setattr(demo, "SETTINGS", (("ddpm", 2), ("ddim:eta=0", 2)))
    assert set(COMMANDS) == {*JSON, *WITHOUT_JSON, *ELSEWHERE}
    said = {}
    for name, line in JSON.items():
        status, out, err = run(*line.replace("MODEL", str(model)).split(), "--json")
        assert status == 0, (name, err)
        said[name] = strictly(out)
        assert out.startswith(("{", "[")), name
    assert said["sample"]["seeds"] == said["edit"]["seeds"] == [0, 1]
    assert (said["sample"]["calls"], said["sample"]["out"]) == (2, "grid.png")
    assert (said["generate"]["made"], said["generate"]["failed"]) == (3, [])
    assert said["verify"] == {"images": 3, "wrong": [], "not_of_this_set": []}
    assert said["train"]["updates"] == 2
    assert said["evaluate"] == strictly(Path("report/results.json").read_text())
    assert said["import"]["weights"] == said["info"]["weights"]
    assert said["export"]["difference"] < 1e-4
    assert len(said["plan"]["levels"]) == 3
    assert said["push"]["pushed"] is None
    assert (said["encode"]["latents"], len(said["reconstruct"]["residuals"])) == (2, 2)


def test_what_is_not_finite_is_null_in_a_document():
    content = {"a": (math.nan, 1.0), "b": {"c": -math.inf}, "d": Path("x")}
    assert strictly(json.dumps(plain(content))) == {"a": [None, 1.0], "b": {"c": None}, "d": "x"}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(WITHOUT_JSON)))
def test_what_reports_has_json(name):
    assert "--json" in options(name)


SPELLINGS = {
    ("-o", "--out", "--output"): {},
    ("--steps", "--num-inference-steps"): {"train": ("--steps", "--max-steps")},
    ("--seeds", "--seed"): {  # one number where a command takes one: image i has SEED + i
        **dict.fromkeys(("train", "generate", "likelihood"), ("--seed",)),
        "evaluate": ("--seed", "--first-seed"),
    },
    ("-n", "--num"): {},
}
KINDS = {  # those that differ from the other commands'
    **{flag: {"generate": str} for flag in ("-o", "--out", "--output")},  # an address too
    "--calls": {"tune": str, "evaluate": str},  # lists of numbers
    "--seed": {"sample": str, "edit": str, "interpolate": str},  # where it is one of --seeds
    "--model": {"train": str},  # a size too
}


def test_a_flag_is_spelled_in_one_way():
    for name in COMMANDS:
        for param in options(name).values():
            for spelling, others in SPELLINGS.items():
                if set(param.opts) & set(spelling):
                    assert tuple(param.opts) == others.get(name, spelling), name
    shared = ("--solver", "--spacing", "--device", "--precision", "--backend", "--json", "--eta")
    for name in COMMANDS:
        for flag in set(shared) & set(options(name)):
            assert options(name)[flag].opts == [flag], name


def test_a_flag_means_one_kind_of_thing():
    found = {}
    for name in COMMANDS:
        hints = typing.get_type_hints(FUNCTIONS[name])
        for param in options(name).values():
            some = {*typing.get_args(hints[param.name])} - {type(None)}
            kind = next(iter(some), hints[param.name])
            for flag in param.opts:
                found.setdefault(flag, {}).setdefault(kind, set()).add(name)
    for flag, kinds in found.items():
        most = max(kinds, key=lambda kind: len(kinds[kind]))
        others = {name: kind for kind, names in kinds.items() if kind != most for name in names}
        assert others == KINDS.get(flag, {}), flag


@pytest.mark.parametrize(
    ("solver", "eta", "text"),
    [
        (None, 0.5, "ddim:eta=0.5"),
        ("ddim:added=hat", 1.0, "ddim:added=hat,eta=1.0"),
        ("dpmpp", 1.0, "dpmpp:eta=1.0"),
        ("unipc:order=3", None, "unipc:order=3"),
        (None, None, None),
    ],
)
def test_eta_is_that_of_the_solver(solver, eta, text):
    assert with_eta(solver, eta) == text


@pytest.mark.parametrize("solver", ["unipc", "ddpm", "heun"])
def test_eta_is_refused_beside_a_solver_without(solver):
    with pytest.raises(ValueError, match=rf"{solver} has no eta; .* choose --solver ddim or "):
        with_eta(solver, 0.5)
    with pytest.raises(ValueError, match="both give eta"):
        with_eta("ddim:eta=1", 0.5)


def test_sample_with_eta_is_sample_with_the_solver(run, model, tmp_path):
    assert run("sample", model, "--eta", 0.5, "--steps", 3, "--seed", 4, "-o", "a.npz")[0] == 0
    words = ("--solver", "ddim:eta=0.5", "--num-inference-steps", 3, "--seeds", 4)
    assert run("sample", model, *words, "--output", "b.npz")[0] == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    status, _, err = run("sample", model, "--eta", 0.5, "--preset", "sd1")
    assert status == 2
    assert "leave --solver, --eta" in err


def test_words_to_complete_are_those_of_the_tables():
    from ddim.inversion import EXACT

    for found, table in (
        (words.SOLVERS, ddim.solvers.SOLVERS),
        (words.SPACINGS, ddim.plans.SPACINGS),
        (words.SCHEDULES, schedules.SCHEDULES),
        (words.TARGETS, TARGETS),
        (words.PRESETS, presets.PRESETS),
        (words.PRECISIONS, [*PRECISIONS, "auto"]),
        (words.BACKENDS, [*BACKENDS, "auto"]),
        (words.FORMATS, FORMATS),
        (words.SIZES, SIZES),
        (words.MEASUREMENTS, measurements.MEASUREMENTS),
    ):
        assert list(found) == list(table)
    assert set(words.EXACT) == set(EXACT)


COMPLETED = {
    "ddim gen": ["generate"],
    "ddim sample m --solver d": ["ddim", "ddpm", "deis", "dpmpp", "dpmpp2s"],
    "ddim sample m --spacing lo": ["log_snr"],
    "ddim sample m --preset s": ["sd1"],
    "ddim sample m --device c": ["cpu", "cuda"],
    "ddim generate m --precision b": ["bf16"],
    "ddim generate m --format w": ["webdataset"],
    "ddim train d --num": [],
    "ddim sample m --num-": ["--num-inference-steps"],
}


def completed(line, shell):
    """What a shell is given to complete a line, and the modules that it took."""
    code = (
        "import sys, ddim.cli\ntry: ddim.cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    more = {
        "_DDIM_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("line", COMPLETED)
def test_bash_completes(line):
    out, modules = completed(line, "bash")
    assert out.split() == COMPLETED[line]
    assert "typer" in modules
    assert not modules & {"torch", "numpy"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete(shell):
    assert "log_snr" in completed("ddim sample m --spacing lo", shell)[0]


def test_bash_itself_completes_by_the_script_that_is_installed(tmp_path):
    script = subprocess.run(
        [sys.executable, "-m", "ddim"],
        env={**os.environ, "_DDIM_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "ddim").write_text(f'#!/bin/sh\nexec {sys.executable} -m ddim "$@"\n')
    (tmp_path / "ddim").chmod(0o755)
    asked = "COMP_WORDS=(ddim sample m --spacing lo); COMP_CWORD=4; _ddim_completion ddim"
    done = subprocess.run(
        ["bash", "--norc", "-c", f'{script}\n{asked}\necho "${{COMPREPLY[@]}}"'],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["log_snr"], done.stderr


def on_a_terminal(folder, *words, until=None, by=signal.SIGINT, **environment):
    """Run the command with stderr and stdout a terminal; what that shows, and the exit status.

    until: press Ctrl-C, or send all of it the signal `by`, when it shows this.
    """
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "ddim", *map(str, words)],
        cwd=folder,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm", "OMP_NUM_THREADS": "1", **environment},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
        if until is not None and re.search(until, shown):
            os.killpg(running.pid, by)
            until = None
    os.close(leader)
    return running.wait(timeout=60), shown.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*?(3[0-9]|4[0-9]|9[0-7])[0-9;]*m")


def test_no_color_leaves_colours_out_and_a_dumb_terminal_gets_no_codes(model, tmp_path):
    words = ("sample", model, "--steps", 3)
    assert COLOUR.search(on_a_terminal(tmp_path, *words)[1])
    for said in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        status, shown = on_a_terminal(tmp_path, *words, **said)
        assert status == 0
        assert not COLOUR.search(shown)
        assert "grid.png: 16 images" in shown
    assert "\x1b" not in shown


LONG = {
    "sample": ("sample MODEL --seeds 0-100000", rb"sampling ", 130),
    "evaluate": ("evaluate MODEL digits -n 890 --features pixels", rb"evaluating ", 75),
    "tune": ("tune COPY --calls 5,6,7,8 --num 2048", rb"tuning", 75),
    "train": ("train digits -o run --steps 100000 --model tiny", rb"training, ", 75),
    "generate": ("generate MODEL -n 1000000 -o big", rb"images/s", 75),
}
RARER = {
    "edit": ("edit MODEL digits --strength 1 --seeds 0-100000", rb"sampling ", 130),
    "encode": ("encode MODEL digits --exact fixed_point --batch-size 1", rb"encoding ", 130),
    "reconstruct": ("reconstruct MODEL digits -n 1700 --batch-size 1", rb"back ", 130),
    "likelihood": ("likelihood MODEL digits --steps 20 -n 1700", rb"likelihood ", 130),
    "bench": ("bench MODEL --batch-sizes 1,2,3,4,5,6,7,8", rb"fp32", 130),
    "demo": ("demo", rb"training ", 130),
    "verify": ("verify big --repair", rb"images/s", 75),
}


def broken_off(case, model, folder):
    """The status and what is shown after a Ctrl-C in the midst of a command."""
    line, until, _ = case
    if "COPY" in line:
        ddim.save(ddim.load(model), folder / "copy")
    words = line.replace("MODEL", str(model)).replace("COPY", "copy").split()
    if words[0] == "verify":
        on_a_terminal(
            folder, *LONG["generate"][0].replace("MODEL", str(model)).split(), until=until
        )
    return on_a_terminal(folder, *words, until=until)


@pytest.mark.parametrize("name", LONG)
def test_ctrl_c_is_a_sentence_and_a_status(name, model, tmp_path):
    status, shown = broken_off(LONG[name], model, tmp_path)
    assert status == LONG[name][2], shown
    assert "Traceback" not in shown
    assert re.search("broken off" if status == 130 else "the same command goes on", shown)


@pytest.mark.slow
@pytest.mark.parametrize("name", RARER)
def test_ctrl_c_in_the_others(name, model, tmp_path):
    status, shown = broken_off(RARER[name], model, tmp_path)
    assert status == RARER[name][2], shown
    assert "Traceback" not in shown
    assert re.search("broken off" if status == 130 else "the same command goes on", shown)


@pytest.mark.parametrize("name", ["bench", "sample", "tune"])
def test_ctrl_c_in_the_midst_of_an_import_is_one_too(name, run, model, monkeypatch):
    """A library in C++ makes an ImportError of it, and ours a ValueError of that."""

    def imported(*given, **options):
        try:
            raise ImportError("initialization failed") from KeyboardInterrupt()
        except ImportError as error:
            raise ValueError("got no program of this network") from error

    monkeypatch.setattr(GROUP.commands[name], "invoke", imported)
    monkeypatch.setattr(cli, "app", GROUP)
    status, _, said = run(name, model)
    assert status == (75 if name == "tune" else 130)
    assert "initialization" not in said
    assert "program" not in said


def test_no_choice_of_a_library_swallows_a_ctrl_c(monkeypatch):
    def imported(name):
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr(importlib, "import_module", imported)
    with pytest.raises(KeyboardInterrupt):
        needed("openvino", "fast", "backend=openvino")


def test_an_error_that_is_its_own_cause_is_told(run, model, monkeypatch):
    def circular(*given, **options):
        error = ValueError("as it is")
        raise error from error

    monkeypatch.setattr(GROUP.commands["sample"], "invoke", circular)
    monkeypatch.setattr(cli, "app", GROUP)
    status, _, said = run("sample", model)
    assert (status, said) == (2, "ddim: as it is\n")


def test_sigterm_stops_what_goes_on_and_only_train_prints_a_document(model, tmp_path):
    """With status 75."""
    for line, until in (
        ("generate MODEL -n 1000000 -o big --json", rb"images/s"),
        ("verify big --repair --json", rb"images/s"),
        ("train digits -o run --steps 100000 --model tiny --json", rb"training, "),
    ):
        words = line.replace("MODEL", str(model)).split()
        status, shown = on_a_terminal(tmp_path, *words, until=until, by=signal.SIGTERM)
        assert status == 75, shown
        assert "Traceback" not in shown
        assert ('"updates":' in shown) == (words[0] == "train")
        assert ("{" in shown) == (words[0] == "train")


def test_a_reader_that_stops_reading_is_no_error(tmp_path):
    command = f"{sys.executable} -m ddim plan --schedule linear:T=20000 --steps 20000"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    done = subprocess.run(
        ["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "ddim: no space is left on the device; free some, or choose another output\n"
    )


def test_letters_that_stdout_lacks_are_no_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ddim", "plan", "--steps", "2"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 4


WRONG = {
    "plan --steps nan": "--steps nan: give a whole number; see ddim plan --help",
    "sample MODEL --steps 2.5": "--steps 2.5: give a whole number; see ddim sample",
    "sample MODEL --num-inference-steps x": "--num-inference-steps x: give a whole number; see",
    "sample MODEL --eta x": "--eta x: give a number; see ddim sample --help",
    "sample MODEL --calls 0": "--calls 0: give at least 1; see ddim sample --help",
    "evaluate MODEL digits --table 3": "--table 3: give at most 2; see",
    "sample MODEL --clip nan": "--clip nan; choose a number above 0",
    "evaluate MODEL digits --clip inf": "--clip inf; choose a number above 0",
    "sample MODEL --eta 0.5 --solver unipc": "unipc has no eta; leave --eta out, or choose",
    "sample MODEL --eta 0.5 --solver ddim:eta=1": "both give eta",
    "generate MODEL -n 3 -o g --eta nan": "eta=nan; choose 0",
    "sample MODEL --solver EMPTY": "the value after --solver is empty; give one, or leave it out",
    "sample EMPTY": "the value after sample is empty",
    "sample MODEL --out=": "the value after --out= is empty",
    "--config empty.toml sample MODEL": "out of [sample] is empty; give a value, or delete it",
    "--config fraction.toml sample MODEL": "--steps: give a whole number",
    "--config . plan": ". cannot be read as TOML",
    "smaple MODEL": "No such command 'smaple'. Did you mean 'sample'?; see ddim --help",
    "plan --stps 3": "No such option: --stps (Possible options: --steps, --times); see ddim plan",
    "sample": "Missing argument 'model'; see ddim sample --help",
    "import MODEL": "there is no output; give --out",
    "import MODEL a -o b": "a and --out b both name the output",
    "export MODEL": "there is no output; give --out",
    "import MODEL -o file": "is not a folder that you may write to",
    "verify file": "file/manifest.json: what is above it is a file",
    "tune COPY --calls 1": "calls=1; choose 2..20",
    "tune COPY --guidance nan": "guidance=nan, but the model has no classes",
    "verify ünï": "ünï/manifest.json is missing",
    "interpolate MODEL --seeds 3,7 --steps 2 --solver ddpm": "a solver that draws noise cannot be "
    "used here; choose one that draws none",
    "export MODEL --steps 2 --solver ddpm -o x.pt2": "a solver that draws noise cannot be used",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_slip_is_one_sentence(run, model, tmp_path, line):
    (tmp_path / "empty.toml").write_text('[sample]\nout = ""\n')
    (tmp_path / "fraction.toml").write_text("[sample]\nsteps = 2.5\n")
    (tmp_path / "file").write_text("x")
    before = sorted(tmp_path.iterdir())
    places = {"MODEL": str(model), "COPY": str(model), "EMPTY": ""}
    status, out, err = run(*(places.get(word, word) for word in line.split()))
    assert (status, out) == (2, "")
    assert err.startswith("ddim: ")
    assert len(err.splitlines()) == 1, err
    assert WRONG[line] in err
    assert sorted(tmp_path.iterdir()) == before


class Unreachable(MemoryFileSystem):
    """A system whose library has errors of its own, as botocore has."""

    protocol = "unreachable"

    def exists(self, path, **options):
        raise LookupError("Could not connect to the endpoint URL")

    cat_file = pipe_file = exists


def test_a_place_that_does_not_answer_is_one_sentence(run, model):
    import fsspec

    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    for line in (("verify",), ("generate", model, "-n", "3", "--out")):
        status, out, err = run(*line, "unreachable://bucket/a")
        assert (status, out) == (1, "")
        assert err.startswith("ddim: unreachable://bucket/a cannot be reached (LookupError: Could")
        assert "check the address" in err
        assert len(err.splitlines()) == 1
    with pytest.raises(OSError, match="cannot be reached"):
        place("unreachable://bucket/a").write({"x": b""})


def test_a_ray_cluster_that_does_not_answer_is_a_failure(run, model):
    pytest.importorskip("ray")
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ("generate", model, "-n", 3, "--steps", 2, "--out", "set", "--ray-address", where)
        status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert f"ddim: no Ray cluster at {where}" in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x.png"), "x.png: your quota of the device"),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), "x.png: no space is left"),
        (MemoryError(), "it does not fit in memory"),
    ],
)
def test_what_has_run_out_is_a_failure(run, monkeypatch, error, words):
    def full(*given, **options):
        raise error

    monkeypatch.setattr("ddim.cli.doctor.checked", full)
    status, out, err = run("doctor")
    assert (status, out) == (1, "")
    assert err.startswith(f"ddim: {words}")
    assert len(err.splitlines()) == 1


def test_generate_prints_its_document_where_shards_failed(run, tmp_path):
    broken = tiny_model()
    next(broken.net.parameters()).data.fill_(3e38)
    ddim.save(broken, tmp_path / "m")
    words = ("-n", 3, "--steps", 2, "--out", "set", "--workers", 1, "--json")
    status, out, _ = run("generate", "m", *words)
    (failed,) = strictly(out)["failed"]
    assert (status, failed["begin"], failed["end"]) == (1, 0, 3)
    assert "nan" in failed["why"]


def test_the_doctor_knows_every_extra_and_fits_80_columns(run):
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    known = {name: set(libraries) for name, libraries in doctor.EXTRAS.items()}
    bare = {name: {re.split(r"[\[>=]", each)[0] for each in some} for name, some in extras.items()}
    assert known == {name: some for name, some in bare.items() if name not in ("all", "dev")}
    status, out, _ = run("doctor")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80


def test_the_page_of_the_command_has_every_command_and_flag_that_is_shared():
    page = (ROOT / "docs/command.md").read_text()
    for name, example in COMMANDS.items():
        assert f"`ddim {name}`" in page, name
        assert example in page, name
    assert re.findall(r"^### (.*)$", page, re.MULTILINE)[: len(cli._COMMANDS)] == list(
        cli._COMMANDS
    )
    assert set(re.findall(r"`(--[a-z-]+)`", page)) <= {
        "--help",
        "--version",
        "--config",
        "--install-completion",
        "--show-completion",
        *(flag for name in COMMANDS for p in options(name).values() for flag in p.opts),
    }
    for status in ("0", "1", "2", "75", "130"):
        assert f"| {status} |" in page

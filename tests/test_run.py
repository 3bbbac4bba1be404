"""run.py: the two commands of the README, before anything is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parent.parent / "run.py"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """run.py as a module, its environment in an empty folder and its commands recorded."""
    spec = importlib.util.spec_from_file_location("run", RUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands, module.codes = [], {}

    def run(command):
        module.commands.append(command)
        if "venv" in command:
            (tmp_path / "env/bin").mkdir(parents=True, exist_ok=True)
            (tmp_path / "env/pyvenv.cfg").touch()
        return next((code for word, code in module.codes.items() if word in command), 0)

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setenv("DDIM_VENV", str(tmp_path / "env"))
    monkeypatch.delenv("DDIM_USE_CURRENT_ENV", raising=False)
    return module


def test_it_imports_the_standard_library_alone():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import run; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, RUN.parent], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded <= {*sys.stdlib_module_names, "__main__", "run"}


@pytest.mark.parametrize("words", [[], ["dance"], ["demonstrate", "--help"]])
def test_wrong_use_says_what_there_is(words):
    done = subprocess.run(
        [sys.executable, RUN, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "python3 run.py demo" in done.stderr
    assert "python3 run.py test" in done.stderr


def test_an_old_python_is_told_so(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert script.main() == 2
    assert "Python 3.11 or newer" in capsys.readouterr().err


def test_it_installs_once_and_again_when_the_versions_change(script, monkeypatch, tmp_path):
    script.environment()
    installs = [command for command in script.commands if "pip" in command]
    assert len(installs) == 1
    assert installs[0][-1].endswith("[dev]")
    assert any(word.endswith("constraints.txt") for word in installs[0])
    script.environment()
    assert len(script.commands) == 2
    monkeypatch.setattr(script, "EXTRAS", "dev,ui")
    script.environment()
    assert len(script.commands) == 3


def test_an_installation_that_fails_is_tried_again(script, capsys):
    script.codes["pip"] = 7
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            script.environment()
        assert end.value.code == 7
    assert len([command for command in script.commands if "pip" in command]) == 2
    assert "installation failed" in capsys.readouterr().err


def test_a_python_without_venv_names_the_package(script, capsys):
    script.codes["venv"] = 1
    with pytest.raises(SystemExit) as end:
        script.environment()
    assert end.value.code == 2
    assert "apt install python3-venv" in capsys.readouterr().err


def test_an_interrupted_environment_is_made_anew(script):
    script.codes["venv"] = 130
    with pytest.raises(SystemExit) as end:
        script.environment()
    assert end.value.code == 130
    script.codes.clear()
    script.environment()
    assert [command[2] for command in script.commands] == ["venv", "venv", "pip"]


def test_a_folder_that_is_no_environment_is_left_alone(script, capsys, tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "env/thesis.txt").write_text("dear")
    with pytest.raises(SystemExit) as end:
        script.environment()
    assert end.value.code == 2
    assert script.commands == []
    assert (tmp_path / "env/thesis.txt").read_text() == "dear"
    assert "set DDIM_VENV" in capsys.readouterr().err


def test_help_is_the_usage(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--help"])
    assert script.main() == 0
    assert "python3 run.py demo" in capsys.readouterr().out


def test_the_exit_status_is_that_of_the_first_check_that_fails(script, monkeypatch):
    monkeypatch.setenv("DDIM_USE_CURRENT_ENV", "1")
    monkeypatch.setattr(sys, "argv", ["run.py", "test"])
    script.codes["mypy"] = 3
    assert script.main() == 3
    assert [command[2] for command in script.commands] == ["ruff", "ruff", "mypy"]
    script.codes.clear()
    assert script.main() == 0
    monkeypatch.setattr(sys, "argv", ["run.py", "test", "--slow"])
    script.main()
    assert script.commands[-1][2:] == ["pytest", "-m", "slow"]
    monkeypatch.setattr(sys, "argv", ["run.py", "demo", "--out", "x"])
    script.main()
    assert script.commands[-1][1:] == ["-m", "ddim", "demo", "--out", "x"]


def test_ci_runs_both_gates():
    text = (RUN.parent / ".ci/run").read_text()
    assert "python3 run.py test\n" in text
    assert "python3 run.py test --slow\n" in text
    assert os.access(RUN.parent / ".ci/run", os.X_OK)

"""Set up and run: `python3 run.py demo` or `python3 run.py test [--slow]`. Needs Python 3.11+ and
nothing else.

Makes an environment in .venv (or $DDIM_VENV), installs this project into it at the versions of
constraints.txt, and hands over. DDIM_USE_CURRENT_ENV=1 installs nothing and uses the Python that
runs this file.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
EXTRAS = "dev"
INTERRUPTED = 130
USAGE = """usage: python3 run.py demo [options of ddim demo]
       python3 run.py test           lint, types and the fast tests
       python3 run.py test --slow    the tests that take minutes
       python3 run.py test [arguments of pytest]"""


def main() -> int:
    """Dispatch; the exit status is that of the first command that fails."""
    if sys.version_info < (3, 11):
        return fail(f"this is Python {sys.version.split()[0]}; run it with Python 3.11 or newer")
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if len(sys.argv) < 2 or sys.argv[1] not in ("demo", "test"):
        return fail(USAGE)
    python = sys.executable if os.environ.get("DDIM_USE_CURRENT_ENV") else environment()
    for command in modules(sys.argv[1], sys.argv[2:]):
        code = run([python, "-m", *command])
        if code:
            return code
    return 0


def modules(word: str, rest: list[str]) -> list[list[str]]:
    """The modules to run, one after the other."""
    if word == "demo":
        return [["ddim", "demo", *rest]]
    if rest:
        return [["pytest", *(["-m", "slow"] if rest == ["--slow"] else rest)]]
    lint = [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]]
    return [*lint, ["pytest", "-m", "not slow", "-n", "logical"]]


def environment() -> str:
    """The Python of an environment that has what pyproject.toml and constraints.txt ask for."""
    folder = Path(os.environ.get("DDIM_VENV", ROOT / ".venv")).resolve()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "installed"
    wanted = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    want = hashlib.sha256(b"\0".join([*wanted, EXTRAS.encode(), sys.version.encode()])).hexdigest()
    if stamp.exists() and stamp.read_text() == want:
        return str(python)
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        sys.exit(fail(f"{folder} is not an environment of Python; set DDIM_VENV to a new folder"))
    begin = time.monotonic()
    say(f"setting up {folder} (about a minute, once)")
    if not stamp.exists():  # none yet, or one whose making was interrupted
        code = run([sys.executable, "-m", "venv", "--clear", str(folder)])
        if code == INTERRUPTED:
            sys.exit(code)
        if code:
            say("could not make an environment; the reason is above")
            sys.exit(fail("where it speaks of ensurepip, on Debian: sudo apt install python3-venv"))
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    code = run([*install, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[{EXTRAS}]"])
    if code:
        say("the installation failed; the reason is above")
        sys.exit(code)
    stamp.write_text(want)
    say(f"ready after {time.monotonic() - begin:.0f} s")
    return str(python)


def run(command: list[str]) -> int:
    """Run a command in the project's folder and return its exit status."""
    try:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    except KeyboardInterrupt:
        return INTERRUPTED


def say(text: str) -> None:
    """One line on stderr."""
    print(f"run.py: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> int:
    """Say what is wrong; the exit status of bad usage."""
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

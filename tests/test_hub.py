"""Models named on the hub: from the cache where there is no network, and pushed with a card."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

import ddim
from ddim import Model, Sampling, hub, schedules
from ddim.card import card
from tiny import tiny_model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one model, as a download would have left it."""
    root = tmp_path / "cache"
    repository = root / "models--someone--digits"
    ddim.save(tiny_model("v"), repository / "snapshots/abc")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    return root


def test_a_model_in_the_cache_opens_offline(cache):
    model = ddim.load("hf:someone/digits")
    for name, weight in tiny_model("v").net.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], weight)


def test_every_command_takes_it(cache, run):
    assert run("sample", "hf:someone/digits", "--steps", 2, "--seeds", "0")[0] == 0
    code, out, _ = run("info", "hf:someone/digits", "--json")
    assert (code, json.loads(out)["target"]) == (0, "v")
    assert run("import", "hf:someone/digits", "mine")[0] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:someone/else", "not in the local cache, and HF_HUB_OFFLINE is set"),
        ("hf:someone/digits@v2", "not in the local cache"),
        ("hf:digits", "write hf:owner/name"),
        ("hf:", "write hf:owner/name"),
        ("hf:../../etc/passwd", "write hf:owner/name"),
    ],
)
def test_what_is_not_there_is_one_sentence(cache, run, name, words):
    code, out, err = run("info", name)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err


def test_the_revision_and_what_is_downloaded(monkeypatch, tmp_path):
    """Safetensors first; .bin only where there are none."""
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, tuple(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.fetch("hf:a/b@v1") == str(tmp_path)
    assert [each[:2] for each in asked] == [("a/b", "v1")] * 2
    assert "*.bin" not in asked[0][2]
    assert "*.bin" in asked[1][2]
    (tmp_path / "w.safetensors").write_bytes(b"")
    hub.fetch("hf:a/b")
    assert len(asked) == 3


@pytest.mark.parametrize("classes", [None, 3])
def test_the_card_says_what_the_model_is_and_its_program_runs(classes, tmp_path, monkeypatch):
    model = tiny_model("v", classes)
    made = Model(model.net, model.schedule, "v", model.shape, notes={"data": {"images": 7}})
    text = card(made, "someone/digits", "mit")
    read = ModelCard(text)
    assert read.data.license == "mit"
    assert "\nlibrary_name: diffusers\n" in text
    assert read.data.pipeline_tag == "unconditional-image-generation"
    assert '| data | {"images": 7} |' in text
    assert f"| weights | {model.size:,} |" in text
    assert ("DDIMPipeline" in text) == (classes is None)
    program = next(block for block in text.split("```python\n")[1:]).split("```")[0]
    monkeypatch.setattr(ddim, "load", lambda name: made)
    names = {}
    exec(program, names)
    assert names["images"].shape == (16, 1, 8, 8)


def test_what_diffusers_does_not_know_is_not_promised():
    flow = Model(tiny_model().net, schedules.rectified_flow(), "flow", (1, 8, 8), Sampling())
    text = card(flow, "someone/digits")
    assert "\nlibrary_name: ddim\n" in text
    assert "diffusers" not in text


def test_offline_push_writes_the_card_and_no_more(run, tmp_path):
    ddim.save(tiny_model("v"), tmp_path / "m")
    code, _, err = run("push", "m", "someone/digits", "--license", "mit")
    assert code == 0
    assert "HF_HUB_OFFLINE is set: not pushed" in err
    assert ModelCard.load(tmp_path / "m/README.md").data.license == "mit"
    (tmp_path / "m/README.md").write_text("my own")
    assert run("push", "m", "someone/digits", "--license", "mit")[0] == 2
    assert "kept as it is" in run("push", "m", "someone/digits")[2]
    assert (tmp_path / "m/README.md").read_text() == "my own"
    assert ddim.load(tmp_path / "m").target == "v"


def test_push_makes_the_repository_and_uploads_the_folder(run, tmp_path, monkeypatch):
    ddim.save(tiny_model("v"), tmp_path / "m")
    asked = []

    class Api:
        def create_repo(self, name, **options):
            asked.append((name, options))
            return f"https://hub/{name}"

        def upload_folder(self, **options):
            asked.append(options)

    monkeypatch.setattr(hub, "offline", lambda: False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    code, _, err = run("push", "m", "someone/digits", "--private")
    assert (code, err.strip()) == (0, "https://hub/someone/digits: pushed")
    (name, options), upload = asked
    assert (name, options) == ("someone/digits", {"private": True, "exist_ok": True})
    assert (upload["repo_id"], Path(upload["folder_path"]).name) == ("someone/digits", "m")
    for allowed in ("README.md", "*.json", "*.safetensors"):
        assert allowed in upload["allow_patterns"]

    def refused(self, name, **options):
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(Api, "create_repo", refused)
    code, _, err = run("push", "m", "someone/digits")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "401 Unauthorized" in err
    assert "HF_TOKEN" in err


def test_a_name_or_folder_that_is_none_is_said(run, tmp_path, monkeypatch):
    ddim.save(tiny_model("v"), tmp_path / "m")
    monkeypatch.setattr(hub, "offline", lambda: False)
    for words, sentence in (
        (("push", "m", "digits"), "write owner/name"),
        (("push", "n", "someone/digits"), "ddim import makes such a folder"),
    ):
        code, _, err = run(*words)
        assert (code, len(err.splitlines())) == (2, 1)
        assert sentence in err


def test_a_hub_that_does_not_answer_is_a_failure_and_one_that_refuses_wrong_input(tmp_path):
    """At a port of this machine where nobody listens, and at one that knows no model."""
    ddim.save(tiny_model("v"), tmp_path / "m")

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self):
            self.do_GET()

        def do_POST(self):
            self.do_GET()

        def log_message(self, *words):
            """Nothing."""

    def ended(port, *words):
        hub_here = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
        return subprocess.run(
            [sys.executable, "-m", "ddim", *words],
            cwd=tmp_path,
            env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "none", **hub_here},
            capture_output=True,
            text=True,
            check=False,
        )

    server = HTTPServer(("127.0.0.1", 0), Empty)
    port, server.status = server.server_port, 404
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = {"info": ("info", "hf:a/b"), "push": ("push", "m", "a/b")}
    refused = {name: ended(port, *words) for name, words in asked.items()}
    server.shutdown()
    server.server_close()
    silent = {name: ended(port, *words) for name, words in asked.items()}
    for name in asked:
        assert refused[name].returncode == 2, refused[name].stderr
        assert silent[name].returncode == 1, silent[name].stderr
        for done in (refused[name], silent[name]):
            assert done.stdout == ""
            assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "check the network" in silent["push"].stderr
    assert "hf auth login" in refused["push"].stderr


def test_data_of_a_hub_that_does_not_answer_are_a_failure(run, monkeypatch):
    def silent(*words, **options):
        raise ConnectionError("Couldn't reach 'a/b' on the Hub")

    def unknown(*words, **options):
        raise FileNotFoundError("Dataset 'a/b' doesn't exist on the Hub")

    monkeypatch.setattr(hub, "offline", lambda: False)
    for raised, status in ((silent, 1), (unknown, 2)):
        monkeypatch.setattr(datasets, "load_dataset", raised)
        code, out, err = run("train", "hf:a/b", "--out", "x")
        assert (code, out, len(err.splitlines())) == (status, "", 1)

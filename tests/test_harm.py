"""Files that were made to harm, or are damaged: one sentence each, nothing run, nothing large."""

import json
import os
import pickle
import random
import resource
import shutil
import struct
import time
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler, UNet2DModel

import ddim
from ddim.weights import STEM
from test_checkpoints import PAPER, TINY
from tiny import tiny_model


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def shard(folder, evil):
    pieces = {"a": evil}
    torch.save(pieces, folder / f"{STEM}-1.bin")
    index = {"weight_map": {"conv_in.bias": f"{STEM}-1.bin"}}
    (folder / f"{STEM}.bin.index.json").write_text(json.dumps(index))


def legacy(folder, evil):
    (folder / f"{STEM}.bin").write_bytes(pickle.dumps(evil))


HARM = {
    "bin": lambda folder, evil: torch.save({"conv_in.bias": evil}, folder / f"{STEM}.bin"),
    "old format": lambda folder, evil: torch.save(
        {"conv_in.bias": evil}, folder / f"{STEM}.bin", _use_new_zipfile_serialization=False
    ),
    "plain pickle": legacy,
    "shard": shard,
    "safetensors": lambda folder, evil: (folder / f"{STEM}.safetensors").write_bytes(
        pickle.dumps(evil)
    ),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("command", ["info", "sample", "import"])
def test_a_malicious_pickle_in_a_pipeline_is_not_run(run, tmp_path, harm, command):
    ddim.save(tiny_model(), tmp_path / "m")
    (tmp_path / f"m/unet/{STEM}.safetensors").unlink()
    HARM[harm](tmp_path / "m/unet", Evil(tmp_path / "mark"))
    code, out, err = run(command, "m", *(["n"] if command == "import" else []))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "safetensors" in err if harm == "safetensors" else "nothing was run" in err
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("place", range(5))
def test_a_malicious_checkpoint_is_not_run(run, tmp_path, place):
    shutil.copytree(PAPER, tmp_path / "p")
    content = torch.load(PAPER / "ckpt.pth", weights_only=True)
    content[place] = Evil(tmp_path / "mark")
    torch.save(content, tmp_path / "p/ckpt.pth")
    code, _, err = run("import", "p", "q")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "asks to run posix.system" in err
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch mark']",
        "!!python/object/new:os.system ['touch mark']",
        "data: &a [*a, *a]",
        "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]",
        "[" * 10000,
        "a: !!int ''",
        "a: !!timestamp x",
        "\x00",
        "- 1",
        "",
        "a: " + "9" * 2_000_000,
    ],
    ids=lambda text: text[:12],
)
def test_yaml_is_data(run, tmp_path, text):
    shutil.copytree(PAPER, tmp_path / "p")
    (tmp_path / "p/config.yml").write_text(text)
    code, _, err = run("info", "p")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "config.yml" in err
    assert ("alias" in err) == ("&a" in text)
    assert not (tmp_path / "mark").exists()


def test_a_checkpoint_that_unfolds_is_refused(run, tmp_path):
    shutil.copytree(PAPER, tmp_path / "p")
    path = tmp_path / "p/ckpt.pth"
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "z", "w") as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry), zipfile.ZIP_DEFLATED)
    (tmp_path / "z").replace(path)
    code, _, err = run("info", "p")
    assert (code, "it is compressed" in err) == (2, True)


def test_a_network_too_large_for_its_file_is_never_made(run, tmp_path):
    UNet2DModel(**TINY).save_pretrained(tmp_path / "m/unet")
    DDIMScheduler().save_pretrained(tmp_path / "m/scheduler")
    path, before = tmp_path / "m/unet/config.json", peak()
    config = json.loads(path.read_text())
    for change in (
        {"block_out_channels": [65536, 65536]},
        {"block_out_channels": [65536] * 2, "resnet_time_scale_shift": "scale_shift"},
        {"layers_per_block": 3000, "resnet_time_scale_shift": "scale_shift"},
        {"num_class_embeds": 60000, "time_embedding_dim": 60000},
        {"norm_num_groups": 0, "act_fn": "gelu"},
    ):
        path.write_text(json.dumps({**config, **change}))
        code, _, err = run("info", "m")
        assert code == 2
        assert "Traceback" not in err
    assert peak() - before < 1e9


def peak():
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# A thousand damaged files


def truncated(content, rng):
    return content[: rng.randrange(len(content))]


def flipped(content, rng):
    """Bits of the part that is structure: of a safetensors file its header."""
    head = 8 + struct.unpack("<Q", content[:8])[0] if content[8:9] == b"{" else len(content)
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(head)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def huge_header(content, rng):
    return struct.pack("<Q", rng.choice((2**63, 2**40, 2**31, 99_999_999))) + content[8:]


def wrong_value(content, rng):
    """One value of a document, however deep, replaced by one of another kind."""
    if content[8:9] == b"{":
        size = struct.unpack("<Q", content[:8])[0]
        header = wrong_value(content[8 : 8 + size], rng)
        return struct.pack("<Q", len(header)) + header + content[8 + size :]
    document = json.loads(content)
    place, key = document, rng.choice(list(document))
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    place[key] = rng.choice(
        [None, True, -1, 0, 1e308, 10**30, "x" * 1000, [], {}, [[[1]]], "nan", {"a": [1]}]
    )
    return json.dumps(document).encode()


def wrong_shape(content, rng):
    state = safetensors.torch.load(content)
    name = rng.choice(sorted(state))
    change = rng.randrange(4)
    if change == 0:
        state[name] = state[name][None]
    elif change == 1:
        state[name] = torch.zeros(0)
    elif change == 2:
        del state[name]
    else:
        state[name + "x"] = torch.zeros(3)
    return safetensors.torch.save(state)


DAMAGE = {
    ".safetensors": (truncated, flipped, huge_header, wrong_value, wrong_shape),
    ".json": (truncated, flipped, wrong_value),
    ".yml": (truncated, flipped),
}
CERTAIN = (huge_header, wrong_shape)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Ours, one of diffusers, a sharded one, and the paper's."""
    root = tmp_path_factory.mktemp("whole")
    ddim.save(tiny_model("v"), root / "ours")
    flow = ddim.Model(tiny_model().net, ddim.schedules.rectified_flow(20), "flow", (1, 8, 8))
    ddim.save(flow, root / "plain")
    for name, options in (("theirs", {}), ("shards", {"max_shard_size": "20KB"})):
        UNet2DModel(**TINY).save_pretrained(root / name / "unet", **options)
        DDIMScheduler().save_pretrained(root / name / "scheduler")
    shutil.copytree(PAPER, root / "paper")
    return root


def files(root):
    return sorted(path for path in root.rglob("*") if path.suffix in DAMAGE)


@pytest.mark.parametrize("damages", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_damaged_file_is_a_sentence(folders, run, damages):
    """Or opens, where the damage left a whole file: a space, a rate, one name for another.

    In one process, by the command: status 2, one line, under a second of work and 1 GB.
    """
    rng, before, refused, longest = random.Random(7), peak(), 0, 0.0
    places = files(folders)
    for count in range(damages):
        path = places[count % len(places)]
        damage = rng.choice(DAMAGE[path.suffix])
        whole = path.read_bytes()
        path.write_bytes(damage(whole, rng))
        try:
            (code, out, err), spent = timed(run, "info", root_of(path, folders))
            longest = max(longest, spent)
        finally:
            path.write_bytes(whole)
        told = f"{path.name}, {damage.__name__}, {count}: {err}"
        assert code in (0, 2), told
        assert code == 2 or damage not in CERTAIN, told
        if code == 2:
            refused += 1
            assert out == "", told
            assert len(err.splitlines()) == 1, told
            assert err.startswith("ddim: "), told
            assert len(err) < 1200, told
    assert refused > 0.7 * damages
    assert longest < 1
    assert peak() - before < 1e9


def timed(run, *words):
    """What the command answers, and its work: where over a second, the least of three runs, for
    a file that is slow to refuse is slow every time, and a busy machine is not."""
    spent = []
    while not spent or (min(spent) > 1 and len(spent) < 3):
        begin = time.process_time()
        answer = run(*words)
        spent.append(time.process_time() - begin)
    return answer, min(spent)


def root_of(path: Path, folders: Path) -> Path:
    return folders / path.relative_to(folders).parts[0]

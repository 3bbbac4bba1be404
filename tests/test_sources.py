import gzip
import io
import os
import shutil
import stat
import struct
import sys
import tarfile
import warnings
import zipfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import ddim
from ddim.data import Images
from ddim.reading import parse_size, read

datasets.disable_progress_bars()


def drawn(seed, shape=(6, 5)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {
    "dog/2.png": drawn(1),
    "cat/b/3.png": drawn(2),
    "cat/10.png": drawn(3),
    "cat-like/1.png": drawn(4),
}
ORDER = ("cat/10.png", "cat/b/3.png", "cat-like/1.png", "dog/2.png")


def spread(folder, pictures=PICTURES):
    """Write pictures or bytes into a folder."""
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = picture if isinstance(picture, bytes) else encoded(picture)
        (folder / name).write_bytes(content)
    return folder


def zipped(path, members):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of members of one name
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(path, members):
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


ARCHIVES = {"a.zip": zipped, "a.tar": tarred, "a.tar.gz": tarred, "a.tgz": tarred}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def same(a, b):
    return (
        torch.equal(a.pixels, b.pixels)
        and (a.labels is b.labels is None or torch.equal(a.labels, b.labels))
        and (a.names, a.skipped, a.fingerprint) == (b.names, b.skipped, b.fingerprint)
    )


def test_sub_folders_are_classes_where_every_picture_is_in_one(tmp_path):
    images = read(spread(tmp_path))
    assert np.array_equal(images.pixels[:, 0], np.stack([PICTURES[name] for name in ORDER]))
    assert images.labels.tolist() == [0, 0, 1, 2]
    assert images.names == ("cat", "cat-like", "dog")
    spread(tmp_path / "one", {"only/1.png": drawn(1), "only/2.png": drawn(2)})
    for none in (tmp_path / "cat", tmp_path / "one"):
        assert (read(none).labels, read(none).names) == (None, ())
    shutil.rmtree(tmp_path / "one")
    spread(tmp_path, {"z.png": drawn(9)})
    assert read(tmp_path).labels is None
    assert len(read(tmp_path)) == 5


@pytest.mark.parametrize("prefix", ["", "./", "pets/", "some/where/"])
@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_reads_as_its_folder(tmp_path, name, prefix):
    members = [(prefix + key, encoded(PICTURES[key])) for key in PICTURES]
    path = ARCHIVES[name](tmp_path / name, [*members, (f"{prefix}notes.txt", b"x")])
    assert same(read(path), read(spread(tmp_path / "folder")))


@pytest.mark.parametrize("name", ARCHIVES)
def test_of_two_members_of_one_name_the_later_counts(tmp_path, name):
    old, new, other = (encoded(drawn(seed)) for seed in range(3))
    path = ARCHIVES[name](tmp_path / name, [("a.png", old), ("b.png", other), ("a.png", new)])
    assert np.array_equal(read(path).pixels[:, 0], np.stack([drawn(1), drawn(2)]))


def links():
    """Tar members that are no files, under the names of pictures."""
    for k, kind in enumerate(
        (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    ):
        info = tarfile.TarInfo(f"z{k}.png")
        info.type, info.linkname = kind, "/etc/hostname"
        yield info


OUTSIDE = ("../up.png", "/root.png", "a/../../over.png")


def test_a_tar_writes_nothing_and_follows_no_link(tmp_path):
    place = tmp_path / "in" / "a.tar"
    place.parent.mkdir()
    tarred(place, [(name, encoded(drawn(0))) for name in ("good.png", *OUTSIDE)])
    with tarfile.open(place, "a") as archive:
        for info in links():
            archive.addfile(info)
    images = read(place, skip_bad=True)
    assert len(images) == 1
    assert [s.partition(": ")[2] for s in images.skipped] == [
        "its name leads out of the archive"
    ] * 3
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [place]
    with pytest.raises(ValueError, match=r"^3 of 4 images .*leads out .*--skip-bad"):
        read(place)


def test_a_zip_writes_nothing_and_follows_no_link(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    place = tmp_path / "in" / "a.zip"
    place.parent.mkdir()
    names = ("good.png", *OUTSIDE, "..\\back.png", "__MACOSX/._good.png", "folder.png/")
    zipped(place, [*((name, encoded(drawn(0))) for name in names), (link, "/etc/hostname")])
    images = read(place, skip_bad=True)
    assert len(images) == 1
    assert [s.partition(": ")[2] for s in images.skipped] == [
        "its name leads out of the archive"
    ] * 4
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [place]


def sparse(size):
    """A tar of a picture of one block whose header tells of another size."""
    info = tarfile.TarInfo("big.png")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def flagged(path, offset, value):
    """A zip in whose central directory a field of the first member is another."""
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\1\2") + offset
    content[place : place + len(value)] = value
    path.write_bytes(content)
    return path


def big(p, good):
    zipped(p / "a.zip", [("good.png", good), ("big.png", good)])
    return flagged(p / "a.zip", 24, struct.pack("<I", 2**32 - 2))


def locked(p, good):
    zipped(p / "a.zip", [("good.png", good), ("big.png", good)])
    return flagged(p / "a.zip", 8, b"\1")


def wrong_sum(p, good):
    path = zipped(p / "a.zip", [("good.png", good), ("big.png", b"one" + good)])
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (big, "header tells of 4,294,967,294 bytes, and 134,217,728 is the most"),
        (locked, "encrypted"),
        (wrong_sum, "Bad CRC-32"),
    ],
)
def test_a_member_that_cannot_be_had_is_one_bad_picture(tmp_path, make, words):
    path = make(tmp_path, encoded(drawn(0)))
    images = read(path, skip_bad=True)
    assert len(images) == 1
    assert "big.png: " in images.skipped[0]
    assert words in images.skipped[0]


def torn(p):
    path = tarred(p / "a.tgz", [(f"{k}.png", encoded(drawn(k, (40, 40)))) for k in range(9)])
    path.write_bytes(path.read_bytes()[:-3000])
    return path


def damaged_inside(p):
    path = tarred(p / "a.tar", [(f"{k}.png", encoded(drawn(k))) for k in range(3)])
    content = bytearray(path.read_bytes())
    content[1024:1030] = b"broken"  # the second header, which tarfile takes for the end
    path.write_bytes(content)
    return path


def greedy(p):
    """A header of an extended kind that asks for a name of a terabyte."""
    info = tarfile.TarInfo("name")
    info.size, info.type = 1 << 40, tarfile.GNUTYPE_LONGNAME
    path = p / "a.tgz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    return path


def written(name, content):
    def make(p):
        (p / name).write_bytes(content)
        return p / name

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (torn, "cannot be read as an archive"),
        (damaged_inside, "torn or damaged: there is no end mark"),
        (greedy, "asks for 1,099,511,627,776 bytes, and 134,217,728 is the most"),
        (written("a.tar", sparse(1 << 40) + bytes(1024)), "or is torn"),
        (written("a.zip", b"PK"), "cannot be read as an archive"),
        (written("a.tar", b""), "cannot be read as an archive"),
        (written("a.tgz", b"no gzip"), "cannot be read as an archive"),
        (lambda p: zipped(p / "a.zip", [("a.txt", b"")]), "holds no images; it needs files ending"),
    ],
)
def test_an_archive_that_cannot_be_trusted_is_one_sentence(tmp_path, make, words):
    with pytest.raises(ValueError, match=words) as caught:
        read(make(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tar_that_unfolds_without_end_is_refused_before_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(ddim.sources, "_UNFOLDED", (1 << 20, 100))
    whole = tarred(tmp_path / "good.tgz", [("a.png", encoded(drawn(0)))])
    assert len(read(whole)) == 1
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(sparse(1 << 24) + bytes(1 << 24), 9))
    with pytest.raises(ValueError, match="unfolds to more than 1,6"):
        read(path)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("name", ["folder", *ARCHIVES])
def test_mapped_pixels_are_those_in_memory_and_decoded_once(tmp_path, name, colour):
    pictures = {**PICTURES, "dog/bad.png": b"bad"}
    if colour:
        pictures["dog/z.png"] = drawn(5, (6, 5, 3))
    source = spread(tmp_path / "folder", pictures)
    if name in ARCHIVES:
        contents = [(key, (source / key).read_bytes()) for key in pictures]
        source = ARCHIVES[name](tmp_path / name, contents)
    cache, ticks = tmp_path / "cache", []
    plain = read(source, skip_bad=True)
    for expected in (len(pictures), 0):
        ticks.clear()
        found = read(source, skip_bad=True, limit=50, cache=cache, tick=ticks.append)
        assert same(found, plain)
        assert sum(ticks) == expected
        assert sorted(path.suffix for path in cache.iterdir()) == [".bin", ".json"]
    assert found.skipped[0].startswith("dog/bad.png: it is no PNG")
    with pytest.raises(ValueError, match="1 of"):
        read(source, limit=50, cache=cache)
    assert sorted(path.suffix for path in cache.iterdir()) == [".bin", ".json"]


def test_what_is_kept_is_not_taken_for_other_data(tmp_path):
    source, cache = spread(tmp_path / "data"), tmp_path / "cache"

    def decoded(size=None):
        ticks = []
        images = read(source, size, limit=0, cache=cache, tick=ticks.append)
        assert same(images, read(source, size))
        return bool(ticks)

    assert decoded()
    assert not decoded()
    assert decoded((3, 4))
    spread(source, {"dog/2.png": drawn(7)})
    assert decoded()
    os.utime(source / "dog/2.png", ns=(1, 1))
    assert decoded()
    (source / "dog/2.png").rename(source / "cat/2.png")
    assert decoded()
    for file in cache.glob("*.bin"):
        file.write_bytes(file.read_bytes()[:-1])
    assert decoded()


def test_an_interrupted_start_leaves_nothing_behind(tmp_path):
    source, cache = spread(tmp_path / "data"), tmp_path / "cache"

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(source, limit=0, cache=cache, tick=stop)
    assert list(cache.iterdir()) == []


def test_too_full_a_disk_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: Free)
    with pytest.raises(OSError, match=r"take 120 bytes in .*--size, or set DDIM_CACHE"):
        read(spread(tmp_path / "data"), limit=0, cache=tmp_path / "cache")


class Free:
    free = 7


def test_all_bad_pictures_are_counted_and_left_out_on_demand(tmp_path):
    bad = {f"bad{k}.png": b"" for k in range(7)} | {"b\n\x1b[2Jd.png": b"x"}
    spread(tmp_path, {**bad, "good (1).png": drawn(1), "late.png": drawn(2)})
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"^9 of 11 images cannot be read: ") as caught:
        read(tmp_path)
    message = str(caught.value)
    assert message.isprintable()
    assert "b\\n\\x1b[2Jd.png (it is no PNG" in message
    assert message.endswith("…; mend them, or leave them out with --skip-bad (skip_bad=True)")
    images = read(tmp_path, skip_bad=True)
    assert np.array_equal(images.pixels[:, 0], np.stack([drawn(1), drawn(2)]))
    assert len(images.skipped) == 9
    assert images.skipped[-1] == "lost.png: No such file or directory"
    for good in ("good (1).png", "late.png"):
        (tmp_path / good).unlink()
    with pytest.raises(ValueError, match=r"^9 of 9 images cannot be read: .*; mend them$"):
        read(tmp_path, skip_bad=True)


def test_labels_keep_to_their_pictures_where_some_are_left_out(tmp_path):
    spread(tmp_path, {"a/1.png": b"", "b/1.png": drawn(1), "b/2.png": b"", "c/1.png": drawn(2)})
    images = read(tmp_path, skip_bad=True)
    assert images.labels.tolist() == [1, 2]
    assert images.names == ("a", "b", "c")


def test_many_pictures_come_in_order(tmp_path):
    spread(tmp_path, {f"{k:03}.png": drawn(k, (2 + k % 7, 3)) for k in range(100)})
    images = read(tmp_path, (2, 3))
    for k in (0, 7, 49, 98):  # these have that size already
        assert np.array_equal(images.pixels[k, 0], drawn(k, (2, 3)))


@pytest.mark.parametrize(
    ("text", "size"), [("64", 64), ("96x64", (64, 96)), ("96×64", (64, 96)), (" 1X2 ", (2, 1))]
)
def test_a_size_is_written_as_width_by_height(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "x", "64x", "6.4", "-8", "64x0", "1x2x3", "99999"])
def test_nonsense_is_no_size(text):
    with pytest.raises(ValueError, match="is no size; write a side such as 64, or WIDTHxHEIGHT"):
        parse_size(text)


@pytest.mark.parametrize("size", [0, (0, 4), (4, 99_999)])
def test_a_size_out_of_range_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="choose at least 1 pixel, and at most 16384"):
        read(spread(tmp_path), size)


def test_the_command_takes_a_size_of_two_sides(run, tmp_path):
    spread(tmp_path / "data")
    assert run("statistics", "data", "--size", "4x3", "--features", "pixels")[0] == 0
    with np.load(tmp_path / "statistics.npz") as found:
        assert found["mu"].shape == (12,)
    code, _, err = run("statistics", "data", "--size", "4by3")
    assert code == 2
    assert "'4by3' is no size; write a side" in err


# Data sets of Hugging Face

CLASSES = ["cat", "dog"]


def table(count=4, bad=()):
    pictures = [
        {"bytes": b"bad" if k in bad else encoded(drawn(k)), "path": None} for k in range(count)
    ]
    columns = {
        "text": ["x"] * count,
        "picture": pictures,
        "kind": [k % 2 for k in range(count)],
    }
    features = {
        "text": datasets.Value("string"),
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=CLASSES),
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def save(p):
    table().save_to_disk(p)


def save_splits(p):
    datasets.DatasetDict({"test": table(2), "train": table()}).save_to_disk(p)


def save_parquet(p):
    (p / "data").mkdir(parents=True)
    table().select(range(3)).to_parquet(p / "data/train-0.parquet")
    table().select([3]).to_parquet(p / "data/train-1.parquet")
    table(2).to_parquet(p / "data/test-0.parquet")


@pytest.mark.parametrize("write", [save, save_splits, save_parquet])
def test_a_data_set_reads_as_its_pictures(tmp_path, write):
    write(tmp_path / "set")
    expected = Images(
        torch.from_numpy(np.stack([drawn(k) for k in range(4)])[:, None]),
        torch.tensor([0, 1, 0, 1]),
        ("cat", "dog"),
    )
    assert same(read(tmp_path / "set"), expected)
    ticks = []
    for _ in range(2):
        mapped = read(tmp_path / "set", limit=0, cache=tmp_path / "kept", tick=ticks.append)
        assert same(mapped, expected)
    assert len(ticks) == 4


def test_parquet_of_another_program_has_bytes_and_perhaps_bare_labels(tmp_path):
    cells = [{"bytes": encoded(drawn(k)), "path": f"{k}.png"} for k in range(3)]
    plain = datasets.Dataset.from_dict({"pixels": cells, "label": [5, 0, 5]})
    (tmp_path / "a").mkdir()
    plain.to_parquet(tmp_path / "a/0.parquet")
    images = read(tmp_path / "a")
    assert np.array_equal(images.pixels[:, 0], np.stack([drawn(k) for k in range(3)]))
    assert images.labels.tolist() == [5, 0, 5]
    assert images.names == ()


def test_bad_rows_and_labels_that_lack_are_named_or_left_out(tmp_path):
    table(4, bad=[2]).save_to_disk(tmp_path / "a")
    with pytest.raises(ValueError, match=r"^1 of 4 images cannot be read: row 2 \("):
        read(tmp_path / "a")
    assert read(tmp_path / "a", skip_bad=True).labels.tolist() == [0, 1, 1]
    unknown = table().remove_columns("kind").add_column("label", [0, 1, None, 1])
    unknown.save_to_disk(tmp_path / "b")
    assert read(tmp_path / "b").labels is None


def without_pictures(p):
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).save_to_disk(p)


def other_splits(p):
    datasets.DatasetDict({"one": table(1), "two": table(1)}).save_to_disk(p)


def broken(p):
    save(p)
    (p / "state.json").write_text("{")


def broken_parquet(p):
    p.mkdir()
    (p / "a.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (without_pictures, "has 1 rows of a, b; it needs a column of images"),
        (other_splits, "has the splits one, two; save one of them alone"),
        (broken, "cannot be read as a data set"),
        (broken_parquet, "cannot be read as a data set"),
    ],
)
def test_a_data_set_that_does_not_fit_says_why(tmp_path, write, words):
    write(tmp_path / "set")
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_the_hub_is_named_in_full_and_left_alone_offline():
    with pytest.raises(ValueError, match="is not in the local cache, and HF_HUB_OFFLINE is set"):
        read("hf:nobody/nothing@main")
    with pytest.raises(ValueError, match="is no data set of the hub; write hf:owner/name"):
        read("hf:nothing")


def test_without_the_library_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    save(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (tmp_path / "set", "hf:owner/name"):
        with pytest.raises(ImportError, match=r'needs datasets; .*pip install -e "\.\[hf\]"'):
            read(source)


def test_pictures_need_no_such_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(ddim.read(spread(tmp_path))) == 4

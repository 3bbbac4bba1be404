import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from ddim.data import Arrays, Images
from ddim.items import Items, examples

PIXELS = (
    torch.arange(40 * 12, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(40, 1, 3, 4)
)
LABELS = torch.arange(40) % 3


class Named(Dataset):
    """Items of the given pairs, as those of torchvision have their labels and classes."""

    def __init__(self, values, labels, wrap=lambda value, label: (value, label), **known):
        self.values, self.labels, self.wrap, self.asked = values, labels, wrap, 0
        self.__dict__.update(known)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, k):
        self.asked += 1
        return self.wrap(self.values[k], self.labels[k])


class Augmented(Named):
    """Noise of every generator that people use is added."""

    def __getitem__(self, k):
        value, label = super().__getitem__(k)
        return value.float() + torch.randn(()) + np.random.randn() + random.random(), label


WRAPS = {
    "pair": lambda value, label: (value, int(label)),
    "list": lambda value, label: [value, label],
    "image": lambda value, label: {"image": value, "label": np.int64(label)},
    "pixel_values": lambda value, label: {"label": label, "pixel_values": value},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_items_are_the_images_that_they_hold(wrap):
    images, items = Images(PIXELS, LABELS), Items(Named(PIXELS, LABELS, WRAPS[wrap]))
    chosen = torch.tensor([7, 0, 39, 7])
    assert torch.equal(items.batch(chosen), images.batch(chosen))
    assert images.batch(chosen).sub(PIXELS[chosen].double() / 127.5 - 1).abs().max() < 1e-7
    assert torch.equal(items.labels, images.labels)
    assert (len(items), items.shape, items.names) == (40, (1, 3, 4), ())


def test_labels_are_the_targets_where_there_are_some():
    dataset = Named(PIXELS, LABELS, targets=LABELS.tolist(), classes=["a", "b", "c"])
    items = Items(dataset)
    assert torch.equal(items.labels, LABELS)
    assert items.names == ("a", "b", "c")
    assert dataset.asked < 5
    part = Items(Subset(dataset, [5, 1, 3]))
    assert part.labels.tolist() == [2, 1, 0]
    assert part.names == ()
    alone = Items(Named(PIXELS, LABELS, lambda value, _: value, classes=["a"]))
    assert (alone.labels, alone.names) == (None, ())


def test_floats_stay_as_they_are_and_so_do_vectors():
    values = torch.linspace(-3, 3, 24, dtype=torch.float64).reshape(8, 3)
    items = Items(TensorDataset(values))
    assert torch.equal(items.batch(torch.tensor([2, 1])), values[[2, 1]].float())
    assert items.labels is None


def test_augmentation_draws_anew_and_leaves_the_fingerprint_and_the_generators_alone():
    dataset = Augmented(PIXELS, LABELS)
    one = torch.tensor([3])
    items = Items(dataset)
    assert not torch.equal(items.batch(one), items.batch(one))
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    first = Items(dataset).fingerprint
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (str(np.random.get_state()), random.getstate()) == states[1:]
    items.batch(one)
    assert Items(dataset).fingerprint == first
    changed = PIXELS.clone()
    changed[39, 0, 0, 0] ^= 1
    assert Items(Augmented(changed, LABELS)).fingerprint != first
    assert Items(Augmented(PIXELS[:39], LABELS)).fingerprint != first


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("text", "item 0 is a str with a str for its example; give a tensor"),
        (torch.zeros(3, dtype=torch.int64), "with a torch.int64 for its example"),
        ({"picture": torch.zeros(3)}, "item 0 is a dict with a NoneType"),
        (torch.tensor(1.0), r"item 0 is \(\); give tensors of rank 1"),
    ],
)
def test_an_item_of_another_kind_is_refused_when_the_data_set_is_given(item, words):
    with pytest.raises(ValueError, match=words):
        Items([item])


def test_an_item_that_differs_is_named_when_it_is_met():
    with pytest.raises(ValueError, match=r"item 1 is \(3,\) and item 0 \(2,\)"):
        Items([torch.zeros(2), torch.zeros(3)]).batch(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="item 1 holds a nan"):
        Items([torch.zeros(2), torch.full((2,), torch.nan)]).batch(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"the label of item 1 is 0\.5; give a whole number"):
        _ = Items([(torch.zeros(2), 1), (torch.zeros(2), 0.5)]).labels
    with pytest.raises(ValueError, match="is empty"):
        Items([])


def test_arrays_are_their_values():
    values = torch.linspace(-2, 2, 60).reshape(5, 4, 3)
    data = Arrays(values, torch.tensor([0, 1, 0, 1, 1]), ("low", "high"))
    chosen = torch.tensor([4, 4, 0])
    assert torch.equal(data.batch(chosen), values[chosen])
    assert (len(data), data.shape) == (5, (4, 3))
    assert data.fingerprint == Arrays(values.clone()).fingerprint
    assert data.fingerprint != Arrays(values.reshape(5, 3, 4)).fingerprint
    assert data.fingerprint != Arrays(values + 1).fingerprint


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Arrays(torch.zeros(5)), "of rank 2 or more"),
        (lambda: Arrays(torch.zeros(5, 2).double()), "give float32"),
        (lambda: Arrays(torch.zeros(0, 2)), "N at least 1"),
        (lambda: Arrays(torch.eye(2000).log()[:, :3]), "example 0 holds a nan or an infinity"),
        (
            lambda: Arrays((torch.arange(2000.0) / (torch.arange(2000) != 1500))[:, None]),
            "example 1500",
        ),
        (lambda: Images(PIXELS, LABELS[:3]), r"\(3,\) labels for 40 images"),
        (lambda: Images(PIXELS, LABELS.int()), "labels are torch.int32; give int64"),
        (lambda: Images(PIXELS, LABELS, ("a", "b")), r"0\.\.2 and 2 have names"),
        (lambda: Images(PIXELS, LABELS - 1, ("a", "b", "c")), r"-1\.\.1 and 3 have names"),
        (lambda: Images(PIXELS, None, ("a",)), "1 names of classes and no labels"),
        (lambda: examples([1, 2][0]), "a int is no data; give a tensor"),
        (lambda: examples(np.array(["a"])), "an array of <U1 is no data"),
        (lambda: examples(PIXELS.long()), "give uint8"),
    ],
)
def test_what_does_not_fit_says_why(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_anything_to_train_on_becomes_examples():
    images = Images(PIXELS)
    assert examples(images) is images
    assert examples(PIXELS).fingerprint == images.fingerprint
    assert examples(PIXELS.numpy()).fingerprint == images.fingerprint
    values = np.linspace(0, 1, 6).reshape(3, 2)
    assert torch.equal(examples(values).values, torch.from_numpy(values).float())
    assert isinstance(examples(TensorDataset(PIXELS)), Items)
    items = Items(TensorDataset(PIXELS))
    assert examples(items) is items

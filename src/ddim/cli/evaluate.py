"""ddim evaluate: how good samples are, at how many calls."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddim.cli.console import (
    device as find_device,
    fitting,
    for_images,
    progress,
    run_by,
    writable,
)
from ddim.cli.options import Backend, BatchSize, Cache, Clip, Device, Folder, Json, Precision, Size
from ddim.cli.spread import Address, OverRay, spread
from ddim.cli.telling import document as as_document

if TYPE_CHECKING:
    import torch

    from ddim.cells import Setting
    from ddim.data import Images
    from ddim.model import Model
    from ddim.recipes import Recipe
    from ddim.references import Published, Reference, Statistics

_FEW = "5,10,20,50,100"
_PAPER = "10,20,50,100,1000"
_TABLE_1 = "ddim:eta=0;ddim:eta=0.2;ddim:eta=0.5;ddim:eta=1;ddim:eta=1,added=hat"
_TABLE_2 = (10, 20, 50, 100, 200, 500, 1000)
_SAID = {
    None: ("quality", "consistency", "seconds", "reconstruction"),
    4: ("seconds",),
    5: ("consistency",),
}
_USUAL = "ddim:eta=0;ddim:eta=0.5;ddim:eta=1;unipc"
Data = Annotated[
    str,
    typer.Argument(
        help="Real images: a folder, an .npz, or the word digits; or an .npz with mu and sigma."
    ),
]


def evaluate(
    model: Folder,
    data: Data,
    out: Annotated[
        Path, typer.Option("-o", "--out", "--output", help="The folder of the report.")
    ] = Path("report"),
    calls: Annotated[
        str | None, typer.Option(help=f"Network calls per image, usually {_FEW}.")
    ] = None,
    solvers: Annotated[
        str | None,
        typer.Option(
            help='Separated by ";", each perhaps with calls of its own after an "@", such as '
            '"ddim:eta=0;unipc:order=3@5,10"; tuned is what ddim tune fitted.'
        ),
    ] = None,
    spacings: Annotated[
        str | None, typer.Option(help="Separated by commas; usually trailing.")
    ] = None,
    num: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--num",
            min=1,
            help="Images per setting; usually 2000, or half of the data if that is less.",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Feature spaces, the verdict's first: pixels, pca, cnn, inception, or the path of "
            "a .pt2, an .onnx or a transformers folder. Usually cnn,pca if the data has labels, "
            "else pca."
        ),
    ] = None,
    fine: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of the run of DDIM to compare with; usually T."),
    ] = None,
    table: Annotated[
        int | None,
        typer.Option(min=1, max=2, help="The paper's table: 1 is η × S, 2 reconstruction × S."),
    ] = None,
    figure: Annotated[
        int | None,
        typer.Option(
            min=4, max=5, help="The paper's figure: 4 is time against S, 5 the same x_T, other S."
        ),
    ] = None,
    reconstruct: Annotated[
        int | None,
        typer.Option(min=0, help="Real images to encode and decode, usually 64; 0 for none."),
    ] = None,
    first_seed: Annotated[
        int,
        typer.Option(
            "--seed", "--first-seed", min=0, help="That of image 0; image i has SEED + i."
        ),
    ] = 0,
    guidance: Annotated[
        float, typer.Option(help="Scale of guidance towards each image's label; 1 is none.")
    ] = 1.0,
    clip: Clip = None,
    batch_size: BatchSize = 64,
    size: Size = None,
    cache: Cache = None,
    precision: Precision = None,
    backend: Backend = None,
    over_ray: OverRay = False,
    ray_address: Address = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Sample at many settings and measure: tables, a report, and how many calls are enough.

    Interrupt it and start it again: what is done is kept in the output folder.
    """
    import ddim
    from ddim.cells import Subject
    from ddim.evaluation import Sweep, evaluate as measure, facts
    from ddim.extras import needed
    from ddim.files import cache_folder
    from ddim.references import halves
    from ddim.report import write_report

    begin = time.monotonic()
    text, budgets, laid = _asked(table, figure, solvers, calls, spacings)
    writable(out)
    needed("matplotlib", "eval", "the report's charts")
    opened = ddim.load(model, find_device(device))
    for_images(opened)
    if guidance != 1 and opened.classes is None:
        raise ValueError("--guidance needs a model with classes; leave it out")
    real = _real(data, size, opened)
    images = real if isinstance(real, ddim.Images) else None
    if table == 2 and images is None:
        raise ValueError(f"{data} holds statistics alone; --table 2 needs images")
    if table == 2:
        settings: tuple[Setting, ...] = ()
        spans = tuple(steps for steps in _TABLE_2 if steps <= opened.schedule.T)
        count = back = num or (64 if images is None else min(64, len(images)))
    else:
        settings = _settings(
            opened, text, budgets, laid, fine, lambda n: ddim.find_recipe(model, n, guidance, clip)
        )
        count = num or (2000 if images is None else min(2000, max(1, len(images) // 2)))
        back = 0 if images is None else min(64, len(images)) if reconstruct is None else reconstruct
        spans = tuple(sorted({s.steps for s in settings if back and s.steps <= 100}))
    places = halves(images, count)[0] if images is not None and settings else None
    subject = Subject(
        run_by(opened, precision, backend, min(batch_size, count)),
        count,
        first_seed,
        _labels(opened, images, places) if settings else None,
        guidance,
        clip,
        batch_size,
    )
    sweep = Sweep(subject, settings, (), images, out, back, spans)
    with progress() as bar, ExitStack() as ended:
        if settings:
            first = bar.add_task("real images", total=None)
            against = _references(features, real, count, opened, cache or cache_folder())
            sweep = replace(sweep, references=against)
            bar.remove_task(first)
        if settings and (over_ray or ray_address):
            by_ray = closing(spread(model, sweep, ray_address))
            sweep = replace(sweep, spread=ended.enter_context(by_ray))
        task = bar.add_task("evaluating", total=sweep.total)

        def tick(count: int) -> None:
            bar.advance(task, count)

        document = {**facts(opened, data, real), **measure(sweep, tick)}
    document["model"]["name"] = str(model)
    document["command"] = shlex.join(["ddim", *sys.argv[1:]])
    document["wall_seconds"] = time.monotonic() - begin
    write_report(document, sweep, figure)
    _tell(document, _SAID[figure], out, as_json=as_json)


def _tell(document: dict[str, Any], names: tuple[str, ...], out: Path, *, as_json: bool) -> None:
    from ddim.tables import tables

    if as_json:
        as_document(document)
        return
    for each in tables(document):
        if each.name.partition("-")[0] in names:
            print(each.text, end="\n\n")
    if document["verdict"] is not None:
        print(document["verdict"]["text"])
    for warning in document["warnings"]:
        print(f"ddim: {warning}", file=sys.stderr)
    print(f"{out / 'report.html'}: {document['wall_seconds']:.0f} s", file=sys.stderr)


def _real(data: str, size: int | None, model: Model) -> Images | Statistics:
    import ddim
    from ddim.references import read_statistics

    found = read_statistics(Path(data))
    return fitting(ddim.read(data, size), model, data) if found is None else found


def _asked(
    table: int | None,
    figure: int | None,
    solvers: str | None,
    calls: str | None,
    spacings: str | None,
) -> tuple[str, str, str]:
    """Solvers, calls and spacings: the user's, else the paper's, else the usual ones."""
    paper = table is not None or figure is not None
    if paper and (calls is not None or solvers is not None or (table and figure)):
        raise ValueError(
            "--table and --figure choose the solvers and calls; give one of them, and leave "
            "--solvers and --calls out"
        )
    usual = (_USUAL, _FEW, "trailing")
    if paper:
        usual = ("ddim:eta=0" if figure else _TABLE_1, _PAPER, "leading")
    given = (solvers, calls, spacings)
    text, budgets, laid = (
        default if own is None else own for default, own in zip(usual, given, strict=True)
    )
    return text, budgets, laid


def _settings(
    model: Model,
    solvers: str,
    calls: str,
    spacings: str,
    fine: int | None,
    recipe: Callable[[int], Recipe],
) -> tuple[Setting, ...]:
    """The fine run and then the sweep's settings, each once."""
    from ddim.cells import Setting, numbers, parsed

    laid = [word.strip() for word in spacings.split(",")]
    whole = Setting("ddim:eta=0", laid[0], model.schedule.T if fine is None else fine)
    whole.made(model)
    return tuple(dict.fromkeys((whole, *parsed(model, solvers, numbers(calls), laid, recipe))))


def _labels(
    model: Model, images: Images | None, places: torch.Tensor | None
) -> tuple[int, ...] | None:
    """Those of the real images that samples are compared with, for a model of classes."""
    from ddim.evaluation import checked_labels

    return None if model.classes is None else checked_labels(model, images, places)


def _references(
    features: str | None, real: Images | Statistics, num: int, model: Model, cache: Path
) -> tuple[Reference | Published, ...]:
    import torch

    import ddim
    from ddim.features import extractors
    from ddim.references import published, reference

    if isinstance(real, ddim.Images):
        specs = features or ("pca" if real.labels is None else "cnn,pca")
        return tuple(reference(real, num, space, cache) for space in extractors(specs, real, cache))
    specs = features or real.name
    fitted = {"pca", "cnn"} & {spec.strip().partition(":")[0] for spec in specs.split(",")}
    if not specs or fitted:
        what = " and ".join(sorted(fitted))
        raise ValueError(
            (f"{what} is fitted to images" if what else "the statistics do not name their features")
            + "; name their space with --features (pixels, inception, or a path), or give the "
            "images themselves"
        )
    blank = ddim.Images(torch.zeros(2, *model.shape, dtype=torch.uint8))
    return tuple(published(real, space) for space in extractors(specs, blank, cache))

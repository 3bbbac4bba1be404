"""ddim statistics and compare: what other programs measure against, and two evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddim.cli.console import file_output
from ddim.cli.options import Cache, Json, Size
from ddim.cli.telling import document, told


def statistics(
    data: Annotated[str, typer.Argument(help="Images: a folder, an .npz, or the word digits.")],
    output: Annotated[Path, typer.Option("-o", "--out", "--output", help="The .npz.")] = Path(
        "statistics.npz"
    ),
    features: Annotated[
        str, typer.Option(help="One feature space, as in ddim evaluate.")
    ] = "pixels",
    size: Size = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Write mu and sigma of images in a feature space, as programs that measure FID read them."""
    import ddim
    from ddim.features import extractor
    from ddim.files import cache_folder
    from ddim.references import statistics_of, write_statistics

    file_output(output, ".npz")
    images = ddim.read(data, size)
    found = statistics_of(images, extractor(features, images, cache or cache_folder()))
    write_statistics(found, output)
    told(
        f"{output}: mu and sigma of {found.count} images in {found.name}",
        {"out": output, "images": found.count, "features": found.name},
        as_json=as_json,
    )


def compare(
    a: Annotated[Path, typer.Argument(help="A results.json, or the folder of a report.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    as_json: Json = False,
) -> None:
    """The same settings in two evaluations: B − A, with its interval."""
    from ddim import comparison

    rows = comparison.compare(comparison.read_results(a), comparison.read_results(b))
    if as_json:
        document(rows)
    else:
        print(comparison.listed(rows).text)

"""Draw the Mandelbrot set in tiles on four engines, and write it as a picture.

Tiles at the set's border take far longer than others: a load-balanced view gives each to
whichever engine is free, and they are put into the picture as they come.

    python examples/image_tiles.py mandelbrot.pgm
    python examples/image_tiles.py --width 1920 --tile 64 big.pgm

Needs numpy.  The picture is a portable graymap, which image programs read.
Exit codes: 0 equal to one computed here, 1 not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import ipclusterz as ipp

LEFT, RIGHT, BOTTOM, TOP = -2.2, 0.8, -1.2, 1.2


def tile(x: int, y: int, size: int, width: int, height: int, depth: int) -> Any:
    """Return how soon each pixel of a tile escapes: an array of bytes, rows first."""
    import numpy

    columns = numpy.arange(x, min(x + size, width))
    rows = numpy.arange(y, min(y + size, height))
    real = LEFT + (RIGHT - LEFT) * columns / width
    imaginary = TOP - (TOP - BOTTOM) * rows / height
    c = real[None, :] + 1j * imaginary[:, None]
    z = numpy.zeros_like(c)
    steps = numpy.zeros(c.shape, dtype=numpy.uint16)
    inside = numpy.ones(c.shape, dtype=bool)
    for _ in range(depth):
        z[inside] = z[inside] ** 2 + c[inside]
        inside &= numpy.abs(z) <= 2
        if not inside.any():
            break
        steps[inside] += 1
    return (255 - steps * 255 // depth).astype(numpy.uint8)


def draw(view: ipp.LoadBalancedView, width: int, height: int, size: int, depth: int) -> Any:
    """Draw the picture tile by tile."""
    import numpy

    picture = numpy.zeros((height, width), dtype=numpy.uint8)
    places = [(x, y) for y in range(0, height, size) for x in range(0, width, size)]

    def drawn(place: tuple[int, int]) -> tuple[tuple[int, int], Any]:
        return place, tile(*place, size, width, height, depth)

    for (x, y), part in view.map_async(drawn, places, ordered=False):
        picture[y : y + part.shape[0], x : x + part.shape[1]] = part
    return picture


def main(arguments: list[str] | None = None) -> int:
    """Draw, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", default="mandelbrot.pgm")
    parser.add_argument("-n", type=int, default=4, help="engines (default: 4)")
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--tile", type=int, default=48)
    parser.add_argument("--depth", type=int, default=200, help="iterations at most")
    options = parser.parse_args(arguments)
    width, height = options.width, options.width * 4 // 5
    with ipp.Cluster(n=options.n) as rc:
        view = rc.load_balanced_view(label="tiles")
        picture = draw(view, width, height, options.tile, options.depth)
    header = f"P5 {width} {height} 255\n".encode("ascii")
    Path(options.file).write_bytes(header + picture.tobytes())
    here = tile(0, 0, max(width, height), width, height, options.depth)
    same = bool((picture == here).all())
    print(f"{options.file}: {width} x {height}; {'equal to' if same else 'NOT'} one made here")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

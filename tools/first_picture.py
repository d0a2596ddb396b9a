"""The picture at the top of the README and of the site, by the README's own lines:
`python tools/first_picture.py`"""
import contextlib
import re
import tempfile
from pathlib import Path

from PIL import Image

root = Path(__file__).resolve().parents[1]
HOME = root/'docs'/'_static'/'first.webp'
GAP = 16   # between the grids

def lines() -> str:
    "The first lines of Python in the README"
    return re.search(r'^```py\n(.*?)^```', (root/'README.md').read_text('utf-8'), re.M|re.S)[1]

def side_by_side(grids: list[Image.Image]) -> Image.Image:
    width = sum(grid.width+GAP for grid in grids)-GAP
    whole = Image.new('RGBA', (width, max(grid.height for grid in grids)))
    x = 0
    for grid in grids:
        whole.paste(grid, (x, 0))
        x += grid.width+GAP
    return whole

def picture() -> Image.Image:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(lines(), {})
        return side_by_side([Image.open(name) for name in ('faces.png', 'things.png')])

if __name__=='__main__': picture().save(HOME, quality=90, method=6)

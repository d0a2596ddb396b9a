"""The picture at the top of the README and of the site, from weights that come with the
package: `python tools/first_picture.py`"""
from pathlib import Path

import torch
from PIL import Image

from ddpm_lit import DDPM
from ddpm_lit.plots import to_pil

HOME = Path(__file__).resolve().parents[1]/'docs'/'_static'/'first.webp'
ROWS, COLUMNS = 4, 5
SIDE, GAP, BETWEEN = 96, 6, 30   # of an image, between images, between panels

def drawn(name: str) -> list[Image.Image]:
    """The images with the seeds 0 to 19, away from what a worse network would draw: one that
    is not told the label, the ten in turn; for faces one whose attention is perturbed"""
    model = DDPM.from_pretrained(name).using(steps=50)
    n = ROWS*COLUMNS
    model = model.given(torch.arange(n)%10, guidance=3.) if model.classes else model.pag(.5)
    return [to_pil(x) for x in model.sample(n, seed=0, batch=n)]

def panel(images: list[Image.Image]) -> Image.Image:
    "Side by side, with nothing between them"
    whole = Image.new('RGBA', (COLUMNS*(SIDE+GAP)-GAP, ROWS*(SIDE+GAP)-GAP))
    for k, image in enumerate(images):
        row, column = divmod(k, COLUMNS)
        place = column*(SIDE+GAP), row*(SIDE+GAP)
        whole.paste(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), place)
    return whole

def picture() -> Image.Image:
    panels = [panel(drawn(name)) for name in ('celeba-64', 'mnist', 'cifar10-class')]
    width, height = panels[0].size
    whole = Image.new('RGBA', (len(panels)*(width+BETWEEN)-BETWEEN, height))
    for k, p in enumerate(panels): whole.paste(p, (k*(width+BETWEEN), 0))
    return whole

if __name__=='__main__': picture().save(HOME, quality=90, method=6)

"Pictures drawn from weights that come with the package: a film and a card for previews of links, for the site; a film for the README, by `python docs/film.py`."
from dataclasses import replace
from pathlib import Path
import torch
from PIL import Image
from ddpm_lit import DDPM
from ddpm_lit.conditional import Guided
from ddpm_lit.plots import to_pil

def frames(steps: int = 35) -> list[Image.Image]:
    "The ten digits in two rows, from noise to samples: steps+1 pictures"
    model = DDPM.from_pretrained('mnist').using(steps=steps)
    with torch.inference_mode():
        xs = [s.x_t.clamp(-1, 1) for s in replace(model, unet=Guided(model.unet, torch.arange(10), 1.)).states(10, batch=10)]
    return [to_pil(torch.cat([torch.cat([*row], 2) for row in x.split(5)], 1)) for x in xs]

def save(folder: Path):
    "`film.webp`: the frames below each other, for site.css to move; `card.png`: the last one"
    film = frames(); w, h = film[0].size
    strip = Image.new('L', (w, h*len(film)))
    for k, f in enumerate(film): strip.paste(f, (0, k*h))
    strip.save(folder/'film.webp', quality=70, method=6)
    card = Image.new('L', (1200, 630)); card.paste(film[-1].resize((8*w, 8*h), Image.Resampling.LANCZOS), (600-4*w, 315-4*h))
    card.save(folder/'card.png', optimize=True)

if __name__=='__main__':   # for the README
    first, *rest = (f.resize((2*f.width, 2*f.height), 0) for f in frames())
    first.save(Path(__file__).parent/'film.webp', save_all=True, append_images=rest, duration=[80]*len(rest)+[2000], loop=0, quality=60, method=6)

"The film at the top of the README, drawn from a model of the package: `python docs/readme_film.py`"
from dataclasses import replace
from pathlib import Path
import torch
from ddpm_lit import DDPM
from ddpm_lit.conditional import Guided
from ddpm_lit.plots import to_pil

def film(steps: int = 35, side: int = 2) -> list:
    "The digits 0 to 9 in two rows, from noise to samples, and the last for two seconds"
    model = DDPM.from_pretrained('mnist').using(steps=steps)
    with torch.inference_mode(): xs = [s.x_t.clamp(-1, 1) for s in replace(model, unet=Guided(model.unet, torch.arange(10), 1.)).states(10, batch=10)]
    rows = [torch.cat([torch.cat([*row], 2) for row in x.split(5)], 1) for x in xs]
    return [im.resize((side*im.width, side*im.height), 0) for im in map(to_pil, rows)]

if __name__=='__main__':
    first, *rest = film()
    first.save(Path(__file__).parent/'film.webp', save_all=True, append_images=rest, duration=[80]*len(rest)+[2000], loop=0, quality=60, method=6)

"""Make a finished run a model of the package: `python tools/ship.py runs/cifar10 cifar10`.

Its weights in half precision (float16: bfloat16 keeps three bits less, and that tints), what
its files tell, pictures, a card."""
import shutil
import sys
from pathlib import Path

import torch

from ddpm_lit.workshop.hub import model_card
from ddpm_lit.workshop.runs import step_of
from ddpm_lit.workshop.weights import load_model, save_model

MODELS = Path(__file__).resolve().parents[1]/'ddpm_lit'/'models'
TOLD = 'train.json', 'stages.json', 'log.csv', 'held_out.csv', 'evaluation.json', 'samples.png'

def card(folder: Path) -> str: return model_card(folder, folder.name)

def some_previews(run: Path) -> list[Path]:
    "Each after twice as many steps as the one before, and the last"
    some: list[Path] = []
    paths = sorted((run/'previews').glob('*.png'))
    for path in paths:
        if not some or path==paths[-1] or step_of(path)>=2*step_of(some[-1]): some.append(path)
    return some

def ship(run: Path, folder: Path):
    save_model(load_model(run), folder, torch.float16)
    for name in TOLD:
        if (run/name).exists() and run!=folder: shutil.copy(run/name, folder)
    for preview in some_previews(run) if run!=folder else ():
        (folder/'previews').mkdir(exist_ok=True)
        shutil.copy(preview, folder/'previews')
    (folder/'README.md').write_text(card(folder), encoding='utf-8')

if __name__=='__main__': ship(Path(sys.argv[1]).resolve(), MODELS/sys.argv[2])

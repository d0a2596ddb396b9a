"Make a finished run a model of the package: `python docs/ship.py runs/cifar10 cifar10`. Its weights in bfloat16, as most will draw with them, what its files tell, a picture, a card."
import shutil, sys
from pathlib import Path
import torch
from ddpm_lit import DDPM
from ddpm_lit.checkpoints import model_card
models = Path(__file__).resolve().parent.parent/'ddpm_lit'/'models'

def card(folder: Path): return model_card(folder, folder.name)

if __name__=='__main__':
    run, folder = Path(sys.argv[1]).resolve(), models/sys.argv[2]
    DDPM.from_pretrained(run).save_pretrained(folder, torch.bfloat16)
    for name in ('train.json', 'log.csv', 'evaluation.json', 'samples.png'):
        if (run/name).exists() and run!=folder: shutil.copy(run/name, folder)
    (folder/'README.md').write_text(card(folder), encoding='utf-8')

"""Try the choices of a short training one at a time: same seed, same images.
Writes bench/choices.json, the table of chapter 20.

A row differs from the first in one thing, and sees as many images. It takes some four
minutes on one core; a row that is there already is left alone."""
import argparse
import json
from dataclasses import replace
from pathlib import Path
here = Path(__file__).parent

NET, STEPS = dict(channels=16, multipliers=(1, 2, 2, 2)), 800
ROWS = {   # what differs: of the recipe, the schedule, the data
    'the first': {},
    'batch 64, half the steps': dict(batch=64),
    'batch 16, twice the steps': dict(batch=16),
    'learning rate 5e-4': dict(lr=5e-4),
    'learning rate 2e-3': dict(lr=2e-3),
    'no cooldown': dict(cooldown=0.),
    'average over 50 steps': dict(ema_decay=.98),
    'average over 1,000 steps': dict(ema_decay=.999),
    'times not stratified': dict(stratified=False),
    'weights: min-SNR': dict(weighting='min_snr'),
    'weights: P2': dict(weighting='p2'),
    'cosine schedule': dict(schedule='cosine'),
    'no flips': dict(flip=False)}

def train_row(change: dict, steps: int) -> tuple:
    "A trained model, and facts about its training; `steps`: of the first row"
    import torch
    from ddpm_lit.workshop.model import DDPM
    from ddpm_lit.workshop.files import load
    from ddpm_lit.forward import Schedule
    from ddpm_lit.workshop.runs import Recipe, train
    from ddpm_lit.unet import UNet
    change = dict(change)
    data = load('cifar10', flip=change.pop('flip', True))
    schedule = getattr(Schedule, change.pop('schedule', 'linear'))(1000)
    torch.manual_seed(0)
    ddpm = DDPM(UNet(**NET), schedule)
    first = Recipe(steps=steps, batch=32, lr=1e-3, warmup=100, cooldown=.4, ema_decay=.995,
        stratified=True, fast=True)
    recipe = replace(first, **change)
    recipe = replace(recipe, steps=steps*32//recipe.batch)
    ddpm = train(ddpm, data, recipe)
    weights = sum(p.numel() for p in ddpm.unet.parameters())
    return ddpm, dict(steps=recipe.steps, batch=recipe.batch, weights=weights)

def judge_row(ddpm, n: int) -> dict:
    "The loss and the bound on test images, and the distance of samples"
    import torch
    from ddpm_lit.workshop.files import load
    from ddpm_lit.data import to_image, to_model
    from ddpm_lit.evaluation import features, frechet
    from ddpm_lit.simple_loss import L_simple
    test, g = load('cifar10', 'test'), torch.Generator().manual_seed(0)
    x_0 = to_model(test[slice(0, 1000)])
    t, eps = torch.randint(1, 1001, (1000,), generator=g), torch.randn(x_0.shape, generator=g)
    parts = zip(x_0.split(50), t.split(50), eps.split(50))
    with torch.inference_mode():
        losses = [L_simple(ddpm.unet, ddpm.schedule, *part) for part in parts]
        loss = torch.cat(losses).mean().item()
    bits = ddpm.vlb(x_0[:64], times=50).bits_per_dim.mean().item()
    samples = to_image(ddpm.using('ddpm', 50).fast().sample(n, batch=50))
    distance = frechet(features(samples), features(test))
    return dict(loss=loss, bits_per_dim=bits, distance=distance, samples=n)

def main():
    ap = argparse.ArgumentParser(prog='python -m bench.choices', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--steps', type=int, default=STEPS)
    ap.add_argument('--n', type=int, default=500, help='samples a row')
    ap.add_argument('--out', type=Path, default=here/'choices.json')
    a = ap.parse_args()
    rows = json.loads(a.out.read_text()) if a.out.exists() else {}
    for name, change in ROWS.items():
        if name in rows: continue
        ddpm, facts = train_row(change, a.steps)
        rows[name] = facts | judge_row(ddpm, a.n)
        a.out.write_text(json.dumps(rows, indent=1)+'\n')
        print(name, rows[name], flush=True)

if __name__=='__main__': main()

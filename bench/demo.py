"""Which network and recipe make the demo's digits soonest: the table behind the preset
`tiny`. Writes bench/demo.json.

Each row trains on scikit-learn's digits with one thread, twice, from two seeds; 500 samples
are judged as the demo judges them. `cost` counts operations, so that rows compare on any
machine; a row that is there already is left alone."""
import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

here = Path(__file__).parent

ROWS = {   # what differs from `FIRST`: of the network, of the recipe
    '1,000 steps, cooldown .5, lr 4e-3': dict(steps=1000, cooldown=.5, lr=4e-3),
    '700 steps, cooldown .5, lr 4e-3': dict(steps=700, cooldown=.5, lr=4e-3),
    '700 steps, cooldown .5, lr 4e-3, stratified': dict(
        steps=700, cooldown=.5, lr=4e-3, stratified=True),
    '24 channels, 1,000 steps, cooldown .5, lr 4e-3': dict(
        channels=24, steps=1000, cooldown=.5, lr=4e-3),
    '24 channels, 1,200 steps, cooldown .5, lr 4e-3': dict(
        channels=24, steps=1200, cooldown=.5, lr=4e-3),
    '24 channels, 1,200 steps, cooldown .7, lr 6e-3': dict(
        channels=24, steps=1200, cooldown=.7, lr=6e-3),
    '1,000 steps, cooldown .5, lr 8e-3': dict(steps=1000, cooldown=.5, lr=8e-3),
    '1,000 steps, cooldown .5, lr 4e-3, min-SNR': dict(
        steps=1000, cooldown=.5, lr=4e-3, weighting='min_snr'),
    '1,000 steps, cooldown 1, lr 4e-3': dict(steps=1000, cooldown=1., lr=4e-3),
    '1,000 steps': dict(steps=1000),
    '1,000 steps, cooldown .5': dict(steps=1000, cooldown=.5),
    'batch 32, 1,400 steps, cooldown .5, lr 4e-3': dict(
        batch=32, steps=1400, cooldown=.5, lr=4e-3),
    '16 channels, 1,400 steps, cooldown .5, lr 4e-3': dict(
        channels=16, steps=1400, cooldown=.5, lr=4e-3),
    'as it was: 32 channels, 2,200 steps of 64, lr 2e-3': {},
}


def model_of(channels: int, seed: int):
    "The network of the preset `tiny`, in another width"
    import torch
    from ddpm_lit import DDPM, Schedule, UNet
    torch.manual_seed(seed)
    net = UNet((8, 8), 1, channels=channels, multipliers=(1, 2), attention=(4,), res_blocks=1)
    return DDPM(net, Schedule.cosine(100), sigma='beta_tilde')


def operations(net, batch: int) -> int:
    "Of a step, forwards and backwards: two for each multiply-add"
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, 8, 8), torch.ones(1, dtype=torch.long))
    return 3*batch*counter.get_total_flops()


def judged(change: dict, seed: int) -> dict:
    "Train a row from one seed, draw 500 samples, and let the demo's judge look at them"
    from ddpm_lit.workshop.files import load
    from ddpm_lit.evaluation import judge_digits
    from ddpm_lit.workshop.runs import Recipe, train
    change = dict(change)
    model = model_of(change.pop('channels', 32), seed)
    first = Recipe(
        steps=2200, batch=64, lr=2e-3, warmup=100, ema_decay=.998, precision='float32')
    recipe = replace(first, seed=seed, **change)
    cost = operations(model.unet, recipe.batch)*recipe.steps
    start = time.process_time()
    model = train(model, load('digits'), recipe)
    seconds = time.process_time()-start
    verdict = judge_digits(model.sample(500))
    return dict(cost=cost, cpu_seconds=seconds, ratio=float(verdict.sure/verdict.sure_real),
        smallest=float(min(verdict.classes)), largest=float(max(verdict.classes)),
        copies=int(verdict.copies))


def main():
    import torch
    parser = argparse.ArgumentParser(prog='python -m bench.demo', description=__doc__)
    parser.add_argument('--out', type=Path, default=here/'demo.json')
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows = json.loads(out.read_text()) if out.exists() else {}
    for name, change in ROWS.items():
        if name not in rows:
            rows[name] = [judged(change, seed) for seed in (0, 1)]
            out.write_text(json.dumps(rows, indent=1)+'\n')
            print(name, rows[name], flush=True)


if __name__ == '__main__': main()

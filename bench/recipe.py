"""Which recipe draws the best CIFAR-10 images at the same cost? Writes bench/recipe.json.

A row is a network, a schedule and a recipe, and says what differs from the first, which is the
preset `laptop` with the loss of eq. 14, times drawn evenly, a learning rate of 2e-3, and
float32. Cost is counted in operations, not in time, so that several machines may share the
work: each point lies where a row has spent as many as the first does on so many images. (Those
of the optimizer are not counted.) The learning rate stays as it is, and for each point a copy
of the run lets it fall to 0 over the last 30 % of its steps, unless the row says otherwise.

    python -m bench.recipe     all rows to the first point, one seed; after a stop: goes on
    python -m bench.recipe --row min-SNR --images 200000 --seed 1"""
import argparse, json, time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
here = Path(__file__).parent

POINTS = (25_000, 50_000, 100_000, 200_000, 400_000)   # images of the first row
COOLDOWN = .3
ROWS = {   # what differs from the first
    'eq. 14': {},
    'answers eps': dict(predicts='eps'),
    'plain error of v': dict(weighting='simple'),
    'min-SNR': dict(weighting='min_snr'),
    'min-SNR, lr 4e-3': dict(weighting='min_snr', lr=4e-3),
    'min-SNR, batch 16': dict(weighting='min_snr', batch=16),
    'min-SNR, bfloat16': dict(weighting='min_snr', precision='bfloat16'),
    'min-SNR, bfloat16, rate falls over 80 %': dict(
        weighting='min_snr', precision='bfloat16', cooldown=.8),
    'min-SNR, bfloat16, times as often as they count': dict(
        weighting='min_snr', precision='bfloat16', importance=True),
    'P2': dict(weighting='p2'),
    'linear schedule': dict(schedule='linear'),
    'Adam, lr 1e-3': dict(optimizer='adam', lr=1e-3),
    'lr 1e-3': dict(lr=1e-3),
    'lr 4e-3': dict(lr=4e-3),
    'batch 16': dict(batch=16),
    'batch 64': dict(batch=64),
    'two blocks': dict(net=dict(res_blocks=2)),
    '48 channels': dict(net=dict(channels=48)),
    '1, 2, 3, 4': dict(net=dict(multipliers=(1, 2, 3, 4))),
    '16 channels, 1, 4, 6, 8': dict(net=dict(channels=16, multipliers=(1, 4, 6, 8))),
    'small': dict(predicts='eps', weighting='simple', schedule='linear', optimizer='adam',
        lr=1e-3, net=dict(res_blocks=2)),
}

def make(row: dict, seed: int):
    "An untrained model, and its recipe with no end"
    import torch
    from ddpm_lit.workshop.model import DDPM
    from ddpm_lit.workshop.runs import PRESETS, SCHEDULES
    from ddpm_lit.unet import UNet
    laptop = PRESETS['laptop']
    row = dict(weighting='noise', lr=2e-3, precision='float32', importance=False)|row
    net = laptop.net | row.pop('net', {})
    name = row.pop('schedule', None)
    schedule = SCHEDULES[name](1000) if name else laptop.schedule()
    options = laptop.options | {k: row.pop(k) for k in ('predicts',) if k in row}
    torch.manual_seed(seed)
    recipe = replace(laptop.recipe, steps=10**6, seed=seed, **row)
    return DDPM(UNet(**net), schedule, **options), recipe

@lru_cache
def _real():
    "Test images, and what the judge sees in them"
    from ddpm_lit.workshop.files import load
    from ddpm_lit.evaluation import features
    test = load('cifar10', 'test')
    return test, features(test)

def judge(ddpm, n: int) -> dict:
    "On test images: the loss, the bound, and the distances of samples"
    import torch
    from ddpm_lit.data import to_image, to_model
    from ddpm_lit.evaluation import features, frechet, kid
    from ddpm_lit.denoiser import noise_of
    from ddpm_lit.simple_loss import L_simple
    (test, real), g = _real(), torch.Generator().manual_seed(0)
    x_0 = to_model(test[:1000])
    t = torch.randint(1, 1001, (1000,), generator=g)
    eps = torch.randn(x_0.shape, generator=g)
    with torch.inference_mode():
        eps_theta = noise_of(ddpm.predicts, ddpm.unet, ddpm.schedule)
        batches = zip(x_0.split(50), t.split(50), eps.split(50))
        parts = [L_simple(eps_theta, ddpm.schedule, *batch) for batch in batches]
    loss = torch.cat(parts).mean().item()
    bits = ddpm.vlb(x_0[:64], times=30).bits_per_dim.mean().item()
    few = ddpm.using('dpm++', 15).fast()
    drawn = features(to_image(few.sample(n, batch=50)))
    return dict(loss=loss, bits_per_dim=bits, distance=frechet(drawn, real),
        kid=kid(drawn, real), samples=n)

class Curve:
    "One row with one seed, from point to point"
    def __init__(self, row: dict, seed: int, data):
        from ddpm_lit.workshop.runs import Training
        self.row, self.seed, self.data = row, seed, data
        self.cooldown = row.get('cooldown', COOLDOWN)
        self.state = Training(*make(row, seed))

    def go(self, state, steps: int):
        drawing = state.drawing(self.data)
        while state.step<steps: state.update(*drawing(state.step))

    def at(self, images: float, n: int) -> dict:
        "After so many images of its own"
        from ddpm_lit.workshop.cli import _machine
        from ddpm_lit.workshop.runs import Training
        start, steps = time.process_time(), int(images/self.state.recipe.batch)
        self.go(self.state, int((1-self.cooldown)*steps))
        ddpm, recipe = make(self.row, self.seed)
        end = Training(ddpm, replace(recipe, steps=steps, cooldown=self.cooldown))
        end.restore({k: v.clone() for k, v in self.state.tensors().items()}, self.state.step)
        self.go(end, steps)
        cpu = time.process_time()-start
        return dict(steps=steps, images=steps*self.state.recipe.batch, cpu_s=round(cpu),
            machine=_machine(), **judge(end.model, n))

def run(name: str, seed: int, until: int, out: Path, n: int):
    "The points of one curve up to `until` that are not there yet"
    from ddpm_lit.workshop.files import load
    from ddpm_lit.workshop.runs import operations
    from ddpm_lit.workshop.speed import keep_memory
    rows = json.loads(out.read_text()) if out.exists() else {}
    done = rows.get(name, {}).get(str(seed), {})
    if str(until) in done: return
    usual, own = (operations(make(ROWS[row], seed)[0]) for row in ('eq. 14', name))
    with keep_memory():
        curve = Curve(ROWS[name], seed, load('cifar10'))
        for point in (p for p in POINTS if p<=until and str(p) not in done):
            reached = curve.at(point*usual/own, n)
            rows = json.loads(out.read_text()) if out.exists() else {}
            row = rows.setdefault(name, {})
            row['weights'] = sum(p.numel() for p in curve.state.params)
            row.setdefault(str(seed), {})[str(point)] = reached
            out.write_text(json.dumps(rows, indent=1)+'\n')
            print(name, seed, point, reached, flush=True)

def main():
    ap = argparse.ArgumentParser(prog='python -m bench.recipe', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--row', choices=ROWS, metavar='ROW')
    ap.add_argument('--images', type=int, default=POINTS[0], choices=POINTS,
        help='as many as the first row has seen')
    ap.add_argument('--seed', type=int, default=0)
    ap.add_argument('--n', type=int, default=500, help='samples a point')
    ap.add_argument('--out', type=Path, default=here/'recipe.json')
    a = ap.parse_args()
    for name in [a.row] if a.row else ROWS: run(name, a.seed, a.images, a.out, a.n)

if __name__=='__main__': main()

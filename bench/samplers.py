"""How near do the samplers come? Each with the same network, from the same seeds, against the
test images. Writes bench/samplers.json, from which chapter 20 makes a table. What is drawn
with labels is kept in bench/drawn, part by part: a command that was stopped goes on. Remove
that folder when the weights are others, or when all of it is judged.

    python -m bench.samplers                   many samplers in few steps, from `cifar10`
    python -m bench.samplers guided --n 200    fifty steps or all, from `cifar10-class`: hours
    python -m bench.samplers full --n 2000     two of these, of more images: hours
    python -m bench.samplers back --n 200      the same from noisy photographs, its end only"""
import argparse, json, re
from dataclasses import replace
from functools import partial
from pathlib import Path
here = Path(__file__).parent

WAYS = {   # name -> what `DDPM.using` is told besides the steps
    'ddpm': dict(sampler='ddpm'),
    'ddim': dict(sampler='ddim'),
    'heun': dict(sampler='heun'),
    'heun, even': dict(sampler='heun', spacing='even'),
    'dpm++': dict(sampler='dpm++'),
    'dpm++, log-snr': dict(sampler='dpm++', spacing='log-snr'),
    'dpm++3m': dict(sampler='dpm++3m')}
AGAIN = 10   # the time at which drawn images are shown once more
BACK = 100   # the time to which photographs are made noisy

# ---- sets of rows: (name, steps, what draws the row and those that come of it)

def few(n: int):
    from ddpm_lit import DDPM
    ddpm = DDPM.from_pretrained('cifar10').fast()
    for steps in (10, 20, 50):
        for name, how in WAYS.items():
            way = ddpm.using(steps=steps, **how)
            yield name, steps, lambda: {'': way.sample(n, batch=50)}

def guided(n: int, ways: tuple):
    "Every label in turn; then asked once more"
    import torch
    from ddpm_lit.data import to_model
    ddpm = with_labels()
    yield 'photographs', 0, lambda: {'': photographs(n)}
    for sampler, steps, sigma in ways:
        way = replace(ddpm, sigma=sigma).using(steps=steps, **WAYS[sampler])
        name = f'guided {sampler}'+(', beta_tilde' if sigma=='beta_tilde' else '')
        def draw():
            parts = [part(f'{name} {steps}', way, k, min(50, n-k)) for k in range(0, n, 50)]
            x = to_model(torch.cat(parts))
            return {'': x, ', asked once more': asked_again(ddpm, x)}
        yield name, steps, draw

def part(name: str, way, first: int, n: int):
    "n images as they would be saved, of the seeds from the first on; drawn but once"
    import numpy as np, torch
    from PIL import Image
    from bench.race import GUIDANCE
    from ddpm_lit.data import to_image
    file = here/'drawn'/'-'.join(re.findall(r'\w+', name))/f'{first:05}-{n}.webp'
    if not file.exists():
        x = to_image(way.labelled(labels(way, first, n), *GUIDANCE).sample(n, seed=first))
        column = x.movedim(1, -1).flatten(0, 1)   # one below the other, to the grey level
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix('.new')   # if it is stopped, there is no half of one
        Image.fromarray(column.numpy()).save(unfinished, 'webp', lossless=True, quality=100)
        unfinished.replace(file)
    column = torch.from_numpy(np.array(Image.open(file)))
    return column.unflatten(0, (n, -1)).movedim(-1, 1).contiguous()

def labels(ddpm, first: int, n: int) -> list:
    return [k%len(ddpm.classes) for k in range(first, first+n)]

def asked_again(ddpm, x):
    """What is left of images when the network is asked once more what it takes for noise in
    them: eq. 15, as if they were x_t at `AGAIN`"""
    import torch
    unguided = ddpm.labelled(labels(ddpm, 0, len(x)))
    ab, t = ddpm.schedule.alpha_bar[AGAIN], torch.full((len(x),), AGAIN)
    with torch.inference_mode(): eps = unguided.eps_theta(ab.sqrt()*x, t)
    return (x-(1/ab-1).sqrt()*eps).clamp(-1, 1)

def back(n: int):
    "Photographs as x_t at `BACK`, and the way back from there, told nothing"
    from ddpm_lit.forward import q_sample
    ddpm = with_labels()
    x_t = q_sample(ddpm.schedule, photographs(n), BACK, ddpm.noise(range(n))())
    for name, steps, sigma in (('ddpm', 1000, 'beta'), ('ddpm', 1000, 'beta_tilde'),
            ('ddim', 1000, 'beta'), ('ddpm', 50, 'beta_tilde'), ('ddim', 50, 'beta')):
        way = replace(ddpm, sigma=sigma).using(steps=steps, **WAYS[name])
        variance = f', {sigma}' if name=='ddpm' else ''
        yield f'back by {name}{variance}', steps, lambda: {
            '': way.decode(x_t, BACK, seed=n, batch=50)}   # not the seeds of x_t's noise

SETS = dict(few=few, back=back,
    guided=partial(guided, ways=(('ddim', 50, 'beta'), ('ddim', 1000, 'beta'),
        ('ddpm', 50, 'beta'), ('ddpm', 1000, 'beta'))),
    full=partial(guided, ways=(('ddim', 50, 'beta'), ('ddpm', 1000, 'beta_tilde'))))

def with_labels():
    from ddpm_lit import DDPM
    return DDPM.from_pretrained('cifar10-class').fast()

def photographs(n: int):
    from ddpm_lit.data import to_model
    from ddpm_lit.workshop.files import load
    return to_model(load('cifar10')[slice(0, n)])

def main():
    ap = argparse.ArgumentParser(prog='python -m bench.samplers', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('what', choices=SETS, nargs='?', default='few')
    ap.add_argument('--n', type=int, default=500, help='samples a row')
    ap.add_argument('--out', type=Path, default=here/'samplers.json')
    a = ap.parse_args()
    from ddpm_lit.data import to_image
    from ddpm_lit.evaluation import features, frechet, kid
    from ddpm_lit.workshop.files import load
    real = features(load('cifar10', 'test'))
    sets = json.loads(a.out.read_text()) if a.out.exists() else {}
    rows = sets.setdefault(a.what, {})
    for name, steps, draw in SETS[a.what](a.n):
        if rows.get(name, {}).get(str(steps), {}).get('samples')==a.n: continue
        for after, x in draw().items():
            f = features(to_image(x))
            judged = dict(distance=frechet(f, real), kid=kid(f, real), samples=a.n)
            rows.setdefault(name+after, {})[str(steps)] = judged
            print(name+after, steps, judged, flush=True)
        a.out.write_text(json.dumps(sets, indent=1)+'\n')

if __name__=='__main__': main()

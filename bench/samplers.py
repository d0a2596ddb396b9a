"""How near do the samplers come in few steps? Each with the same network, from the same seeds,
against the test images. Writes bench/samplers.json, from which chapter 20 makes a table.

    python -m bench.samplers                     those of `cifar10` that are not there yet
    python -m bench.samplers --guided --n 200    those of `cifar10-class`; all steps take hours"""
import argparse, json
from pathlib import Path
here = Path(__file__).parent

STEPS = 10, 20, 50
WAYS = {   # name -> what `DDPM.using` is told besides the steps
    'ddpm': dict(sampler='ddpm'),
    'ddim': dict(sampler='ddim'),
    'heun': dict(sampler='heun'),
    'heun, even': dict(sampler='heun', spacing='even'),
    'dpm++': dict(sampler='dpm++'),
    'dpm++, log-snr': dict(sampler='dpm++', spacing='log-snr'),
    'dpm++3m': dict(sampler='dpm++3m')}
ROWS = [(name, steps, how) for steps in STEPS for name, how in WAYS.items()]
GUIDED = [(f'guided {name}', steps, WAYS[name])
    for name, steps in (('ddim', 50), ('ddpm', 50), ('ddpm', 1000))]

def guided(n: int):
    "`cifar10-class` with every label in turn, as it is judged"
    from bench.race import GUIDANCE
    from ddpm_lit import DDPM
    ddpm = DDPM.from_pretrained('cifar10-class').fast()
    return ddpm.labelled([k%len(ddpm.classes) for k in range(n)], *GUIDANCE)

def main():
    ap = argparse.ArgumentParser(prog='python -m bench.samplers', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--n', type=int, default=500, help='samples a row')
    ap.add_argument('--guided', action='store_true')
    ap.add_argument('--out', type=Path, default=here/'samplers.json')
    a = ap.parse_args()
    from ddpm_lit import DDPM
    from ddpm_lit.data import to_image
    from ddpm_lit.evaluation import features, frechet, kid
    from ddpm_lit.workshop.files import load
    real = features(load('cifar10', 'test'))
    ddpm = guided(a.n) if a.guided else DDPM.from_pretrained('cifar10').fast()
    rows = json.loads(a.out.read_text()) if a.out.exists() else {}
    for name, steps, how in GUIDED if a.guided else ROWS:
        row = rows.setdefault(name, {})
        if row.get(str(steps), {}).get('samples')==a.n: continue
        drawn = features(to_image(ddpm.using(steps=steps, **how).sample(a.n, batch=50)))
        row[str(steps)] = dict(
            distance=frechet(drawn, real), kid=kid(drawn, real), samples=a.n)
        print(name, steps, row[str(steps)], flush=True)
        a.out.write_text(json.dumps(rows, indent=1)+'\n')

if __name__=='__main__': main()

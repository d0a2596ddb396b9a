"""How near do the samplers come in few steps? Each with the same network, from the same seeds,
against the test images. Writes bench/samplers.json, from which chapter 20 makes a table.

    python -m bench.samplers                     those of `cifar10` that are not there yet
    python -m bench.samplers --guided --n 200    those of `cifar10-class`, which takes hours"""
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
AGAIN = 10   # the time at which drawn images are shown once more

def guided(n: int, *guidance):
    "`cifar10-class` with every label in turn"
    from ddpm_lit import DDPM
    ddpm = DDPM.from_pretrained('cifar10-class').fast()
    return ddpm.labelled([k%len(ddpm.classes) for k in range(n)], *guidance)

def asked_again(images):
    """What is left of drawn images, uint8, when the network is asked once more, without
    guidance, what it takes for noise in them: eq. 15, as if they were x_t at `AGAIN`"""
    import torch
    from ddpm_lit.data import to_image, to_model
    ddpm = guided(len(images))
    ab, t = ddpm.schedule.alpha_bar[AGAIN], torch.full((len(images),), AGAIN)
    with torch.inference_mode(): eps = ddpm.eps_theta(ab.sqrt()*to_model(images), t)
    return to_image((to_model(images)-(1/ab-1).sqrt()*eps).clamp(-1, 1))

def main():
    ap = argparse.ArgumentParser(prog='python -m bench.samplers', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--n', type=int, default=500, help='samples a row')
    ap.add_argument('--guided', action='store_true')
    ap.add_argument('--out', type=Path, default=here/'samplers.json')
    a = ap.parse_args()
    from bench.race import GUIDANCE
    from ddpm_lit import DDPM
    from ddpm_lit.data import to_image
    from ddpm_lit.evaluation import features, frechet, kid
    from ddpm_lit.workshop.files import load
    real = features(load('cifar10', 'test'))
    def judged(images) -> dict:
        f = features(images)
        return dict(distance=frechet(f, real), kid=kid(f, real), samples=a.n)
    ddpm = guided(a.n, *GUIDANCE) if a.guided else DDPM.from_pretrained('cifar10').fast()
    rows = json.loads(a.out.read_text()) if a.out.exists() else {}
    if a.guided: rows['photographs'] = {'0': judged(load('cifar10')[slice(0, a.n)])}
    for name, steps, how in GUIDED if a.guided else ROWS:
        row = rows.setdefault(name, {})
        if row.get(str(steps), {}).get('samples')==a.n: continue
        drawn = to_image(ddpm.using(steps=steps, **how).sample(a.n, batch=50))
        row[str(steps)] = judged(drawn)
        if a.guided:
            again = rows.setdefault(f'{name}, asked once more', {})
            again[str(steps)] = judged(asked_again(drawn))
        print(name, steps, row[str(steps)], flush=True)
        a.out.write_text(json.dumps(rows, indent=1)+'\n')

if __name__=='__main__': main()

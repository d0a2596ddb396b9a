"""Train on CIFAR-10 in several ways for the same CPU time, on as many threads as
OMP_NUM_THREADS says, then judge as many samples of each. Writes bench/race.json, or
bench/race-float32.json where the CPU has no units for bfloat16, and a picture of each one's
samples, for chapter 20; and ddpm_lit/workshop/reached.json, which the command reads.

ours: `ddpm_lit train cifar10 --preset laptop`. ours-early: the same network, drawn from with
--autoguidance 1, guided away from what it was after two fifths of its steps. ours-labels:
trained with --labels, drawn from with guidance, every label in turn; neither of the trainers
below takes labels. diffusers:
its example train_unconditional.py, as its README runs it (AdamW, average of the weights, batch
16, float32), with a learning rate that rises over 500 steps, then falls as a cosine and is 0
when time is up. lucidrains: the Trainer of denoising-diffusion-pytorch. Both keep their
defaults, but where 1e-3 is said: there this is the highest learning rate, ten times theirs,
and that of diffusers rises over 50 steps. What they train is the network of ours, in diffusers
exactly, in denoising-diffusion-pytorch the nearest that there is. Pictures on the way are left
out for all. What waits for a core costs nothing, compilers that are run count."""
import argparse, json, math, os, tempfile, time
from functools import partial
from pathlib import Path
here = Path(__file__).parent

# ---- the ways to train

# Compilers are run in this process's turn, one by one, so that their time is counted.
os.environ['TORCHINDUCTOR_COMPILE_THREADS'] = '1'

def spent() -> float:
    "Seconds of CPU, a thread: of this process, and of those that it waited for"
    return sum(os.times()[:4])/int(os.environ.get('OMP_NUM_THREADS', os.cpu_count()))

def ours(minutes: float, folder: Path, labels: bool = False) -> dict:
    from ddpm_lit.workshop.files import load
    from ddpm_lit.workshop.runs import EARLY_PART, design, train, trial
    start, began, data = spent(), time.time(), load('cifar10')
    ddpm, recipe = design('laptop', data.shape, classes=data.classes if labels else None)
    one = trial(ddpm, recipe).seconds
    share = (spent()-start)/(time.time()-began)   # of that time, this process ran
    left = .91*60*minutes-(spent()-start)   # a run may be slower than its trial
    recipe = recipe.scaled(int(left/(one*share)))
    train(ddpm, data, recipe, out=folder, save_every=int(EARLY_PART*recipe.steps))
    weights = sum(p.numel() for p in ddpm.unet.parameters())
    return dict(
        steps=recipe.steps, batch=recipe.batch, seconds=spent()-start, weights=weights)

def diffusers(minutes: float, folder: Path, lr: float = 1e-4, warmup: int = 500) -> dict:
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel
    from ddpm_lit.workshop.weights import unet_config
    from ddpm_lit.workshop.files import load
    from ddpm_lit.data import to_model
    from ddpm_lit.workshop.runs import design
    start, data = spent(), load('cifar10')

    # The network of ours, and what the example trains it with.
    torch.manual_seed(0)
    unet = UNet2DModel.from_config(unet_config(design('laptop', data.shape)[0].unet.config))
    schedule = DDPMScheduler(1000)
    ema = EMAModel(
        unet.parameters(), decay=.9999, use_ema_warmup=True, inv_gamma=1., power=.75)
    adam = torch.optim.AdamW(
        unet.parameters(), lr=lr, betas=(.95, .999), weight_decay=1e-6, eps=1e-8)

    def images():
        "A batch, half of it mirrored"
        x = to_model(data[torch.randint(len(data), (16,)).tolist()])
        mirrored = torch.rand(16)<.5
        x[mirrored] = x[mirrored].flip(-1)
        return x

    def loss():
        x = images()
        noise = torch.randn_like(x)
        t = torch.randint(0, 1000, (16,))
        return F.mse_loss(unet(schedule.add_noise(x, noise, t), t).sample, noise)

    # Train until the time is over: the learning rate rises over some steps, then falls.
    step = 0
    while (gone := (spent()-start)/(60*minutes))<1:
        rate = min((step+1)/warmup, (1+math.cos(math.pi*gone))/2)
        adam.param_groups[0]['lr'] = lr*rate
        loss().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.)
        adam.step()
        ema.step(unet.parameters())
        adam.zero_grad()
        step += 1
    seconds = spent()-start

    # The average is what is kept.
    ema.copy_to(unet.parameters())
    DDPMPipeline(unet, schedule).save_pretrained(folder)
    return dict(steps=step, batch=16, seconds=seconds, weights=unet.num_parameters())

def lucidrains_model():
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    unet = Unet(dim=32, dim_mults=(1, 2, 2, 2), flash_attn=True)
    return GaussianDiffusion(unet, image_size=32)

def lucidrains(minutes: float, folder: Path, lr: float = 1e-4) -> dict:
    import torch
    from denoising_diffusion_pytorch import Trainer
    from ddpm_lit.workshop.files import load
    from PIL import Image
    torch.manual_seed(0)
    data, model = load('cifar10'), lucidrains_model()
    with tempfile.TemporaryDirectory() as pngs:
        # It reads files. Before the clock starts, since the others need none.
        for i in range(len(data)):
            image = Image.fromarray(data[i].permute(1, 2, 0).numpy())
            image.save(f'{pngs}/{i:05}.png', compress_level=1)

        # No pictures on the way, and no end but the time's.
        trainer = Trainer(model, pngs, train_lr=lr, results_folder=folder, calculate_fid=False,
            save_and_sample_every=10**9, train_num_steps=10**9)
        start, update = spent(), trainer.ema.update
        def and_stop():
            "The average is updated at the end of each step: a good moment to end all"
            update()
            if spent()-start>60*minutes: trainer.train_num_steps = trainer.step
        trainer.ema.update = and_stop
        trainer.train()
        seconds = spent()-start

    # The average is what is kept.
    torch.save(trainer.ema.ema_model.state_dict(), folder/'ema.pt')
    weights = sum(p.numel() for p in model.model.parameters())
    return dict(steps=trainer.step, batch=16, seconds=seconds, weights=weights)

WAYS = {
    'ours': ours, 'ours-early': ours, 'ours-labels': partial(ours, labels=True),
    'diffusers': diffusers, 'diffusers-1e-3': partial(diffusers, lr=1e-3, warmup=50),
    'lucidrains': lucidrains, 'lucidrains-1e-3': partial(lucidrains, lr=1e-3)}

# ---- the judgement

GUIDANCE = 1.5, (180, 844)   # of models that were told labels, at sigma from .3 to 4
AUTOGUIDANCE = 1.

def model_of(who: str, folder: Path):
    "What was trained, as a `DDPM`"
    import torch
    from ddpm_lit import DDPM, Schedule
    if not who.startswith('lucidrains'): return DDPM.from_pretrained(folder)
    class CountsFromZero(torch.nn.Module):
        "The network of denoising-diffusion-pytorch"
        config = dict(image_channels=3, size=(32, 32))
        def __init__(self, unet):
            super().__init__()
            self.unet = unet
        def forward(self, x_t, t): return self.unet(x_t, t-1)
    theirs = lucidrains_model()
    theirs.load_state_dict(torch.load(folder/'ema.pt', weights_only=True))
    return DDPM(CountsFromZero(theirs.model), Schedule(theirs.betas), predicts='v').eval()

def judge(ddpm, n: int, worse=None) -> tuple:
    """Of n images by 50 steps of Algorithm 2 on a shorter chain and of n by 50 of DDIM: the
    better ones, uint8; and the distances of both from test images, that of as many training
    images, and bits per dimension of 64 test images. With a worse model, that is what the
    drawing is guided away from; the bits are those of the plain one"""
    from ddpm_lit.data import to_image, to_model
    from ddpm_lit.evaluation import features, frechet
    from ddpm_lit.unet import UNet
    from ddpm_lit.workshop.files import load
    from ddpm_lit.workshop.model import real_features
    test = load('cifar10', 'test')
    real, net = real_features(test), ddpm.autoguided(worse, AUTOGUIDANCE) if worse else ddpm
    if isinstance(ddpm.unet, UNet): net = net.fast()
    if ddpm.classes: net = net.labelled([k%len(ddpm.classes) for k in range(n)], *GUIDANCE)
    def far(x) -> float: return frechet(features(x), real)
    drawn = [to_image(net.using(how, 50).sample(n, batch=50)) for how in ('ddpm', 'ddim')]
    a, b = map(far, drawn)
    bits = ddpm.vlb(to_model(test[:64]), times=30).bits_per_dim.mean().item()
    return drawn[b<a], dict(samples=n, distance=a, distance_ddim=b, bits_per_dim=bits,
        floor=far(load('cifar10')[slice(0, n)]))

def results() -> Path:
    "A file for each kind of machine, since the times of one say nothing of another"
    from ddpm_lit.workshop.speed import best_device, has_bf16_units
    return here/('race.json' if has_bf16_units(best_device()) else 'race-float32.json')

def keep():
    "What the command says of a run to come: images seen and distance reached, on any machine"
    races = [json.loads(file.read_text()) for file in here.glob('race*.json')]
    ours = [p for race in races for p in race.get('ours', {}).values()]
    samples = max(p['samples'] for p in ours)
    ours = [p for p in ours if p['samples']==samples]
    points = sorted((p['steps']*p['batch'], p['distance']) for p in ours)
    known = dict(points=points, samples=samples, floor=ours[0]['floor'])
    path = here.parent/'ddpm_lit'/'workshop'/'reached.json'
    path.write_text(json.dumps(known, indent=1)+'\n')

def main():
    ap = argparse.ArgumentParser(prog='python -m bench.race', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--minutes', type=float, default=45)
    ap.add_argument('--n', type=int, default=1000, help='samples of each')
    ap.add_argument('--way', choices=WAYS, action='append', help='default: all')
    ap.add_argument('--runs', type=Path, default=Path('runs')/'race',
        help='where the models go')
    ap.add_argument('--out', type=Path, help='default: a file of this kind of machine, kept')
    a = ap.parse_args()
    out = a.out or results()
    from ddpm_lit.workshop.cli import _machine
    from ddpm_lit.data import to_model
    from ddpm_lit.plots import image_grid
    for who in a.way or WAYS:
        # Train, unless that is done already.
        folder = a.runs/f'{who.removesuffix("-early")} {a.minutes:g}'
        folder.mkdir(parents=True, exist_ok=True)
        facts = folder/'facts.json'
        if not facts.exists(): facts.write_text(json.dumps(WAYS[who](a.minutes, folder)))

        # Draw, and judge.
        early = model_of(who, folder/'early') if who=='ours-early' else None
        x, reached = judge(model_of(who, folder), a.n, early)
        picture = out.with_name(f'{out.stem}-{who}-{a.minutes:g}.png')
        image_grid(to_model(x[:32]), 8, 32).save(picture)
        point = dict(json.loads(facts.read_text()), machine=_machine(), **reached)
        race = json.loads(out.read_text()) if out.exists() else {}
        race.setdefault(who, {})[f'{a.minutes:g}'] = point
        out.write_text(json.dumps(race, indent=1)+'\n')
        if who=='ours' and not a.out: keep()
        print(who, point, flush=True)

if __name__=='__main__': main()

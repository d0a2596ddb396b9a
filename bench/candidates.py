"""What is timed. A candidate is a function that returns `run`, where run(n) does n steps, and
facts about itself."""
import os, tempfile, warnings
from dataclasses import replace
import torch, torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from bench.measure import begin
from ddpm_lit.workshop.model import DDPM
from ddpm_lit.workshop.weights import unet_config
from ddpm_lit.forward import Schedule
from ddpm_lit.sampling import Noise, ddpm_steps, sample
from ddpm_lit.workshop.runs import Recipe, Training, train
from ddpm_lit.workshop.speed import keep_memory
from ddpm_lit.training import train_step
from ddpm_lit.unet import UNet
warnings.filterwarnings('ignore')
os.environ.setdefault('DIFFUSERS_VERBOSITY', 'error')
FORMAT = {torch.float32: torch.contiguous_format, torch.bfloat16: torch.channels_last}

# ---- the network: ours, and the same function with the same weights in diffusers

def blank(net: dict) -> UNet: return UNet(**net)

def our_unet(net: dict) -> UNet:
    "With random weights, also where training starts with zeros"
    torch.manual_seed(0)
    unet = blank(net)
    for p in unet.parameters():
        if p.dim()>1 and not p.any(): nn.init.xavier_uniform_(p)
    return unet

def diffusers_unet(net: dict):
    from diffusers import UNet2DModel
    ours = our_unet(net)
    theirs = UNet2DModel.from_config(unet_config(ours.config))
    theirs.load_state_dict(ours.state_dict())
    return theirs

def lucidrains(net: dict):
    """The nearest network of denoising-diffusion-pytorch: other blocks, other attention, as
    its README builds it"""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    c, size = net.get('image_channels', 3), net.get('size', (32, 32))
    unet = Unet(dim=net['channels'], dim_mults=net['multipliers'], channels=c, flash_attn=True)
    return GaussianDiffusion(unet, image_size=size, timesteps=1000)

def shape_of(net: dict) -> tuple[int, ...]:
    return net.get('image_channels', 3), *net.get('size', (32, 32))

def images(net: dict, batch: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.rand(batch, *shape_of(net), generator=g)*2-1

def size_of(build, net: dict, train: bool) -> dict:
    """Weights, and floating point operations per image, of a network that is built without
    memory"""
    counter = FlopCounterMode(display=False)
    # attention as matrix products: not all of its other kernels are counted
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.device('meta'), torch.set_grad_enabled(train), counter, plain:
        unet, x = build(net), torch.empty(1, *shape_of(net))
        y = unet(x, torch.ones(1, dtype=torch.long))
        if train: y.sum().backward()
    parameters = sum(p.numel() for p in unet.parameters())
    return dict(parameters=parameters, flop=counter.get_total_flops())

def times(step):
    def run(n):
        for _ in range(n): step()
    return run

# ---- training: noise, forward, loss, backward, clip to 1, Adam, running average

def keep_for_ever(state: Training):
    "As around the loop of `train`, but this one never ends"
    state.memory = keep_memory()
    state.memory.__enter__()

def ours_train(net: dict, batch: int, precision: str = 'auto', fast: bool = True):
    import accelerate   # all imports before `begin`
    facts = size_of(blank, net, True)
    begin()
    recipe = Recipe(batch=batch, precision=precision, fast=fast)
    state = Training(DDPM(our_unet(net), Schedule.linear()), recipe)
    drawing = state.drawing(images(net, batch))
    def step(): state.update(*drawing(state.step))
    if fast: keep_for_ever(state)
    return times(step), dict(facts, precision=str(state.dtype)[6:])

def diffusers_train(net: dict, batch: int, bf16: bool = False, compiled: bool = False):
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel
    facts = size_of(blank, net, True)
    begin()
    dtype = torch.bfloat16 if bf16 else torch.float32
    unet, data = diffusers_unet(net).to(memory_format=FORMAT[dtype]), images(net, batch)
    call = torch.compile(unet) if compiled else unet
    schedule = DDPMScheduler(1000)
    ema = EMAModel(unet.parameters(), decay=.9999, foreach=bf16)
    adam = torch.optim.Adam(unet.parameters(), lr=2e-4, fused=bf16 or None)
    def step():
        noise, t = torch.randn_like(data), torch.randint(0, 1000, (batch,))
        x_t = schedule.add_noise(data, noise, t).contiguous(memory_format=FORMAT[dtype])
        with torch.autocast('cpu', dtype, enabled=bf16): eps = call(x_t, t).sample
        F.mse_loss(eps.float(), noise).backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.)
        adam.step()
        adam.zero_grad()
        ema.step(unet.parameters())
    return times(step), dict(facts, precision=str(dtype)[6:])

def lucidrains_train(net: dict, batch: int):
    import denoising_diffusion_pytorch
    from ema_pytorch import EMA
    facts = size_of(lambda net: lucidrains(net).model, net, True)
    begin()
    diffusion = lucidrains(net)
    adam = torch.optim.Adam(diffusion.parameters(), lr=8e-5, betas=(.9, .99))
    ema = EMA(diffusion, beta=.995, update_every=10)
    data = images(net, batch)/2+.5
    def step():
        diffusion(data).backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.)
        adam.step()
        adam.zero_grad()
        ema.update()
    return times(step), facts

# ---- the loop around the step: nothing, or all that looks after a run

class Bare:
    "The optimizer of a run with a cut and an average, and nothing else"
    def __init__(self, state: Training):
        self.adam, self.params = state.optimizer, state.params
        self.averages = [*state.model.unet.parameters()]
    def step(self):
        nn.utils.clip_grad_norm_(self.params, 1.)
        self.adam.step()
        torch._foreach_lerp_(self.averages, self.params, 1e-4)
    def zero_grad(self): self.adam.zero_grad()

def bare_loop(net: dict, batch: int, fast: bool):
    "Algorithm 1 with the same network, optimiser and average, and nothing else"
    import accelerate
    facts = size_of(blank, net, True)
    begin()
    state = Training(DDPM(our_unet(net), Schedule.linear()), Recipe(batch=batch, fast=fast))
    data, optimizer = images(net, batch), Bare(state)
    keep_for_ever(state)
    state.net.train()
    def eps_theta(x_t, t):
        with torch.autocast('cpu', state.dtype, enabled=state.dtype!=torch.float32):
            return state.net(x_t, t)
    def step():
        x_0, t = data[torch.randint(len(data), (batch,))], torch.randint(1, 1001, (batch,))
        train_step(eps_theta, state.schedule, optimizer, x_0, t, torch.randn_like(x_0))
    return times(step), dict(facts, precision=str(state.dtype)[6:])

def whole_loop(net: dict, batch: int, fast: bool):
    """`train` into a folder, with log, tracker, checks and lock; it is left between two draws
    and entered again there"""
    import accelerate, tensorboard
    from greenlet import getcurrent, greenlet
    facts, outside = size_of(blank, net, True), getcurrent()
    begin()
    class Data:
        def __init__(self, x): self.x = x
        def __len__(self): return len(self.x)
        def __getitem__(self, i):
            if len(i)==batch: outside.switch()
            return self.x[i]
    ddpm, recipe = DDPM(our_unet(net), Schedule.linear()), Recipe(batch=batch, fast=fast)
    folder = tempfile.TemporaryDirectory(prefix='bench-run-')
    data = Data(images(net, batch))
    loop = greenlet(lambda: train(
        ddpm, data, recipe, folder.name, save_every=10**9, tracker='tensorboard'))
    loop.switch()
    run = times(loop.switch)
    run.folder = folder   # which lives as long
    return run, facts

# ---- sampling: run(n) is a whole chain of n steps, from noise

def answer(eps_theta, net: dict, batch: int) -> dict:
    "What the network says to a fixed input, to see whether the candidates compute the same"
    with torch.no_grad(): first = eps_theta(images(net, batch))[0]
    return dict(output=first.float().flatten().tolist())

def ours_sample(net: dict, batch: int, precision: str = 'auto', fast: bool = True):
    facts = size_of(blank, net, False)
    begin()
    ddpm = DDPM(our_unet(net).eval(), Schedule.linear())
    if fast: ddpm = ddpm.fast(precision)
    def run(n):
        for _ in replace(ddpm, schedule=Schedule.linear(n)).states(batch, batch=batch): pass
    tensors = *ddpm.unet.parameters(), *ddpm.unet.buffers()
    bf16 = any(p.dtype==torch.bfloat16 for p in tensors)
    # exactly as `sample` makes it: nothing compiles twice
    t = torch.arange(1001)[:, None].expand(-1, batch)[500]
    facts |= answer(lambda x: ddpm.unet(x, t), net, batch)
    return run, dict(facts, precision='bfloat16' if bf16 else 'float32')

def diffusers_sample(net: dict, batch: int, bf16: bool = False, compiled: bool = False):
    "As shipped it is `DDPMPipeline`; otherwise the pipeline's loop around a faster network"
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    facts = size_of(blank, net, False)
    begin()
    schedule, dtype = DDPMScheduler(1000), torch.bfloat16 if bf16 else torch.float32
    unet = diffusers_unet(net).eval().to(dtype, memory_format=FORMAT[dtype])
    if compiled:
        import torch._inductor.config as inductor
        inductor.freezing = True
    call = torch.compile(unet) if compiled else unet
    def eps_theta(x, t):
        return call(x.to(dtype).contiguous(memory_format=FORMAT[dtype]), t).sample.float()
    pipe = DDPMPipeline(unet=unet, scheduler=schedule)
    pipe.set_progress_bar_config(disable=True)
    def as_shipped(n): pipe(batch_size=batch, num_inference_steps=n, output_type='np')
    @torch.no_grad()
    def run(n):
        schedule.set_timesteps(n)
        x_t = torch.randn_like(images(net, batch))
        for t in schedule.timesteps:
            x_t = schedule.step(eps_theta(x_t, t), t, x_t).prev_sample
    facts |= answer(lambda x: eps_theta(x, torch.tensor(499)), net, batch)
    return run if bf16 else as_shipped, dict(facts, precision=str(dtype)[6:])

def lucidrains_sample(net: dict, batch: int):
    import denoising_diffusion_pytorch
    facts = size_of(lambda net: lucidrains(net).model, net, False)
    begin()
    diffusion = lucidrains(net).eval()
    def run(n):
        x_t = torch.randn_like(images(net, batch))
        for t in reversed(range(n)): x_t, _ = diffusion.p_sample(x_t, t)
    return run, facts

# ---- limits

class Convolutions(torch.utils._python_dispatch.TorchDispatchMode):
    "Notes the arguments of all convolutions, backward too"
    kinds = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default
    def __init__(self):
        super().__init__()
        self.calls = []
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        if f in self.kinds: self.calls.append((f, args))
        return f(*args, **(kwargs or {}))

def convolutions(net: dict, batch: int, train: bool, bf16: bool):
    "The network's convolutions and nothing between them, one after the other"
    with torch.device('meta'), Convolutions() as seen, torch.set_grad_enabled(train):
        y = blank(net)(torch.empty(batch, *shape_of(net)), torch.ones(batch, dtype=torch.long))
        if train: y.sum().backward()
    dtype = torch.bfloat16 if bf16 else torch.float32
    def real(v):
        if not isinstance(v, torch.Tensor): return v
        v = torch.randn(v.shape, dtype=dtype)
        return v.contiguous(memory_format=torch.channels_last) if v.dim()==4 else v
    calls = [(f, [real(a) for a in args]) for f, args in seen.calls]
    if not train: calls = [prepacked(*args) for _, args in calls]
    @torch.no_grad()
    def step():
        for f, args in calls: f(*args)
    return times(step), dict(precision=str(dtype)[6:])

def prepacked(x, w, b, stride, padding, dilation, transposed, output_padding, groups):
    "A convolution whose weights are laid out once, as they can be when they no longer change"
    mkldnn = torch.ops.mkldnn
    w = mkldnn._reorder_convolution_weight(w, padding, stride, dilation, groups, list(x.shape))
    args = x, w, b, padding, stride, dilation, groups, 'none', [], ''
    return mkldnn._convolution_pointwise.default, args

def matmul(dtype: str, n: int = 2048):
    a, b = (torch.randn(n, n).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(a)
    return times(lambda: torch.mm(a, b, out=out)), dict(flop=2*n**3)

def convolution(dtype: str, c: int, side: int, layout: str, batch: int = 16):
    dtype, layout = getattr(torch, dtype), getattr(torch, layout)
    x, w = (torch.randn(s).to(dtype).contiguous(memory_format=layout)
        for s in ((batch, c, side, side), (c, c, 3, 3)))
    step = torch.inference_mode()(lambda: F.conv2d(x, w, padding=1))
    return times(step), dict(flop=2*9*c*c*side*side*batch)

def copy(n: int = 36_000_000):
    a = torch.randn(n)
    b = torch.empty_like(a)
    return times(lambda: b.copy_(a)), dict(bytes=8*n)

# ---- samplers around a network that does nothing; one step of `run` is a chain of 1000

SHAPE, STEPS = (1, 3, 8, 8), 1000

def diffusers_empty():
    from diffusers import DDPMScheduler
    schedule = DDPMScheduler(1000)
    schedule.set_timesteps(1000)
    @torch.no_grad()
    def chain():
        x_t = torch.randn(SHAPE)
        for t in schedule.timesteps[:STEPS]:
            x_t = schedule.step(x_t, t, x_t).prev_sample
    return times(chain), {}

def lucidrains_empty():
    from denoising_diffusion_pytorch import GaussianDiffusion
    class Same(nn.Module):
        channels = out_dim = 3
        self_condition = False
        def forward(self, x, *rest): return x
    diffusion = GaussianDiffusion(Same(), image_size=8, timesteps=1000)
    def chain():
        x_t = torch.randn(SHAPE)
        for t in range(999, 999-STEPS, -1): x_t, _ = diffusion.p_sample(x_t, t)
    return times(chain), {}

def ours_empty():
    schedule = Schedule.linear(STEPS)
    @torch.inference_mode()   # as `DDPM.sample`
    def chain():
        noise = Noise(range(SHAPE[0]), SHAPE[1:])
        for _ in sample(lambda x, t: x, ddpm_steps(schedule), noise, True): pass
    return times(chain), {}

def floor_empty():
    """The least that Algorithm 2 asks of torch: all coefficients known beforehand, everything
    in place"""
    beta = torch.linspace(1e-4, .02, 1000, dtype=torch.float64)
    bar = (1-beta).cumprod(0)
    prev = torch.cat([bar.new_ones(1), bar[:-1]])
    columns = (bar.rsqrt(), -(1/bar-1).sqrt(), beta*prev.sqrt()/(1-bar),
        (1-prev)*(1-beta).sqrt()/(1-bar), beta.sqrt())
    table = torch.stack(columns, 1).tolist()
    @torch.inference_mode()
    def chain():
        x_t, x_0, noise = torch.randn(SHAPE), torch.empty(SHAPE), torch.empty(SHAPE)
        for t in range(999, 999-STEPS, -1):
            a, b, c, d, s = table[t]
            torch.mul(x_t, a, out=x_0).add_(x_t, alpha=b).clamp_(-1, 1)
            x_t.mul_(d).add_(x_0, alpha=c).add_(noise.normal_(), alpha=s)
    return times(chain), {}

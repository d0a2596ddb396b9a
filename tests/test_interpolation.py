"Interpolation with every sampler, any images and any network: its ends, its range, its noise."
import pytest, torch
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.interpolation import LAM, STRIP, decode_seeds, encode_seeds, mix
from helpers import awake

T = 20

def model(channels=3, size=(8, 12), classes=None, T=T):
    names = classes and [str(k) for k in range(classes)]
    unet = awake(UNet(size, channels, 8, (1, 2), (), 1, classes=classes))
    return DDPM(unet, Schedule.cosine(T), classes=names)

def images(ddpm, n=2, seed=0):
    return torch.rand(n, *ddpm.shape, generator=torch.Generator().manual_seed(seed))*2-1

WAYS = [('ddpm',), ('ddpm', 7), ('ddim', 20), ('ddim', 7, 0.), ('ddim', 7, .5),
    ('ddim', 7, 1.), ('dpm++', 7)]

@pytest.mark.parametrize('way', WAYS, ids=str)
@pytest.mark.parametrize('mixing', ['linear', 'spherical'])
def test_ends(way, mixing):
    """lam = 0 and 1 are the reconstructions, bit for bit, whatever stands between, at every t,
    also where the sampler does not stop"""
    ddpm = model().using(*way)
    x_0 = images(ddpm)
    for t in (0, 1, 2, 11, T):
        ends = ddpm.reconstruct(x_0, t, seed=3, batch=4)
        for lam in ([0, 1], [0, .3, .5, .8, 1]):   # one batch, two
            y = ddpm.interpolate(x_0, t, lam, mixing, seed=3, batch=4)
            assert torch.equal(y[[0, -1]], ends)
            assert y.shape==(len(lam), *ddpm.shape)
            assert y.abs().max()<=1
    assert torch.equal(ddpm.reconstruct(x_0, 0), x_0)
    assert torch.equal(ddpm.interpolate(x_0, 0, mixing=mixing),
        mix(x_0, LAM, mixing).clamp(-1, 1))

def test_labels():
    "A network that takes labels does without"
    ddpm = model(1, (8, 8), classes=3)
    x_0 = images(ddpm)
    assert torch.equal(ddpm.interpolate(x_0, 9)[[0, -1]], ddpm.reconstruct(x_0, 9))

def test_batches():
    "More images than a batch holds; and the images do not depend on how many lam there are"
    ddpm = model().using('ddpm', 5)
    x_0 = images(ddpm)
    y = ddpm.interpolate(x_0, 12, batch=3)
    assert torch.equal(y[[0, -1]], ddpm.reconstruct(x_0, 12, batch=3))
    assert torch.equal(y[3:4], ddpm.interpolate(x_0, 12, [.3], batch=3))

class Spy(torch.nn.Module):
    "A network that says 0, and keeps what it sees"
    def __init__(self, config):
        super().__init__()
        self.config, self.seen = config, []
        self.weight = torch.nn.Parameter(torch.zeros(1))   # a network has a device
    def forward(self, x, t):
        self.seen.append(x.clone())
        return 0*x

def test_noise():
    """Each image is encoded with noise of its own, all are decoded with the same, and no noise
    is used twice"""
    ddpm, black = model(1, (64, 64)), torch.zeros(3, 1, 64, 64)
    x_t = ddpm.q_encode(black, T, seed=5)
    noise = (x_t/(1-ddpm.schedule.alpha_bar[T].item())**.5).flatten(1)
    assert (noise.std(1)-1).abs().max()<5/(2*64**2)**.5
    ddpm.unet, ddpm.clip_x0 = Spy(ddpm.unet.config), False
    ddpm.reconstruct(black, T, seed=5)
    (a, b, *_), step = ddpm.unet.seen, ddpm.plan()[0]
    z = ((b-step.c*step.a*a-step.d*a)/step.s).flatten(1)[:3]
    assert (z-z[0]).abs().max()<1e-3, 'the decoding noise is not the same for all'
    every = torch.cat([noise, z[:1]])
    assert (torch.corrcoef(every)-torch.eye(4)).abs().max()<5/64
    assert torch.equal(x_t, ddpm.q_encode(black, T, seed=5))
    assert not torch.equal(x_t, ddpm.q_encode(black, T, seed=6))

def test_seeds():
    "One for each image on the way up, one for all on the way down, and none of them twice"
    up, down = encode_seeds(5, 4), decode_seeds(5, 4)
    assert len({*up})==4 and len({*down})==1 and not {*up} & {*down}
    assert encode_seeds(5, 2)==up[:2] and encode_seeds(6, 4)!=up

def test_noise_of_a_sampler_that_keeps_it():
    "has the length of noise on average, as that of `sample` has"
    ddpm = model(1, (16, 16)).using('ddim', 5)
    x_t = ddpm.q_encode(torch.zeros(3, 1, 16, 16), T, seed=5)
    noise = x_t/(1-ddpm.schedule.alpha_bar[T].item())**.5
    assert (noise.square().mean((1, 2, 3))-1).abs().max()<1e-5

def test_mix_weights():
    """Linear weights add up to 1; the squares of spherical ones do; each is the mirror image
    of the other end"""
    x = torch.eye(2, dtype=torch.float64)
    w, v = mix(x, LAM), mix(x, LAM, 'spherical')
    one, half = torch.ones(11, dtype=w.dtype), torch.full((2,), .5, dtype=w.dtype)
    assert torch.allclose(w.sum(1), one) and torch.allclose(v.square().sum(1), one)
    assert torch.allclose(w[5], half) and torch.allclose(v[5], half.sqrt())
    for u in (w, v):
        assert torch.equal(u[[0, -1]], x)
        assert torch.allclose(u, u.flip(0, 1))
        assert (u[:, 1].diff()>0).all()
    # two sets of images
    assert mix(torch.rand(2, 5, 1, 8, 8), [.2, .4, .6]).shape==(3, 5, 1, 8, 8)
    assert mix(torch.rand(2, 1, 8, 8), torch.tensor([.25])).dtype==torch.float32

def test_strip():
    ddpm = model().using('ddim', 3)
    x_0 = images(ddpm)
    s = ddpm.strip(x_0, 11, mixing='spherical', seed=2)
    assert len(s)==len(STRIP)==13 and STRIP[::6]==['source', 'λ = 0.5', 'source']
    assert torch.equal(s[[0, -1]], x_0)
    assert torch.equal(s[[1, -2]], ddpm.reconstruct(x_0, 11, 2))
    assert torch.equal(s[6:7], ddpm.interpolate(x_0, 11, [.5], 'spherical', 2))

TWO = images(model())
@pytest.mark.parametrize('change, says', [
    (dict(x_0=images(model(), 3)), 'two images'),
    (dict(x_0=images(model(), 1)), 'two images'),
    (dict(x_0=TWO[:, :1]), r'\(n, 3, 8, 12\)'),
    (dict(x_0=TWO[0]), r'\(n, 3, 8, 12\)'),
    (dict(x_0=TWO[:0]), r'images must have shape \(n, 3, 8, 12\)'),
    (dict(x_0=TWO*1.01), r'\[-1, 1\]'),
    (dict(x_0=TWO*torch.nan), r'\[-1, 1\]'),
    (dict(t=-1), 'between 0 and 20'),
    (dict(t=21), 'between 0 and 20'),
    (dict(lam=[0, 1.1]), 'from 0 to 1'),
    (dict(lam=[-.1]), 'from 0 to 1'),
    (dict(lam=[float('nan')]), 'from 0 to 1'),
    (dict(lam=[]), 'at least 1'),
    (dict(mixing='round'), 'linear, spherical'),
    (dict(batch=-1), 'batch'),
    (dict(batch=0), 'batch'),
    (dict(seed=-1), 'non-negative')], ids=str)
def test_refusals(change, says):
    args = dict(x_0=TWO, t=10) | change
    with pytest.raises(ValueError, match=says): model().interpolate(**args)

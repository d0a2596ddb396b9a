"Chapter 12 on networks as they come: fast ones, other devices' batches, counted calls."
from dataclasses import replace
import pytest, torch
from torch import nn
import ddpm_lit.unet
from ddpm_lit.forward import q_sample
from ddpm_lit.training import design, seed_for

@pytest.fixture(scope='module')
def model():
    "Untrained, but for the weights that begin as zero; with labels"
    m, _ = design('tiny', (1, 8, 8), classes=['cat', 'dog', 'owl']); g = torch.Generator().manual_seed(0)
    for p in m.unet.parameters():
        if not p.detach().any(): nn.init.normal_(p, std=.1, generator=g)
    return replace(m, unet=m.unet.eval()).using('ddpm', 5)

class Counted(nn.Module):
    def __init__(self, unet): super().__init__(); self.unet, self.config, self.calls = unet, unet.config, []
    def forward(self, x, t, *y): self.calls.append(len(x)); return self.unet(x, t, *y)

def test_fast_then_labelled(model, monkeypatch):
    monkeypatch.setattr(ddpm_lit.unet, 'can_compile', lambda device: False)
    fast = model.fast('float32')
    for w in (0, 2): assert (fast.labelled('dog', w).sample(2, batch=2)-model.labelled('dog', w).sample(2, batch=2)).abs().max()<1e-4
    for m in (fast, model.labelled('dog'), fast.labelled('dog')):
        with pytest.raises(ValueError, match=r'call fast\(\) first'): m.fast()

def test_calls(model):
    x, mask = torch.zeros(1, 8, 8), torch.ones(8, 8)
    for w, size in ((0, 2), (3, 4)):
        net = Counted(model.unet); m = replace(model, unet=net).labelled('owl', w)
        m.sample(2, batch=2); assert net.calls==[size]*5; net.calls.clear()
        m.inpaint(x, mask, 2, batch=2, resample=3, jump=2); assert net.calls==[size]*13; net.calls.clear()
        m.share(T:=model.schedule.T, 1, 2, batch=2); assert net.calls==[size]*5; net.calls.clear()
        m.share(T*3//5, 1, 2, batch=2); assert net.calls==[size]*5

def test_seeds_not_batches(model):
    "Image k depends on its seed alone"
    x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)); mask = torch.arange(64).reshape(8, 8)%3==0
    fill = lambda **k: model.inpaint(x, mask, resample=2, batch=4, **k)
    assert fill(n=6, seed=3)[4:].equal(fill(n=2, seed=7)) and fill(n=6, seed=3)[[1, 5]].equal(fill(n=2, seed=[4, 8]))
    clean = lambda **k: model.denoise(x, .7, batch=4, **k)
    assert clean(n=6, seed=3)[4:].equal(clean(n=2, seed=7)); assert not clean(n=1).equal(clean(n=1, seed=1))
    a, b = model.share(60, 3, 2, seed=[5, 9, 7], batch=4), model.share(60, 1, 2, seed=7, batch=4)
    assert a[0][2:].equal(b[0]) and a[1][2:].equal(b[1])
    assert not model.share(60, 1, 2, batch=4)[1][0, 1].equal(model.decode(a[0][:1], 60, seed_for(5, 1), 4)[0])

@pytest.mark.parametrize('label, k', [('cat', 0), (0, 0), ('2', 2), (torch.tensor(1).item(), 1)])
def test_labels(model, label, k): assert model.labelled(label).unet.label==k

@pytest.mark.parametrize('label', ['bee', 3, -1, '-1', None, 1.5, ''])
def test_no_such_label(model, label):
    with pytest.raises(ValueError, match='choose one of cat, dog, owl'): model.labelled(label)

def test_many_labels():
    m, _ = design('tiny', (1, 8, 8), classes=[f'c{k}' for k in range(99)])
    with pytest.raises(ValueError, match='c9, ..., or its number'): m.labelled('d')
    for w in (-.1, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='guidance'): m.labelled(0, w)

def test_known_part_is_noisy(model):
    "After each step the known pixels are draws of q(x_u | x_0)"
    x, mask, seen = torch.full((1, 8, 8), .8), torch.zeros(8, 8), {}; mask[0, 0] = 1
    class Looking(Counted):
        def forward(self, x, t): seen[int(t[0])] = x[:, 0][:, mask==0]; return x
    replace(model, unet=Looking(model.unet)).inpaint(x, mask, 64, batch=64); ab = model.schedule.alpha_bar
    assert sorted(seen)==[20, 40, 60, 80, 100]
    for t, k in seen.items():
        n = k.numel(); sd = (1-ab[t].item())**.5
        assert abs(k.mean().item()-.8*ab[t].item()**.5)<4*sd/n**.5 and abs(k.std().item()/sd-1)<4/(2*n)**.5

def test_denoise_begins_where_the_noise_is(model):
    "x_t is an image with noise, but for a factor: divided by it, and with its noise named, `denoise` goes on as `decode` does"
    x_0, eps = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for t in (1, 20, 37, 60, 99):
        ab = model.schedule.alpha_bar[t].item(); x_t = q_sample(model.schedule, x_0[None], t, eps[None])
        y, std = x_0 + (1/ab-1)**.5*eps, (1/ab-1)**.5
        assert (model.denoise(y, std, 2, batch=2)-model.decode(x_t.expand(2, -1, -1, -1), t, 0, 2)).abs().max()<1e-3
    assert model.denoise(x_0, 0, 1)[0].equal(x_0)

"Chapter 12 on networks as they come: fast ones, other devices' batches, counted calls."
from copy import deepcopy
from dataclasses import replace
import pytest, torch
from torch import nn
import ddpm_lit.workshop.speed
from ddpm_lit.conditional import child_seeds, perturbed, resampled
from ddpm_lit.denoiser import zero_terminal_snr
from ddpm_lit.forward import Schedule, q_sample
from ddpm_lit.sampling import ddpm_steps, steps_of
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import design, train
from ddpm_lit.training import seed_for
from ddpm_lit.unet import Attention, UNet

@pytest.fixture(scope='module')
def model():
    "Untrained, but for the weights that begin as zero; with labels"
    m, _ = design('tiny', (1, 8, 8), classes=['cat', 'dog', 'owl'])
    g = torch.Generator().manual_seed(0)
    for p in m.unet.parameters():
        if not p.detach().any(): nn.init.normal_(p, std=.1, generator=g)
    return replace(m, unet=m.unet.eval()).using('ddpm', 5)

class Counted(nn.Module):
    "A network that notes how many images it is asked for"
    def __init__(self, unet):
        super().__init__()
        self.unet, self.config, self.calls = unet, unet.config, []
    def forward(self, x, t, *y):
        self.calls.append(len(x))
        return self.unet(x, t, *y)

@pytest.mark.parametrize('shape', [(1, 8, 7), (2, 8, 8), (1, 1, 8, 8), (64,), ()])
def test_masks_of_another_shape(model, shape):
    x = torch.zeros(1, 8, 8)
    with pytest.raises(ValueError,
        match=r'of shape \(8, 8\), \(1, 8, 8\) or \(1, 8, 8\), not'):
        model.inpaint(x, torch.ones(shape), 1)
    with pytest.raises(ValueError, match='0.5'): model.inpaint(x, torch.full((8, 8), .5), 1)

def test_values_stay_as_they_are(model):
    """A model that does not clip its predictions draws what it draws, by every way; one that
    does stays within [-1, 1]"""
    x, mask, ones = torch.zeros(1, 8, 8), torch.ones(8, 8), torch.ones(4, 1, 8, 8)
    free = replace(model, clip_x0=False)
    ways = dict(
        sample=lambda m: m.sample(4, batch=4),
        decode=lambda m: m.decode(3*ones, 60, batch=4),
        progressive=lambda m: m.progressive(4, columns=3, batch=4)[0],
        inpaint=lambda m: m.inpaint(x, mask, 4, batch=4),
        reconstruct=lambda m: m.reconstruct(ones, 100, batch=4))
    for name, draw in ways.items():
        assert draw(model).abs().max()<=1, name
        assert draw(free).abs().max()>1.2, name
    *_, last = free.states(4, batch=4)
    assert last.x_t.equal(free.sample(4, batch=4))

def test_authors_count_jumps_from_the_other_end():
    """RePaint's list of steps (get_schedule_jump of its code) against ours: T = 250, jump
    length 10, each taken 10 times"""
    jumps, t, calls = dict.fromkeys(range(0, 250-10, 10), 9), 250, 0
    while t>=1:
        t -= 1
        calls += 1
        if jumps.get(t, 0):
            jumps[t] -= 1
            t += 10
    schedule = Schedule.linear(250, 4e-4, .08)
    ours = [s for s in resampled(schedule, ddpm_steps(schedule), 10, 10) if s.b]
    assert (calls, len(ours))==(2410, 2491)

@pytest.mark.parametrize('sampler', ['dpm++', 'dpm++3m'])
def test_a_pass_does_not_look_at_the_one_before(sampler):
    "After the way up the predictions before are of another image"
    schedule = Schedule.linear()
    steps = resampled(schedule, steps_of(schedule, sampler, 10), rounds=3, jump=2)
    after = [(first, second) for way_up, first, second in zip(steps, steps[1:], steps[2:])
        if way_up.u>way_up.t]
    assert len(after)==10 and any(s.e for s in steps)
    for first, second in after: assert first.e==first.f==second.f==0
    asked, ahead = [], {s.t: s.u for s in steps}   # with one step at a time
    for s in resampled(schedule, steps_of(schedule, sampler, 10), rounds=3):
        if s.e: assert ahead[asked[-1]]==s.t
        if s.f: assert ahead[asked[-2]]==asked[-1]
        if s.b: asked.append(s.t)

def test_fast_then_labelled(model, monkeypatch):
    monkeypatch.setattr(ddpm_lit.workshop.speed, 'can_compile', lambda device: False)
    fast = model.fast('float32')
    for w in (0, 2):
        x, y = (m.labelled('dog', w).sample(2, batch=2) for m in (fast, model))
        assert (x-y).abs().max()<1e-4
    x, y = (m.sample(2, batch=2) for m in (model.pag(0).fast('float32'), model))
    assert (x-y).abs().max()<1e-4
    for m in (fast, model.labelled('dog'), fast.labelled('dog')):
        with pytest.raises(ValueError, match=r'call fast\(\) first'): m.fast()

def test_measurements_that_make_sense(model, monkeypatch):
    "Linear ones, also a single number, also where x_T holds nothing; with gradients"
    def mean(x): return x.mean((1, 2, 3))
    y = torch.tensor(.3)
    with pytest.raises(ValueError, match='not linear.*up to 0.5'):
        model.measured(y, lambda x: (mean(x)+1)/2)
    for predicts in ('v', 'x_0'):
        none = replace(model, schedule=zero_terminal_snr(Schedule.linear(100)),
            predicts=predicts)
        assert none.measured(y, mean).sample(2, batch=2).isfinite().all()
    monkeypatch.setattr(ddpm_lit.workshop.speed, 'can_compile', lambda device: False)
    with pytest.raises(ValueError, match='no gradients'):
        model.fast('float32').labelled('cat').measured(y, mean)

def test_measurements_that_are_not_linear(model):
    def squared(x): return x[:, :, ::2].square()
    y = torch.zeros(1, 4, 8)
    with pytest.raises(ValueError, match='doubled'): model.measured(y, squared)

def test_labelled_after_pag_and_measured(model):
    def half(x): return x[:, :, ::2]
    way, y = model.using('ddim', 3), torch.zeros(1, 4, 8)
    one, other = (way.pag(.3).measured(y, half).labelled(k).sample(1) for k in (1, 2))
    first = way.labelled(1).pag(.3).measured(y, half).sample(1)
    assert torch.equal(one, first) and not torch.equal(one, other)

def test_latents_where_churn_goes_up(model):
    way = model.using('heun', 40, churn=1., spacing='log-snr')
    assert any(step.u==99>step.t for step in way.plan())
    assert len(way.latents(99, 1))==1

def test_a_label_beside_a_picture():
    m, _ = design('tiny', (1, 8, 8), classes=['cat', 'dog'], picture='half', channels=8)
    shown = m.shown(torch.zeros(1, 1, 8, 8))
    both = m.given(dict(picture=shown)).labelled('dog').unet.y
    assert both['classes'].tolist()==[1] and torch.equal(both['picture'], shown)
    with pytest.raises(ValueError, match='go to `labelled`'): m.given(['dog'])
    assert m.labelled(torch.tensor([1, 0])).unet.y['classes'].tolist()==[1, 0]

def test_what_is_told_or_fast_is_not_trained(model):
    with pytest.raises(ValueError, match='train the model itself'):
        train(model.labelled('cat'), torch.zeros(4, 1, 8, 8), Recipe(steps=1, batch=2))

def test_calls(model):
    """How often the network is asked, and for how many images: for both with and without the
    label, if it is guided"""
    x, mask, T = torch.zeros(1, 8, 8), torch.ones(8, 8), model.schedule.T
    def calls(draw, w):
        net = Counted(model.unet)
        draw(replace(model, unet=net).labelled('owl', w))
        return net.calls
    for w, size in ((0, 2), (3, 4)):
        assert calls(lambda m: m.sample(2, batch=2), w)==[size]*5
        made = calls(lambda m: m.inpaint(x, mask, 2, batch=2, resample=3, jump=2), w)
        assert made==[size]*13
        for t in (T, T*3//5): assert calls(lambda m: m.share(t, 1, 2, batch=2), w)==[size]*5

def test_seeds_not_batches(model):
    "Image k depends on its seed alone"
    x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(64).reshape(8, 8)%3==0
    def fill(**k): return model.inpaint(x, mask, resample=2, batch=4, **k)
    def clean(**k): return model.denoise(x, .7, batch=4, **k)
    assert fill(n=6, seed=3)[4:].equal(fill(n=2, seed=7))
    assert fill(n=6, seed=3)[[1, 5]].equal(fill(n=2, seed=[4, 8]))
    assert clean(n=6, seed=3)[4:].equal(clean(n=2, seed=7))
    assert not clean(n=1).equal(clean(n=1, seed=1))
    (x_t, children), (x_7, of_7) = (model.share(60, len(seeds), 2, seed=seeds, batch=4)
        for seeds in ([5, 9, 7], [7]))
    assert x_t[2:].equal(x_7) and children[2:].equal(of_7)
    other = model.share(60, 1, 2, batch=4)[1][0, 1]
    assert not other.equal(model.decode(x_t[:1], 60, seed_for(5, 1), 4)[0])
    assert child_seeds([5, 9], 2)==[
        seed_for(5, 0), seed_for(5, 1), seed_for(9, 0), seed_for(9, 1)]

@pytest.mark.parametrize('label, k',
    [('cat', 0), (0, 0), ('2', 2), (torch.tensor(1).item(), 1)])
def test_labels(model, label, k): assert model.labelled(label).unet.y.tolist()==[k]

def test_a_name_wins_over_a_number(model):
    turned = replace(model, classes=['2', '0', '1'])
    assert turned.labelled(['0', 0]).unet.y.tolist()==[1, 0]

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
    x, mask, seen = torch.full((1, 8, 8), .8), torch.zeros(8, 8), {}
    mask[0, 0] = 1
    class Looking(Counted):
        def forward(self, x, t):
            seen[int(t[0])] = x[:, 0][:, mask==0]
            return x
    replace(model, unet=Looking(model.unet)).inpaint(x, mask, 64, batch=64)
    assert sorted(seen)==[20, 40, 60, 80, 100]
    for t, known in seen.items():
        ab, n = model.schedule.alpha_bar[t].item(), known.numel()
        sd = (1-ab)**.5
        assert abs(known.mean().item()-.8*ab**.5)<4*sd/n**.5
        assert abs(known.std().item()/sd-1)<4/(2*n)**.5

def test_denoise_begins_where_the_noise_is(model):
    """x_t is an image with noise, but for a factor: divided by it, and with its noise named,
    `denoise` goes on as `decode` does"""
    x_0, eps = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for t in (1, 20, 37, 60, 99):
        ab = model.schedule.alpha_bar[t].item()
        x_t, std = q_sample(model.schedule, x_0[None], t, eps[None]), (1/ab-1)**.5
        answers = model.denoise(x_0+std*eps, std, 2, batch=2)
        assert (answers-model.decode(x_t.expand(2, -1, -1, -1), t, 0, 2)).abs().max()<1e-3
    assert model.denoise(x_0, 0, 1)[0].equal(x_0)

def test_attention_alone_is_put_out_of_order():
    "Several heads, at several places: the answer is that of matrices that are made 1"
    torch.manual_seed(0)
    net = UNet((8, 8), 1, 16, (1, 2), (8,), attention_head_dim=4).eval()
    for p in net.parameters():
        if not p.detach().any(): nn.init.normal_(p, std=.1)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 9])
    def itself(layer, args, answer):
        v = layer.split(layer.to_v(layer.group_norm(args[0]).flatten(2).mT))
        weight = torch.eye(v.shape[2]).expand(*v.shape[:3], -1)
        h = layer.to_out[0]((weight @ v).transpose(1, 2).flatten(2))
        return args[0] + h.mT.unflatten(2, args[0].shape[2:])
    with torch.no_grad():
        before, worse = net(x, t), perturbed(net)(x, t)
        assert torch.equal(net(x, t), before) and (worse-before).abs().max()>1e-3
        layers = [m for m in net.modules() if isinstance(m, Attention)]
        for m in layers: m.register_forward_hook(itself)
        assert len(layers)>2 and torch.allclose(net(x, t), worse, atol=1e-5)

def test_autoguided(model):
    "Away from a worse network: (1+w) of one answer, less w of the other"
    worse = replace(model, unet=deepcopy(model.unet))
    with torch.no_grad():
        for p in worse.unet.parameters(): p.mul_(.9)
    guided, x = model.autoguided(worse, 2), torch.randn(3, *model.shape)
    t = torch.full((3,), 2)
    with torch.inference_mode():
        a, b = model.unet(x, t), worse.unet(x, t)
        assert torch.allclose(guided.unet(x, t), 3*a-2*b, atol=1e-4)
    assert (a-b).abs().max()>1e-3 and 'autoguidance 2' in guided.way()
    same = guided.labelled('dog', 1).sample(3, batch=3)
    assert torch.allclose(model.labelled('dog', 1).autoguided(worse, 2).sample(3, batch=3),
        same, atol=1e-5)
    assert torch.allclose(model.autoguided(worse, 0).sample(3, batch=3),
        model.sample(3, batch=3), atol=1e-5)
    y = torch.zeros(1, 4, 8)
    assert guided.measured(y, lambda x: x[:, :, ::2]).sample(2, batch=2).isfinite().all()
    for other in (replace(model, predicts='v'), design('tiny', (1, 8, 8))[0]):
        with pytest.raises(ValueError, match='another kind'): model.autoguided(other, 1)
    for other in (guided, model.fast(), worse.labelled('dog')):
        with pytest.raises(ValueError, match='plain'): model.autoguided(other, 1)
    for wrong in (guided, model.fast()):
        with pytest.raises(ValueError, match='once'): wrong.autoguided(worse, 1)
    with pytest.raises(ValueError, match='guidance'): model.autoguided(worse, -1)

def test_pag(model):
    "Twice the calls, w = 0 changes nothing, and what cannot be is refused"
    plain = model.sample(3, batch=3)
    guided = model.pag(2)
    assert torch.equal(model.sample(3, batch=3), plain)
    assert torch.allclose(model.pag(0).sample(3, batch=3), plain, atol=1e-5)
    assert (guided.sample(3, batch=3)-plain).abs().max()>1e-3
    net, calls = guided.unet, []
    for one in (net.unet, net.worse):
        one.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    guided.labelled('dog', 1).sample(3, batch=3)
    assert calls==[6]*2*5
    for wrong in (guided, model.fast(), guided.labelled(0)):
        with pytest.raises(ValueError, match='once'): wrong.pag(1)
    for w in (-1, float('inf'), float('nan')):
        with pytest.raises(ValueError, match='guidance'): model.pag(w)
    for act in (guided.save_pretrained, lambda _: train(guided, torch.zeros(4, 1, 8, 8))):
        with pytest.raises(ValueError, match='guided|pag'): act('nowhere')

"What maintainers run by hand: the authors' weights, against their network in NHWC."
import json

import numpy as np
import pytest
import torch

from ddpm_lit.forward import Schedule
from ddpm_lit.unet import UNet
from ddpm_lit.workshop.weights import load_model, unet_config
from from_tensorflow import AVERAGE, from_tensorflow, main, tf_name
from mutants import Mutant, edits


def swish(x): return x/(1+(-x).exp())

class Authors:
    """The network of Ho et al.'s code as it is defined there: pixels before channels,
    variables made (here at random) where they are first used"""
    def __init__(self):
        self.arrays, self.rng = {}, np.random.default_rng(0)

    def var(self, name, *shape):
        if name not in self.arrays:
            centre = 1. if name.endswith('gamma') else 0.
            values = centre + self.rng.normal(size=shape)*.1
            self.arrays[name] = values.astype(np.float32)
        return torch.tensor(self.arrays[name], dtype=torch.float64)

    def dense(self, x, name, n):
        "What is called nin is the same on every pixel"
        return x @ self.var(f'{name}/W', x.shape[-1], n) + self.var(f'{name}/b', n)

    def conv(self, x, name, n, stride=1):
        "Padding SAME: as many pixels as the last window needs, the odd one right and below"
        height, width = x.shape[1:3]
        h, w = -(-height//stride), -(-width//stride)
        top, left = max((h-1)*stride+3-height, 0)//2, max((w-1)*stride+3-width, 0)//2
        wide = x.new_zeros(len(x), height+2, width+2, x.shape[3])
        wide[:, top:top+height, left:left+width] = x
        weight = self.var(f'{name}/W', 3, 3, x.shape[-1], n)
        out = self.var(f'{name}/b', n)
        for i in range(3):
            for j in range(3):
                seen = wide[:, i:i+(h-1)*stride+1:stride, j:j+(w-1)*stride+1:stride]
                out = out + seen @ weight[i, j]
        return out

    def norm(self, x, name, groups=32):
        g = x.unflatten(-1, (groups, -1))
        mean = g.mean((1, 2, 4), keepdim=True)
        variance = g.var((1, 2, 4), correction=0, keepdim=True)
        g = ((g-mean)/(variance+1e-6).sqrt()).flatten(-2)
        return g*self.var(f'{name}/gamma', x.shape[-1]) + self.var(f'{name}/beta', x.shape[-1])

    def block(self, x, temb, name, n):
        h = self.conv(swish(self.norm(x, f'{name}/norm1')), f'{name}/conv1', n)
        h = h + self.dense(swish(temb), f'{name}/temb_proj', n)[:, None, None]
        h = self.conv(swish(self.norm(h, f'{name}/norm2')), f'{name}/conv2', n)
        if x.shape[-1]!=n: x = self.dense(x, f'{name}/nin_shortcut', n)
        return x + h

    def attend(self, x, name):
        b, h, w, c = x.shape
        n = self.norm(x, f'{name}/norm')
        q, k, v = (self.dense(n, f'{name}/{part}', c) for part in 'qkv')
        weights = (torch.einsum('bhwc,bijc->bhwij', q, k)/c**.5).flatten(3).softmax(-1)
        seen = torch.einsum('bhwij,bijc->bhwc', weights.view(b, h, w, h, w), v)
        return x + self.dense(seen, f'{name}/proj_out', c)

    def embed(self, t, ch):
        frequencies = 10000**(-torch.arange(ch//2, dtype=torch.float64)/(ch//2-1))
        angle = t.double()[:, None]*frequencies
        temb = self.dense(torch.cat([angle.sin(), angle.cos()], 1), 'model/temb/dense0', 4*ch)
        return self.dense(swish(temb), 'model/temb/dense1', 4*ch)

    def __call__(self, x, t, ch=32, ch_mult=(1, 2, 2), blocks=2, at=(4,)):
        temb, last = self.embed(t, ch), len(ch_mult)-1
        hs = [self.conv(x, 'model/conv_in', ch)]
        for i, m in enumerate(ch_mult):
            for j in range(blocks):
                h = self.block(hs[-1], temb, f'model/down_{i}/block_{j}', m*ch)
                if h.shape[1] in at: h = self.attend(h, f'model/down_{i}/attn_{j}')
                hs.append(h)
            if i<last: hs.append(self.conv(hs[-1], f'model/down_{i}/downsample/conv', m*ch, 2))
        h = self.block(hs[-1], temb, 'model/mid/block_1', m*ch)
        h = self.attend(h, 'model/mid/attn_1')
        h = self.block(h, temb, 'model/mid/block_2', m*ch)
        for i in range(last, -1, -1):
            for j in range(blocks+1):
                both = torch.cat([h, hs.pop()], -1)
                h = self.block(both, temb, f'model/up_{i}/block_{j}', ch_mult[i]*ch)
                if h.shape[1] in at: h = self.attend(h, f'model/up_{i}/attn_{j}')
            if i:
                h = h.repeat_interleave(2, 1).repeat_interleave(2, 2)
                h = self.conv(h, f'model/up_{i}/upsample/conv', h.shape[-1])
        return self.conv(swish(self.norm(h, 'model/norm_out')), 'model/conv_out', 3)

@pytest.fixture(scope='module')
def theirs():
    "Their arrays, a network of ours of that shape, and what it should answer"
    torch.manual_seed(0)
    authors, x, t = Authors(), torch.randn(2, 3, 8, 8), torch.tensor([1, 700])
    # they count from 0
    want = authors(x.permute(0, 2, 3, 1).double(), t-1).permute(0, 3, 1, 2)
    unet = UNet((8, 8), channels=32, multipliers=(1, 2, 2), attention=(4,), groups=32).eval()
    return authors.arrays, unet, (x, t), want

def named(arrays, suffix, plus=0): return {k+suffix: v+plus for k, v in arrays.items()}

@pytest.mark.parametrize('kind', ['plain', 'numbered', 'averaged', 'as saved in training'])
def test_their_network_is_ours(theirs, kind):
    arrays, unet, inputs, want = theirs
    averaged = named(arrays, AVERAGE)
    optimiser = {**named(arrays, '/Adam'), **named(arrays, '/Adam_1'),
        'global_step': np.array(7)}
    given = {
        'plain': arrays,
        'numbered': named(arrays, ':0'),
        'averaged': averaged,
        'as saved in training': {**averaged, **named(arrays, '', plus=1), **optimiser}}[kind]
    for p in unet.parameters(): torch.nn.init.zeros_(p)
    unet.load_state_dict(from_tensorflow(given, unet))
    with torch.no_grad(): assert (unet(*inputs)-want).abs().max()<1e-5*want.abs().max()

def test_what_does_not_fit_is_named(theirs):
    arrays, unet, *_ = theirs
    name, more = 'model/down_1/block_0/nin_shortcut/W', 'model/down_1/block_7/conv1/W'
    wrong = [
        ({k: v for k, v in arrays.items() if k!=name}, f'{name} is missing'),
        ({**arrays, more: arrays[name]}, f'{more} has no place in this network'),
        ({**arrays, name: arrays[name].T}, fr'{name}: .* \(32, 64, 1, 1\), not \(64, 32,'),
        ({**arrays, name: arrays[name][0]}, f'{name}: in our order')]
    for given, says in wrong:
        with pytest.raises(ValueError, match=says): from_tensorflow(given, unet)
    with pytest.raises(ValueError, match='groups=32, not 16'):   # every shape would fit
        from_tensorflow(arrays, UNet((8, 8), channels=32, multipliers=(1, 2, 2), groups=16))

@pytest.mark.parametrize('ours, name', [
    ('time_embedding.linear_1.weight', 'temb/dense0/W'),
    ('conv_in.weight', 'conv_in/W'),
    ('down_blocks.0.downsamplers.0.conv.weight', 'down_0/downsample/conv/W'),
    ('down_blocks.1.resnets.0.norm1.weight', 'down_1/block_0/norm1/gamma'),
    ('down_blocks.1.resnets.0.conv_shortcut.weight', 'down_1/block_0/nin_shortcut/W'),
    ('down_blocks.1.attentions.0.to_q.weight', 'down_1/attn_0/q/W'),
    ('mid_block.resnets.1.time_emb_proj.bias', 'mid/block_2/temb_proj/b'),
    ('mid_block.attentions.0.to_out.0.weight', 'mid/attn_1/proj_out/W'),
    ('up_blocks.0.resnets.2.conv2.bias', 'up_3/block_2/conv2/b'),
    ('conv_norm_out.bias', 'norm_out/beta')])
def test_names_of_the_paper(ours, name):
    "In the network of CIFAR-10, which has four levels"
    assert tf_name(ours, 4)=='model/'+name

def test_square_matrices_fit_both_ways_round(theirs):
    "So no check of shapes sees whether queries and keys were turned, but the output does"
    arrays, unet, inputs, want = theirs
    turned = {k: v.T if '/attn' in k and v.ndim==2 else v for k, v in arrays.items()}
    unet.load_state_dict(from_tensorflow(turned, unet))
    with torch.no_grad(): assert (unet(*inputs)-want).norm()>.01*want.norm()

def test_the_script(theirs, tmp_path):
    arrays, unet, inputs, want = theirs
    np.savez(tmp_path/'them.npz', **named(arrays, AVERAGE))
    (tmp_path/'config.json').write_text(json.dumps(unet_config(unet.config)))
    main(str(tmp_path/'them.npz'), str(tmp_path/'model'), str(tmp_path/'config.json'))
    model = load_model(tmp_path/'model')
    assert torch.equal(model.schedule.beta, Schedule.linear().beta) and model.sigma=='beta'
    with torch.no_grad(): assert (model.unet(*inputs)-want).abs().max()<1e-5*want.abs().max()

# ---------------------------------------------------------------- wrong edits
LAID_OUT = """
NAMES = dict(a=1,
    b=2)
class Step:
    def mean(self, x):   # é, two bytes
        é = 'é'; x = (
            x*
            2)   # twice
        return (x+1)**2
    def loud(self, x):
        if x: print(x)
        return (x +1)*f'{x*2}'
"""

@pytest.mark.parametrize('where, old, new, says', [
    ('mean', '(x+1)**2', 'x+1', 'return (x+1)\n'),
    ('mean', 'x+1', 'x', 'return ((x))**2'),
    ('Step.mean', 'x = x*2', 'pass', "é = 'é'; pass   # twice"),
    ('loud', 'x+1', 'x', "return ((x))*f'{x*2}'"),
    ('loud', 'x*2', 'x', "f'{(x)}'"),
    ('loud', 'print(x)', 'pass', 'if x: pass\n'),
    ('NAMES', 'dict(a=1, b=2)', '{}', 'NAMES = ({})\n')])
def test_a_wrong_edit_finds_code_in_any_layout(where, old, new, says):
    edited, = edits(LAID_OUT, Mutant(where, old, new, ''))
    assert says in edited and says not in LAID_OUT

@pytest.mark.parametrize('where, old, times', [
    ('Step', 'x+1', 2), ('Step', 'self.x', 0), ('ean', 'x+1', 0), ('mean.é', "'é'", 1)])
def test_a_wrong_edit_has_one_place(where, old, times):
    assert len(edits(LAID_OUT, Mutant(where, old, 'x', '')))==times

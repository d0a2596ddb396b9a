"The fast ways give the numbers of the plain ones; where there is no compiler they still run."
import math, os, subprocess, sys
from copy import deepcopy
import pytest
import torch
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.workshop import speed
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import Training
from ddpm_lit.workshop.speed import dtype_for, fast, fuse, has_bf16_units
from helpers import awake
from runs import apart, compiled, one_thread

TINY = dict(size=(4, 4), channels=8, multipliers=(1,), attention=(), res_blocks=1)


def small(levels=2):
    "The middle attends"
    return UNet((16, 16), channels=16, multipliers=(1,)*levels, attention=(), res_blocks=1)


def batches(n):
    "Images, times and noise, always the same"
    g = torch.Generator().manual_seed(0)
    for _ in range(n):
        x_0 = torch.rand(8, 3, 16, 16, generator=g)*2-1
        t = torch.randint(1, 1001, (8,), generator=g)
        yield x_0, t, torch.randn(8, 3, 16, 16, generator=g)


@compiled
@pytest.mark.soak
def test_fast_training_is_training():
    """Three steps, the dropout off: same losses, gradients and weights; one takes up the
    other's state"""
    def begin(fast):
        recipe = Recipe(steps=9, warmup=1, precision='float32', fast=fast)
        return Training(DDPM(awake(small(1)), Schedule.linear()), recipe)
    plain, quick = begin(False), begin(True)
    assert quick.net.down_blocks[0].resnets[0]._compiled_call_impl
    for batch in batches(3):
        (loss, length), (quick_loss, quick_length) = plain.update(*batch), quick.update(*batch)
        assert torch.allclose(loss, quick_loss, rtol=1e-5)
        assert math.isclose(length, quick_length, rel_tol=1e-4)
    kept = {k: v.clone() for k, v in quick.tensors().items()}
    for k, v in plain.tensors().items():   # Adam turns rounding into lr
        assert torch.allclose(v, kept[k], rtol=1e-3, atol=1e-3), k
    quick.restore({k: v.contiguous() for k, v in kept.items()}, 3)
    for k, v in quick.tensors().items():
        assert torch.equal(v, kept[k]), k
    for p, m in zip(quick.params, quick.optimizer.state.values()):
        assert m['exp_avg'].stride()==p.stride()


@compiled
@pytest.mark.soak   # chapter workshop/02_speed does it, too
def test_a_fast_network_is_the_same_network():
    "Names and weights stay; a deep copy is not compiled, and counts as the plain one does"
    plain = awake(small(1))
    weights = {k: v.clone() for k, v in plain.state_dict().items()}
    quick = fast(deepcopy(plain))
    assert isinstance(quick, UNet) and quick.config==plain.config
    for net in quick, deepcopy(quick):
        assert [k for k, _ in net.named_parameters()]==[k for k, _ in plain.named_parameters()]
        assert [*net.state_dict()]==[*weights]
        for k, v in net.state_dict().items():
            assert torch.equal(v, weights[k]), k
    x_t, t, _ = next(batches(1))
    copy = deepcopy(quick)
    assert not any(m._compiled_call_impl for m in copy.modules())
    with torch.no_grad():
        want = plain.to(memory_format=torch.channels_last)(x_t, t)
        assert torch.equal(copy(x_t, t), want)
        assert (quick(x_t, t)-want).abs().max()<1e-5


@pytest.mark.parametrize('way', [lambda net: None, fuse], ids=['plain', 'fused'])
@apart
def test_a_reader_may_compile_the_network(way):
    """No graph break, also in a copy, and from weights that were assigned to a network without
    any; the state dict has only what diffusers has"""
    with torch.device('meta'):
        net = UNet(**TINY)
    net.load_state_dict(awake(UNet(**TINY)).state_dict(), assign=True)
    way(net)
    net, x_t, t = deepcopy(net.eval()), torch.randn(2, 3, 4, 4), torch.tensor([1, 9])
    y = torch.compile(net, fullgraph=True, backend='eager')(x_t, t)   # a break is an error
    assert (y-net(x_t, t)).abs().max()<1e-5
    assert not [*net.buffers()]


@compiled
@pytest.mark.soak
@pytest.mark.parametrize('levels', [1, 2])
def test_fast_sampling_is_sampling(levels):
    ddpm = DDPM(awake(small(levels)), Schedule.cosine(20))
    x = ddpm.sample(6, batch=4)
    assert (ddpm.fast('float32').sample(6, batch=4)-x).abs().max()<1e-4
    assert not ddpm.unet.training
    assert ddpm.unet.time_embedding(torch.tensor([3])).shape==(1, 64)   # untouched


def test_fast_refuses(monkeypatch):
    "With or without a compiler"
    monkeypatch.setattr(speed, 'can_compile', lambda device: False)
    ddpm = DDPM(awake(small(1)), Schedule.cosine(20))
    with pytest.raises(ValueError, match='bfloat16'):
        ddpm.fast('half')
    with pytest.raises(ValueError, match='save the model'):
        ddpm.fast().save_pretrained('never')


@compiled
@pytest.mark.soak
def test_fast_sampling_in_bfloat16():
    ddpm = DDPM(awake(small(1)), Schedule.cosine(20))
    x = ddpm.sample(6, batch=4)
    off = (ddpm.fast('bfloat16').sample(6, batch=4)-x).square().mean()
    assert off < (x-x.flip(0)).square().mean()/400


WITHOUT_COMPILER = '''
import torch
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.workshop.speed import FastUNet, can_compile, fast

assert not can_compile('cpu')
ddpm = DDPM(fast(UNet((16, 16), channels=16, multipliers=(1, 2))), Schedule.cosine(3))
x = ddpm.sample(2)
assert (ddpm.fast('float32').sample(2)-x).abs().max()<1e-5
assert (ddpm.fast('bfloat16').sample(2)-x).abs().max()<.1

x_t, t, y = torch.ones(2, 3, 8, 8), torch.tensor([1, 2]), torch.tensor([2, -1])
for classes, labels in (None, []), (3, [y]):
    net = UNet((8, 8), channels=16, multipliers=(1, 2), classes=classes).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=.2)
    with torch.no_grad():
        off = (FastUNet(net, 3, 'float32')(x_t, t, *labels)-net(x_t, t, *labels)).abs().max()
    assert off<1e-5, off
'''


def test_no_compiler_no_matter(tmp_path):
    nowhere = dict(CXX='no-such-compiler', TORCHINDUCTOR_CACHE_DIR=str(tmp_path), IN_TEST='1')
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', WITHOUT_COMPILER],
        env={**os.environ, **nowhere}, capture_output=True, text=True)
    assert r.returncode==0 and not r.stderr, r.stderr[-2000:]

@pytest.mark.parametrize('pays, has', [
    (True, dict(amx_bf16=True, avx512_bf16=True, cpu_name='Intel(R) Xeon(R) Processor')),
    (False, dict(amx_bf16=False, avx512_bf16=True, cpu_name='Intel(R) Xeon(R) Processor')),
    (True, dict(amx_bf16=False, avx512_bf16=True, cpu_name='AMD EPYC')),
    (False, dict(avx512_bf16=False, cpu_name='AMD Ryzen 7')),
    (False, {})])
def test_where_bfloat16_pays(pays, has, monkeypatch):
    "As `bench/formats.py` measured it; an older torch knows less of a CPU"
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: has)
    assert has_bf16_units(torch.device('cpu'))==pays
    assert dtype_for('auto', torch.device('cpu'))==(torch.bfloat16 if pays else torch.float32)

"The fast ways give the numbers of the plain ones; where there is no compiler they still run."
import math, os, shutil, subprocess, sys, pytest, torch
from copy import deepcopy
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.training import Recipe, Training
from ddpm_lit.unet import can_compile
from helpers import awake

def small(levels=2): return UNet((16, 16), channels=16, multipliers=(1,)*levels, attention=(), res_blocks=1)   # the middle attends
compiled = pytest.mark.skipif(not can_compile('cpu'), reason='torch.compile finds no compiler')

@compiled
def test_fast_training_is_training():
    "Three steps, the dropout off: same losses, gradient lengths and weights; and a checkpoint of one goes on in the other"
    runs = {fast: Training(DDPM(awake(small(1)), Schedule.linear()), Recipe(steps=9, warmup=1, precision='float32', fast=fast)) for fast in (False, True)}
    assert runs[True].net.down_blocks[0].resnets[0]._compiled_call_impl
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        batch = torch.rand(8, 3, 16, 16, generator=g)*2-1, torch.randint(1, 1001, (8,), generator=g), torch.randn(8, 3, 16, 16, generator=g)
        (la, na), (lb, nb) = (run.update(*batch) for run in runs.values())
        assert torch.allclose(la, lb, rtol=1e-5) and math.isclose(na, nb, rel_tol=1e-4)
    plain, fast = runs.values(); before = {k: v.clone() for k, v in fast.tensors().items()}
    for k, v in plain.tensors().items(): assert torch.allclose(v, before[k], rtol=1e-3, atol=1e-3), k   # Adam turns rounding into lr
    fast.restore({k: v.contiguous() for k, v in before.items()}, 3)
    for k, v in fast.tensors().items(): assert torch.equal(v, before[k]), k
    for p, m in zip(fast.params, fast.optimizer.state.values()): assert m['exp_avg'].stride()==p.stride()

def test_a_reader_may_compile_the_network():
    "No graph break, also in a copy, and from weights that were assigned to a network without any; the state dict has only what diffusers has"
    with torch.device('meta'): net = UNet((4, 4), channels=8, multipliers=(1,), attention=(), res_blocks=1)
    net.load_state_dict(awake(UNet((4, 4), channels=8, multipliers=(1,), attention=(), res_blocks=1)).state_dict(), assign=True)
    net, x, t = deepcopy(net.eval()), torch.randn(2, 3, 4, 4), torch.tensor([1, 9])
    y = torch.compile(net, fullgraph=True, backend='eager')(x, t)   # a break is an error
    assert (y-net(x, t)).abs().max()<1e-5 and not [*net.buffers()]

@compiled
def test_fast_sampling_is_sampling():
    ddpm = DDPM(awake(small()), Schedule.cosine(20)); x = ddpm.sample(6, batch=4)
    assert (ddpm.fast('float32').sample(6, batch=4)-x).abs().max()<1e-4
    assert not ddpm.unet.training and ddpm.unet.time_embedding(torch.tensor([3])).shape==(1, 64)   # untouched
    with pytest.raises(ValueError, match='bfloat16'): ddpm.fast('half')
    with pytest.raises(ValueError, match='save the model'): ddpm.fast().save_pretrained('never')

@compiled
@pytest.mark.soak
def test_fast_sampling_in_bfloat16():
    ddpm = DDPM(awake(small(1)), Schedule.cosine(20))
    x = ddpm.sample(6, batch=4)
    assert (ddpm.fast('bfloat16').sample(6, batch=4)-x).square().mean() < (x-x.flip(0)).square().mean()/400

def test_no_compiler_no_matter(tmp_path):
    code = ('import torch; from ddpm_lit import *; from ddpm_lit.unet import can_compile; assert not can_compile("cpu"); u = UNet((16, 16), channels=16, multipliers=(1, 2)).fast(); '
        'd = DDPM(u, Schedule.cosine(3)); a = d.sample(2); b = d.fast("float32").sample(2); c = d.fast("bfloat16").sample(2); assert (a-b).abs().max()<1e-5 and (a-c).abs().max()<.1; '
        'from ddpm_lit.unet import FastUNet; n = UNet((8, 8), channels=16, multipliers=(1, 2), classes=3).eval(); torch.nn.init.normal_(n.class_embedding.weight); torch.nn.init.normal_(n.conv_out.weight); x, t, y = torch.ones(2, 3, 8, 8), torch.tensor([1, 2]), torch.tensor([2, -1]); '
        'assert (FastUNet(n, 3, "float32")(x, t, y)-n(x, t, y)).abs().max()<1e-5')
    env = {**os.environ, 'CXX': 'no-such-compiler', 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path), 'IN_TEST': '1'}
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, capture_output=True, text=True)
    assert r.returncode==0 and not r.stderr, r.stderr[-2000:]

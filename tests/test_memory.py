"""Training in less memory: blocks are computed a second time, and nothing else changes."""
from copy import deepcopy
from dataclasses import replace
import pytest
import torch
from torch import nn
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.data import digits
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import Training, train
from ddpm_lit.workshop.speed import Again, save_memory
from runs import compiled, one_thread
from test_networks import NETWORKS

ONE = Recipe(steps=3, batch=8, lr=1e-3, warmup=1, label_dropout=0., precision='float32')

def unet() -> nn.Module:
    return UNet((8, 8), 1, channels=16, multipliers=(1, 2), attention=(4,), res_blocks=1,
        dropout=.2)

def random(net: nn.Module) -> nn.Module:
    "With weights that are nowhere zero"
    g = torch.Generator().manual_seed(0)
    for p in net.parameters(): nn.init.normal_(p, std=.05, generator=g)
    return net

def kept(net: nn.Module, *given) -> tuple[list[torch.Tensor], int]:
    "The gradients of a step, and how many tensors are kept for it from outside of blocks"
    saved = []
    def keep(x):
        saved.append(x)
        return x
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        torch.manual_seed(1)   # for dropout
        loss = net.train()(*given).square().mean()
    loss.backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None], len(saved)

@pytest.mark.parametrize('name', ['unet', 'transformer', 'diffusers'])
def test_the_same_gradient_and_less_is_kept(name):
    net = random(unet() if name=='unet' else NETWORKS[name]())
    labels = () if name=='unet' else (torch.tensor([3, 4]),)
    given = torch.randn(2, 1, 8, 8), torch.tensor([1, 20]), *labels
    usual, many = kept(deepcopy(net), *given)
    again, few = kept(save_memory(net), *given)
    assert len(usual)==len(again)>10
    assert all(torch.equal(a, b) for a, b in zip(usual, again))
    assert few<many/2

def test_a_run_is_the_same_and_what_it_returns_is_plain():
    ddpm = DDPM(random(unet()), Schedule.cosine(20))
    less = replace(ONE, save_memory=True, accumulate=2)
    usual, saved = (train(replace(ddpm, unet=deepcopy(ddpm.unet)), digits(), recipe)
        for recipe in (replace(ONE, accumulate=2), less))
    assert all(map(torch.equal, usual.unet.state_dict().values(),
        saved.unet.state_dict().values()))
    assert not any(isinstance(m, Again) for m in saved.unet.modules())

def test_blocks_are_computed_twice_in_training_only():
    net, calls = save_memory(random(unet())), []
    net.mid_block.resnets[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    given = torch.randn(2, 1, 8, 8), torch.tensor([1, 20])
    net(*given).sum().backward()
    assert len(calls)==2
    net.eval()(*given).sum().backward()
    assert len(calls)==3
    assert type(save_memory(net).mid_block.resnets[0]).__mro__.count(Again)==1   # said twice

def test_a_network_without_blocks_is_refused():
    with pytest.raises(ValueError, match='Mine has no blocks'):
        Training(DDPM(NETWORKS['mine'](), Schedule.cosine(20)), replace(ONE, save_memory=True))

@pytest.mark.soak
@pytest.mark.parametrize('name', ['unet', 'transformer'])
@compiled
def test_compiled_blocks_too(name):
    "The numbers of a run whose blocks are compiled and computed twice"
    net = random(unet() if name=='unet' else NETWORKS[name]())
    names = None if name=='unet' else [str(k) for k in range(10)]
    ddpm = DDPM(net, Schedule.cosine(20), classes=names)
    recipe = replace(ONE, steps=2)
    if name=='unet':   # a program has random numbers of its own
        for m in net.modules():
            if isinstance(m, nn.Dropout): m.p = 0.
    plain = train(replace(ddpm, unet=deepcopy(net)), digits(), recipe)
    both = train(ddpm, digits(), replace(recipe, fast=True, save_memory=True))
    for k, v in plain.unet.state_dict().items():
        assert torch.allclose(v, both.unet.state_dict()[k], atol=1e-4), k

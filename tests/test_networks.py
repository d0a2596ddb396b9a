"""Networks of one's own: what still works with a transformer, a few layers of a user, and a
network of diffusers."""
import json
import pytest, torch
from diffusers import UNet2DModel
from torch import nn
from ddpm_lit import DDPM, Schedule
from ddpm_lit.data import digits
from ddpm_lit.denoiser import DiT
from ddpm_lit.workshop.doctor import diagnose
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import operations, train, trial
from ddpm_lit.workshop.weights import FromDiffusers, own_config
from runs import compiled, one_thread

class Mine(nn.Module):
    "A user's: a convolution, and a number for each time"
    def __init__(self, size, image_channels=1, width=8, T=20):
        super().__init__()
        self.config = dict(size=size, image_channels=image_channels, width=width, T=T)
        self.first = nn.Conv2d(image_channels, width, 3, padding=1)
        self.time = nn.Embedding(T+1, width)
        self.last = nn.Conv2d(width, image_channels, 3, padding=1)

    def forward(self, x_t, t):
        return self.last((self.first(x_t)+self.time(t)[:, :, None, None]).relu())

def a_unet_of_diffusers():
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16),
        down_block_types=('DownBlock2D', 'AttnDownBlock2D'), attention_head_dim=4,
        up_block_types=('AttnUpBlock2D', 'UpBlock2D'), norm_num_groups=4, act_fn='gelu',
        num_class_embeds=10)

NETWORKS = dict(
    transformer=lambda: DiT((8, 8), 1, width=16, depth=1, heads=2, classes=10),
    mine=lambda: Mine((8, 8)),
    diffusers=lambda: FromDiffusers(a_unet_of_diffusers()))

def recipe(steps=6, **more):
    return Recipe(steps=steps, batch=8, lr=1e-3, warmup=1, label_dropout=0., **more)

def model(name, predicts='v'):
    torch.manual_seed(0)
    names = None if name=='mine' else [f'digit {k}' for k in range(10)]
    return DDPM(NETWORKS[name](), Schedule.cosine(20), classes=names, predicts=predicts)

def pictures(ddpm, n=4):
    one = ddpm.labelled(3) if ddpm.classes else ddpm
    return one.using('dpm++', 4).sample(n, batch=n)

@pytest.mark.parametrize('name', NETWORKS)
def test_a_run_is_saved_goes_on_and_is_read(name, tmp_path):
    "As without a stop, bit for bit; and what the folder holds is the network that was trained"
    whole = train(model(name), digits(), recipe(), out=tmp_path/'whole')
    train(model(name), digits(), recipe(3), out=tmp_path/'run')
    ended = train(model(name), digits(), recipe(), out=tmp_path/'run', resume=True)
    weights = ended.unet.state_dict()
    for k, v in whole.unet.state_dict().items(): assert torch.equal(v, weights[k])
    read = DDPM.from_pretrained(tmp_path/'run', network=type(whole.unet))
    assert (read.predicts, read.classes, read.shape)==('v', whole.classes, (1, 8, 8))
    assert torch.equal(pictures(read), pictures(whole))

@pytest.mark.parametrize('name', NETWORKS)
def test_the_doctor_and_the_bound_take_it(name):
    ddpm = model(name).eval()
    found = {finding.name for finding in diagnose(ddpm, digits(), n=16, samples=4).findings}
    assert {'loss', 'schedule', 'last step'}<=found
    one = ddpm.labelled(0) if ddpm.classes else ddpm
    assert one.vlb(pictures(ddpm).mul(127.5).round().div(127.5), levels=None,
        times=3).bits_per_dim.isfinite().all()

@pytest.mark.parametrize('name', NETWORKS)
def test_it_can_be_tried(name):
    ddpm = model(name)
    assert trial(ddpm, recipe(), steps=1).operations==recipe().batch*operations(ddpm)>0

def test_what_is_no_label_is_refused():
    ddpm = model('transformer')
    for wrong in (None, [None], 10):
        with pytest.raises(ValueError, match='there is no label'): ddpm.labelled(wrong)
    with pytest.raises(ValueError, match='a dict of them by kind'):
        ddpm.given(dict(classes=[3]))

@pytest.mark.soak
@compiled
def test_a_transformer_is_guided_and_compiled(tmp_path):
    ddpm = model('transformer')
    nn.init.normal_(ddpm.unet.out.weight)
    nn.init.normal_(ddpm.unet.blocks[0].modulation.weight)
    plain, guided = (ddpm.eval().labelled(3, w).sample(2, batch=2) for w in (0., 2.))
    assert not torch.equal(plain, guided)
    how = dict(steps=3, precision='float32')
    fast = train(model('transformer'), digits(), recipe(**how, fast=True))
    slow = train(model('transformer'), digits(), recipe(**how))
    for k, v in slow.unet.state_dict().items():
        assert torch.allclose(v, fast.unet.state_dict()[k], atol=1e-4)

def test_a_class_is_not_imported_because_a_folder_says_so(tmp_path):
    ddpm = model('mine')
    ddpm.save_pretrained(tmp_path)
    says = json.loads((tmp_path/'unet'/'config.json').read_text())
    assert says==json.loads(json.dumps(own_config(ddpm.unet)))
    with pytest.raises(ValueError, match=r'from_pretrained\(..., network=Mine\)'):
        DDPM.from_pretrained(tmp_path)
    says['_class_name'] = 'antigravity:Geohash'
    (tmp_path/'unet'/'config.json').write_text(json.dumps(says))
    with pytest.raises(ValueError, match='antigravity:Geohash'): DDPM.from_pretrained(tmp_path)

def test_ours_are_announced(tmp_path):
    "The package's own networks need no word: the command reads them"
    from ddpm_lit.workshop.cli import main
    model('transformer').save_pretrained(tmp_path/'m')
    assert isinstance(DDPM.from_pretrained(tmp_path/'m').unet, DiT)
    assert main(['info', str(tmp_path/'m')])==0
    assert main(['sample', str(tmp_path/'m'), '--label', 'digit 3', '--steps', '3',
        '--out', str(tmp_path/'a.png')])==0

class Forgetful(Mine):
    "Its config does not say all that it was made with"
    def __init__(self, size, width=8):
        super().__init__(size, width=width)
        del self.config['width']

@pytest.mark.parametrize('net,words', [
    (Forgetful((8, 8), width=4), 'Forgetful cannot be saved as a model'),
    (nn.Conv2d(1, 1, 1), 'has no attribute .config')])
def test_what_could_not_be_made_again_is_refused_at_once(net, words, tmp_path):
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=words):
        train(DDPM(net, Schedule.cosine(20)), digits(), recipe(), out=tmp_path/'run')
    assert not calls and not (tmp_path/'run').exists()

def test_no_label_is_not_the_last_label():
    ddpm = model('diffusers').eval()
    for asked in (ddpm, ddpm.labelled(9, guidance=1.)):
        with pytest.raises(ValueError, match='no row for "no label"'): asked.sample(1)
    assert ddpm.labelled(9).sample(1).isfinite().all()

"""The doctor names each planted fault, and nothing else; it finds nothing wrong with the same
data and recipe without the fault."""
import json, math, warnings
from dataclasses import replace
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from PIL import Image
from torch import nn
from ddpm_lit import DDPM, Schedule, UNet, sampling
from ddpm_lit.workshop import runs
from ddpm_lit.workshop.cli import main
from ddpm_lit.data import Images, Items, to_model
from ddpm_lit.workshop.files import load
from ddpm_lit.workshop.doctor import Case, _copies, _number, _rate, diagnose
from ddpm_lit.exact import Mixture
from ddpm_lit.sampling import State
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import train

RECIPE = Recipe(steps=240, batch=32, lr=4e-3, warmup=24, ema_decay=.9875)

def unet(channels: int, classes: int|None = None, width: int = 16):
    torch.manual_seed(0)
    return UNet((8, 8), channels, channels=width, multipliers=(1,), res_blocks=1,
        attention=(), classes=classes)

def coloured() -> Images:
    "Digits in four warm inks on three dark papers, with a little noise"
    d, g = load('digits'), np.random.default_rng(0)
    def pick(colours):
        which = g.integers(len(colours), size=len(d))
        return np.array(colours)[which][..., None, None]
    ink = pick([[250, 60, 30], [250, 160, 40], [240, 230, 90], [160, 220, 60]])
    paper = pick([[20, 20, 60], [40, 30, 120], [10, 60, 110]])
    x = paper + (ink-paper)*(d.images/255) + g.normal(0, 6, (len(d), 3, 8, 8))
    return Images(x.round().clip(0, 255).astype(np.uint8), flip=False)

class Plants:
    "Trains what a case asks for, once"
    def __init__(self, home):
        self.home = home
        self.made = {}
        self.digits = load('digits')
        self.colour = coloured()

    def __call__(self, name: str, data, schedule=None, sigma='beta_tilde', classes=None,
            predicts='eps', **recipe) -> dict:
        if name not in self.made:
            net = unet(data[[0]].shape[1], classes=classes)
            # clip_x0 is off, else `train` refuses numbers that are not in [-1, 1];
            # loops of others do not
            ddpm = DDPM(net, schedule or Schedule.cosine(100), sigma, clip_x0=False,
                predicts=predicts)
            ddpm = train(ddpm, data, replace(RECIPE, **recipe), self.home/name)
            ddpm = replace(ddpm, clip_x0=True)
            self.made[name] = dict(ddpm=ddpm, data=data, run=self.home/name)
        return dict(self.made[name])

    def healthy(self): return self('healthy', self.digits)
    def healthy_colour(self): return self('colour', self.colour)
    def healthy_linear(self):
        return self('linear', self.digits, Schedule.linear(250, 4e-4, .08), 'beta')
    def healthy_v(self): return self('v', self.digits, predicts='v', weighting='noise')
    def healthy_labels(self): return self('labels', self.digits, classes=10)
    def shipped(self): return dict(ddpm=DDPM.from_pretrained('digits'), data=self.digits)

    def unit(self): return self('unit', (to_model(self.digits[:])+1)/2)
    def unit_shown_right_data(self): return {**self.unit(), 'data': self.digits}
    def levels(self): return self('levels', self.digits[:].float())
    def levels_shown_right_data(self): return {**self.levels(), 'data': self.digits}
    def swapped_channels(self):
        bgr = Images(self.colour.images[:, ::-1], flip=False)
        return {**self.healthy_colour(), 'data': bgr}
    def negatives(self):
        return {**self.healthy(), 'data': Images(255-self.digits.images, flip=False)}
    def unscaled_schedule(self):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return self('T200', self.digits, Schedule.linear(200), 'beta')
    def other_schedule(self):
        h = self.healthy()
        return {**h, 'ddpm': replace(h['ddpm'], schedule=Schedule.cosine(120))}
    def long_average(self):
        old = runs.ema_update
        def constant(d):
            return lambda averages, weights, k: torch._foreach_lerp_(averages, weights, 1-d)
        runs.ema_update = constant
        try:
            return self('average', self.digits, steps=300, ema_decay=.9999)
        finally:
            runs.ema_update = old
    def high_rate(self): return self('rate', self.digits, lr=100*RECIPE.lr)
    def high_rate_of_v(self):
        return self('rate of v', self.digits, predicts='v', lr=100*RECIPE.lr)
    def shuffled_labels(self):
        labels = np.random.default_rng(0).permutation(self.digits.labels)
        wrong = replace(self.digits, labels=labels)
        return {**self('shuffled', wrong, classes=10), 'data': self.digits}
    def thirty_images(self): return self('thirty', Images(self.digits.images[:30], flip=False))
    def never_trained(self):
        return dict(ddpm=DDPM(unet(1), Schedule.cosine(100), 'beta_tilde'), data=self.digits)
    def v_never_trained(self):
        return dict(ddpm=replace(self.never_trained()['ddpm'], predicts='v'), data=self.digits)
    def not_a_number(self):
        net = unet(1)
        nn.init.constant_(net.conv_out.bias, torch.nan)
        return dict(ddpm=DDPM(net, Schedule.cosine(100)), data=self.digits)
    def hardly_trained(self): return self('short', self.digits, steps=30, warmup=0)
    def noise_at_the_end(self):
        h = self.healthy_linear()
        good = sampling.sample
        sigma_1 = h['ddpm'].schedule.beta[1].sqrt().item()
        def bad(eps_theta, steps, noise, *args):
            for s in good(eps_theta, steps, noise, *args):
                yield s if s.t else State(0, x := s.x_t+sigma_1*noise(), x)
        return {**h, 'patch': (sampling, 'sample', bad)}
    def learned_by_heart(self):
        s = Schedule.cosine(100)
        world = Mixture(s, to_model(self.digits[:]))
        class Memory(nn.Linear):
            config = unet(1).config
            def forward(self, x_t, t): return world.eps(x_t, t)
        return dict(ddpm=DDPM(Memory(1, 1), s, 'beta_tilde'), data=self.digits)

@pytest.fixture(scope='module')
def plants(tmp_path_factory): return Plants(tmp_path_factory.mktemp('runs'))

CASES = dict(
    healthy=[],
    healthy_colour=[],
    healthy_linear=[],
    healthy_v=[],
    healthy_labels=[],
    shipped=[],
    unit=['range'],
    unit_shown_right_data=['belief'],
    unscaled_schedule=['schedule'],
    long_average=['average'],
    noise_at_the_end=['last step'],
    swapped_channels=['belief'],
    levels=['range'],
    levels_shown_right_data=['belief'],
    high_rate=['rate'],
    high_rate_of_v=['rate'],
    shuffled_labels=['told'],
    thirty_images=['number'],
    never_trained=['output'],
    v_never_trained=['output'],
    not_a_number=['output'],
    other_schedule=['settings'],
    hardly_trained=['loss'],
    learned_by_heart=['copies'],
    negatives=['belief'])
# which of the things that a check can say
KINDS = dict(
    unit='numbers in [0, 1]',
    unit_shown_right_data='knows numbers in [0, 1]',
    levels='grey levels 0..255',
    levels_shown_right_data='knows grey levels 0..255',
    swapped_channels='knows BGR',
    negatives='knows negatives',
    learned_by_heart='training images lie 33 from')
# chapter workshop/07_doctor plants these, too, or others are so nearly the same
CAN_WAIT = {
    'healthy_labels', 'healthy_linear', 'healthy_colour', 'levels', 'levels_shown_right_data',
    'unit', 'unit_shown_right_data', 'unscaled_schedule', 'high_rate', 'high_rate_of_v',
    'thirty_images', 'noise_at_the_end', 'long_average', 'swapped_channels', 'never_trained'}

@pytest.mark.parametrize('name',
    [pytest.param(k, marks=pytest.mark.soak if k in CAN_WAIT else ()) for k in CASES])
def test_the_fault_is_named_and_nothing_else(plants, name, monkeypatch):
    case = getattr(plants, name)()
    if 'patch' in case:
        monkeypatch.setattr(*case.pop('patch'))
    d = diagnose(**case, samples=16, seed=1)
    assert d.faults==CASES[name], d
    for f in d.findings:
        if f.ok is False:
            assert KINDS.get(name, '') in f.sentence and f.advice

@pytest.mark.soak
@pytest.mark.parametrize('seed', range(2, 4))
def test_the_shipped_model_is_well_whatever_it_is_tried_on(plants, seed):
    d = diagnose(**plants.shipped(), samples=8, seed=seed)
    assert d.faults==[], d

def test_the_picture_is_drawn_even_if_nothing_is_a_number(plants, tmp_path):
    d = diagnose(**plants.not_a_number())
    fig = d.figure()
    fig.savefig(tmp_path/'p.png')
    plt.close(fig)
    assert d.samples is None
    assert 'not finite' in str(d)
    assert Image.open(tmp_path/'p.png').size[0]>=800

def test_the_same_seed_gives_the_same_words(plants):
    case = plants.healthy()
    a, b, c = (str(diagnose(**case, samples=4, seed=s)) for s in (3, 3, 4))
    assert a==b!=c

def test_wrong_input(plants):
    ddpm = DDPM.from_pretrained('digits')
    with pytest.raises(ValueError, match='shape'):
        diagnose(ddpm, coloured())
    with pytest.raises(ValueError, match='labels'):
        diagnose(DDPM(unet(1, classes=10), Schedule.cosine(100)), to_model(load('digits')[:]))
    with pytest.raises(ValueError, match='at least two'):
        diagnose(ddpm, torch.zeros(1, 1, 8, 8))
    digits = load('digits')
    for wrong, says in (dict(n=1), 'at least 2'), (dict(samples=0), 'at least 1'), (
            dict(run='nowhere'), 'no folder nowhere'):
        with pytest.raises(ValueError, match=says): diagnose(ddpm, digits, **wrong)
    with pytest.raises(ValueError, match='another network'):
        other = DDPM(unet(1, width=24), Schedule.cosine(100))
        diagnose(other, digits, plants.healthy()['run'])
    with pytest.raises(ValueError, match='another network'):
        other = DDPM(unet(1, classes=10), Schedule.cosine(100))
        diagnose(other, digits, plants.healthy()['run'])
    x = to_model(digits[:40])
    x[3, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match='not finite'): diagnose(ddpm, x)
    same = to_model(digits[:1]).expand(40, -1, -1, -1)
    with pytest.raises(ValueError, match='all images are the same'): diagnose(ddpm, same)

def test_pale_images_are_no_fault():
    pale = Images(255-load('digits').images//2)
    d = diagnose(DDPM.from_pretrained('digits'), pale, n=16, samples=4)
    assert [f.ok for f in d.findings if f.name=='range']==[True]

def test_a_log_without_gradients_is_no_fault():
    case = Case(DDPM.from_pretrained('digits'), load('digits'), 64, 0)
    rows = [dict(step=10*k, loss=.4/(1+k/50), lr=1e-3, grad_norm=math.nan) for k in range(100)]
    assert _rate(case, rows, {}).ok
    for k, row in enumerate(rows): row['grad_norm'] = .1*1.05**k
    assert not _rate(case, rows, {}).ok

def test_labels_of_what_is_no_picture():
    digits = load('digits')
    pairs = [(3*to_model(digits[[k]])[0], digits.labels[k]) for k in range(40)]
    case = Case(DDPM.from_pretrained('digits-class'), Items(pairs), 8, 0)
    assert case.images.max()>2
    assert case.y.tolist()==digits.labels[case.indices[:8]].tolist()

def test_what_is_read_one_by_one_is_not_said_to_be_all():
    "Copies of images that were not looked at are not found, and it says so"
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (20_000, 1, 8, 8), generator=g, dtype=torch.uint8)
    case = Case(DDPM.from_pretrained('digits'), Items(x), 8, 0)
    assert case.total==20_000 and 'there are 20,000 images' in _number(case).sentence
    found = _copies(case, to_model(x[1::300][:64]))
    assert f'of {len(case.data):,} that were looked at' in found.sentence

def test_the_command(plants, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    # the package's folder is not written to
    assert main(['doctor', 'digits', '--samples', '6'])==0
    assert 'nothing wrong in' in capsys.readouterr().out
    assert Image.open('doctor.png').size[0]>800

    thirty = plants.thirty_images()['run']
    folder = tmp_path/'few'
    folder.mkdir()
    for k in range(30):
        Image.fromarray(load('digits').images[k, 0]).save(folder/f'{k:02}.png')
    assert main(['doctor', str(thirty), str(folder), '--out', 'x/y.png', '--samples', '4'])==1
    assert 'found: number' in capsys.readouterr().out
    assert (tmp_path/'x'/'y.png').exists()

    run = plants.hardly_trained()['run']
    # as the command `train` writes it
    (run/'train.json').write_text('{"data": "digits", "size": null}')
    assert main(['doctor', str(run), '--samples', '4'])==1
    assert 'found: loss' in capsys.readouterr().out
    assert (run/'doctor.png').exists()

    told = json.dumps(dict(data=str(tmp_path/'moved'), size=None))
    (run/'train.json').write_text(told)
    assert main(['doctor', str(run)])==2
    assert 'moved, which is not there: give DATA' in capsys.readouterr().err

    (run/'train.json').write_text('{"data": 3, "size": "x"}')
    for wrong, says in (
            ([run, 'nothing'], 'nothing'),
            (['nothing'], 'nothing'),
            ([run], 'trained on'),
            ([thirty], 'trained on'),
            ([run, '--out', run], 'directory')):
        assert main(['doctor', *map(str, wrong)])==2
        err = capsys.readouterr().err
        assert says in err and err.count('\n')==1

def test_a_network_that_knows_nothing_is_not_said_to_know_its_data(plants):
    "It may look better on grey levels 0..255, where to answer zero is nearly right"
    ten = plants('ten', plants.digits, steps=10, warmup=0)['ddpm']
    for case in (plants.never_trained(), dict(ddpm=ten, data=plants.digits)):
        d = diagnose(**case, samples=1)
        shares = {k: v for k, (v, _) in d.shares.items()}
        belief, = [f for f in d.findings if f.name=='belief']
        assert shares['grey levels 0..255']<shares['the data as given']
        assert shares['the data as given']>1
        assert belief.ok is None and 'knows nothing yet' in belief.sentence and belief.advice
    findings = diagnose(**plants.healthy(), samples=1).findings
    healthy = next(f for f in findings if f.name=='belief')
    assert healthy.ok and 'the nearest of 6 other kinds' in healthy.sentence

def test_it_says_what_it_does_before_it_does_it(plants, monkeypatch):
    "Nothing is computed that was not announced, with how much there is to do"
    said, forward, healthy = [], UNet.forward, plants.healthy()
    def talking(self, *args):
        assert said, 'the network was asked before a word was said'
        calls[said[-1]] = calls.get(said[-1], 0)+1
        return forward(self, *args)
    calls = {}
    monkeypatch.setattr(UNet, 'forward', talking)
    diagnose(**healthy, n=128, samples=3, say=said.append)
    assert said==[
        'measuring the loss 128 times',
        'measuring it again on the same images as 6 other kinds of data',
        'measuring it with the weights that are not averaged',
        'drawing 3 samples in 100 steps',
        'comparing them with 1,257 images']
    assert [calls.get(words, 0) for words in said]==[2, 12, 2, 101, 0]

def test_the_command_speaks_first(tmp_path, capsys, monkeypatch):
    "Before a model is read, so that nobody waits before an empty screen"
    def stop(*args): raise ValueError(f'stopped after: {capsys.readouterr().out}')
    monkeypatch.setattr(DDPM, 'from_pretrained', stop)
    assert main(['doctor', 'digits', '--out', str(tmp_path/'d.png')])==2
    assert 'stopped after: reading digits' in capsys.readouterr().err

def test_however_it_is_drawn_and_given(plants):
    "A shorter chain has no step at t = 1; images may be an array"
    ddpm = plants.shipped()['ddpm']
    for way in ('ddim', 20), ('ddpm', 20), ('dpm++', 20):
        d = diagnose(ddpm.using(*way), load('digits').images, samples=8)
        assert d.faults==[] and 'last step' not in str(d), d

def test_copies_are_looked_for_among_many():
    "Of many numbers some are looked at; each image still finds itself"
    x = np.resize(load('digits').images, (20_001, 1, 8, 8))/255
    case = Case(DDPM.from_pretrained('digits'), Images(x, ends=(0., 1.)), 8, 0)
    assert 'training images lie' in _copies(case, torch.zeros(4, 1, 8, 8)).sentence

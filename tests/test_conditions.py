"""What a network may be told of an image: labels, numbers, a picture, or several of them."""
import json
from dataclasses import replace
import numpy as np, pytest, torch
from diffusers import UNet2DModel
from PIL import Image
from torch.nn.functional import avg_pool2d
from helpers import images
from ddpm_lit import DDPM, Schedule
from ddpm_lit.conditional import Guided
from ddpm_lit.data import Images, digits, to_model
from ddpm_lit.denoiser import by_kind, enlarged, half, quarter, told_to, withheld
from ddpm_lit.evaluation import levels_of, spread
from ddpm_lit.unet import UNet, kinds_of
from ddpm_lit.vlb import Bound
from ddpm_lit.workshop import runs
from ddpm_lit.workshop.cli import _given, _labels_as, main
from ddpm_lit.workshop.doctor import diagnose
from ddpm_lit.workshop.files import load
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import adapted, train

def with_numbers() -> Images:
    "Digits, and of each its brightness and how far right its ink lies"
    d = digits()
    x = to_model(d.images).flatten(1)
    right = (to_model(d.images).mean((1, 2))+1)@torch.linspace(-1, 1, 8)
    d.labels, d.classes = torch.stack([x.mean(1), right], 1).numpy(), None
    return d

TOLD = {   # what the network takes, the data, and the picture that is made of them
    'labels': (dict(classes=10), digits, None),
    'numbers': (dict(vector=2), with_numbers, None),
    'pictures': (dict(picture=1), digits, 'half'),
    'labels and pictures': (dict(classes=10, picture=1), digits, 'half')}

def recipe(steps: int = 6) -> Recipe:
    return Recipe(steps=steps, batch=8, accumulate=2, lr=1e-3, warmup=1, label_dropout=.3)

def model(name: str) -> DDPM:
    takes, _, picture = TOLD[name]
    torch.manual_seed(0)
    net = UNet((8, 8), 1, 8, (1, 2), (4,), 1, **takes)
    for p in net.parameters(): torch.nn.init.normal_(p, std=.1)   # a fresh one answers zero
    names = [f'digit {k}' for k in range(10)] if 'classes' in takes else None
    return DDPM(net, Schedule.cosine(20), classes=names, picture=picture, clip_x0=False)

def told(name: str, n: int):
    "Of the first n images of the data"
    takes, data, _ = TOLD[name]
    d = data()
    y = dict(picture=half(to_model(d.images[:n])))
    if d.labels is not None:
        kind = 'vector' if 'vector' in takes else 'classes'
        y[kind] = torch.as_tensor(d.labels[:n])
    return told_to(model(name).unet, y)

@pytest.mark.parametrize('name', TOLD)
def test_a_run_is_saved_goes_on_and_is_read(name, tmp_path):
    "As without a stop, bit for bit; and what the folder holds is what was trained"
    data = TOLD[name][1]()
    whole = train(model(name), data, recipe(), out=tmp_path/'whole')
    train(model(name), data, recipe(3), out=tmp_path/'run')
    ended = train(model(name), data, recipe(), out=tmp_path/'run', resume=True)
    weights = ended.unet.state_dict()
    for k, v in whole.unet.state_dict().items(): assert torch.equal(v, weights[k])
    read = DDPM.from_pretrained(tmp_path/'run')
    assert (read.picture, read.classes)==(whole.picture, whole.classes)
    assert kinds_of(read.unet)==kinds_of(whole.unet)
    x = [m.using('dpm++', 4).given(told(name, 3)).sample(3) for m in (whole, read)]
    assert x[0].equal(x[1])

@pytest.mark.parametrize('guidance', [0, 2])
@pytest.mark.parametrize('name', TOLD)
def test_of_each_image_something_else(name, guidance):
    "In one call, in batches of another size: as if each were drawn alone"
    ddpm, y = model(name).eval().using('ddim', 4), told(name, 5)
    many = ddpm.given(y, guidance).sample(5, batch=2)
    for k in range(5):
        alone = ddpm.given(by_kind(lambda v: v[[k]], y), guidance).sample(1, k, batch=2)
        assert (many[k]-alone[0]).abs().max()<1e-5
    assert (many-ddpm.sample(5, batch=2)).abs().amax((1, 2, 3)).min()>1e-3

@pytest.mark.parametrize('name', TOLD)
def test_bound_of_each(name):
    ddpm, y = model(name).eval(), told(name, 3)
    x_0 = to_model(digits()[:3])
    terms = ddpm.given(y).vlb(x_0, times=5, batch=2).terms
    first = ddpm.given(by_kind(lambda v: v[[0]], y))
    assert (first.vlb(x_0, times=5, batch=2).terms[0]-terms[0]).abs().max()<1e-4
    assert (ddpm.vlb(x_0, times=5, batch=2).terms-terms).abs().max()>1e-3
    assert ddpm.given(y).vlb(x_0, 256, None, 5, 2).terms.equal(terms)   # in order, too
    rd = ddpm.given(y).rate_distortion(x_0, times=5, batch=2)
    assert abs(rd.total-Bound(terms, 64).bits_per_dim.mean().item())<1e-6
    def errors(rows): return ddpm.given(by_kind(lambda v: v[rows], y)).fitted(x_0, 5, 2).sigma
    assert (errors([0, 0, 0])-errors([0])).abs().max()<1e-5
    assert (errors([0, 1, 2])-errors([0])).abs().max()>1e-4

def test_labels_by_name():
    ddpm = model('labels').eval().using('ddim', 4)
    many = ddpm.labelled(['digit 3', 5, '7']).sample(3)
    for k, label in enumerate((3, 5, 7)):
        assert (many[k]-ddpm.labelled(label).sample(1, k)[0]).abs().max()<1e-5
    with pytest.raises(ValueError, match='3 images are told of, and 4 are drawn'):
        ddpm.labelled([3, 5, 7]).sample(4)

@pytest.mark.parametrize('name', TOLD)
def test_guidance_is_away_from_nothing(name):
    "eq. 6 of Ho and Salimans, whatever is told"
    net, y = model(name).eval().unet, told(name, 4)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 5, 10, 20])
    none = withheld(y, torch.ones(4, dtype=torch.bool))
    with torch.no_grad():
        assert (net(x, t)-net(x, t, none)).abs().max()==0
        guided, a, b = Guided(net, y, 3.)(x, t), net(x, t, y), net(x, t)
    assert (guided-(4*a-3*b)).abs().max()<1e-4

@pytest.mark.parametrize('name', TOLD)
def test_guided_where_it_is_asked_for(name):
    "Row by row; and where no row is guided, the network is asked once"
    net, y, rows = model(name).eval().unet, told(name, 4), []
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 5, 10, 20])
    net.register_forward_pre_hook(lambda net, args: rows.append(len(args[0])))
    with torch.no_grad():
        part, plain, all_ = (Guided(net, y, w, times)(x, t)
            for w, times in ((3., (5, 10)), (0., None), (3., None)))
        Guided(net, y, 3., (11, 19))(x, t)
    assert torch.allclose(part[[0, 3]], plain[[0, 3]], atol=1e-5)
    assert torch.allclose(part[[1, 2]], all_[[1, 2]], atol=1e-5)
    assert rows==[8, 4, 8, 4]

def test_times_of_guidance_stay():
    "In chains that share their beginning, with PAG, and where labels come in turn"
    from ddpm_lit.workshop.cli import _in_turn
    ddpm = model('labels').eval().using('ddpm', 5)
    given = ddpm.labelled([3, 5], 2., (4, 12))
    for other in (_in_turn(given, [1, 2, 3]), given.pag(.5), given.using('ddim', 4)):
        assert (other.unet.guidance, other.unet.times)==(2., (4, 12))
    _, x = given.share(ddpm.plan()[2].u, 2, 2)
    _, y = ddpm.labelled([3, 5], 2.).share(ddpm.plan()[2].u, 2, 2)
    assert (x-y).abs().max()>1e-3
    for times in ((1, 21), (9, 4), (0, 4)):
        with pytest.raises(ValueError, match='times of guidance go from 1 to 20'):
            ddpm.labelled(3, 2., times)

@pytest.mark.parametrize('name, y, says', [
    ('labels', torch.zeros(2), 'whole numbers of shape'),
    ('labels', torch.zeros(3, dtype=torch.long), 'shape'),
    ('numbers', torch.zeros(2, 3), r'real numbers of shape \(2, 2\)'),
    ('numbers', torch.zeros(2, 2, dtype=torch.long), 'real numbers'),
    ('pictures', torch.zeros(2, 1, 4, 4), r'shape \(2, 1, 8, 8\)'),
    ('pictures', dict(classes=torch.zeros(2, dtype=torch.long)), 'this network takes picture'),
    ('labels and pictures', torch.zeros(2, dtype=torch.long), 'give a dict'),
])
def test_what_it_does_not_take(name, y, says):
    with pytest.raises(ValueError, match=says):
        model(name).unet(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]), y)

def test_data_that_cannot_tell():
    bare = Images(digits().images)
    for name, says in (('labels', 'takes labels, and the data have none'),
            ('numbers', 'some numbers for each image')):
        with pytest.raises(ValueError, match=says): train(model(name), bare, recipe())
    blind = model('pictures')
    blind.picture = None
    with pytest.raises(ValueError, match="say DDPM"): train(blind, bare, recipe())
    with pytest.raises(ValueError, match='one of grey, half, quarter'):
        DDPM(blind.unet, blind.schedule, picture='sepia')
    with pytest.raises(ValueError, match='takes no labels, vectors or pictures'):
        DDPM(UNet((8, 8), 1, 8, (1, 2)), Schedule.cosine(20)).given(torch.zeros(1, 2))

def test_diffusers_lays_the_picture_beside(tmp_path):
    ddpm = model('pictures').eval()
    ddpm.save_pretrained(tmp_path)
    assert json.loads((tmp_path/'model_index.json').read_text())['picture']=='half'
    theirs = UNet2DModel.from_pretrained(tmp_path, subfolder='unet')
    x, y, t = torch.randn(3, 1, 8, 8), told('pictures', 3), torch.tensor([1, 10, 20])
    with torch.no_grad():
        answer = theirs(torch.cat([x, y], 1), t-1).sample
        assert (ddpm.unet(x, t, y)-answer).abs().max()<1e-5

def test_a_picture_begins_at_nothing():
    "A trained network that shall be told more answers as before, until it learns"
    plain = DDPM.from_pretrained('digits')
    more = adapted(plain, (1, 8, 8), picture='half')
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([5, 50])
    with torch.no_grad():
        new = more.unet(x, t, torch.randn(2, 1, 8, 8))
        assert (new-plain.unet(x, t)).abs().max()<1e-5
    assert more.picture=='half' and more.unet.conv_in.weight.shape[1]==2
    torch.nn.init.normal_(more.unet.conv_in.weight[:, 1:])
    again = adapted(more, (1, 8, 8), picture='half')
    assert torch.equal(again.unet.conv_in.weight, more.unet.conv_in.weight)

@pytest.mark.parametrize('side', [32, 30, 33])
def test_a_small_picture_is_not_moved(side):
    "Mirrored, it is the small picture of the mirrored image; of its means, if cut in whole"
    x = torch.rand(2, 3, side, side)
    for k, f in {2: half, 4: quarter}.items():
        assert torch.allclose(f(x.flip(3)).flip(3), f(x), atol=1e-5)
        if side==32: assert torch.equal(f(x), enlarged(avg_pool2d(x, k), (32, 32)))

def test_a_small_picture_of_other_proportions_is_not_stretched(tmp_path, capsys):
    unet = UNet((32, 32), 3, 8, (1, 2), (), 1, picture=3)
    ddpm = DDPM(unet, Schedule.linear(), picture='half')
    sizes = {(16, 16): False, (10, 10): False, (20, 10): True, (64, 64): True}
    for (w, h), noted in sizes.items():
        Image.linear_gradient('L').convert('RGB').resize((w, h)).save(tmp_path/'x.png')
        assert _given(ddpm, tmp_path/'x.png').shape==(1, 3, 32, 32)
        assert ('scaled to 32 x 32' in capsys.readouterr().out)==noted
    # what `quarter` makes of sides that four does not divide
    unet = UNet((30, 20), 3, 8, (1, 2), (), 1, picture=3)
    odd = DDPM(unet, ddpm.schedule, picture='quarter')
    Image.new('RGB', (5, 8)).save(tmp_path/'x.png')
    assert _given(odd, tmp_path/'x.png').shape==(1, 3, 30, 20)
    assert capsys.readouterr().out==''

@pytest.mark.parametrize('name', TOLD)
def test_doctor_shuffles_what_is_told(name):
    findings = diagnose(model(name).eval(), TOLD[name][1](), n=40, samples=4).findings
    labels, = (f for f in findings if f.name=='told')
    assert labels.ok is not True   # it has learned nothing

def test_fast_is_told_too(monkeypatch):
    import ddpm_lit.workshop.speed
    monkeypatch.setattr(ddpm_lit.workshop.speed, 'can_compile', lambda device: False)
    for name in TOLD:
        ddpm, y = model(name).eval().using('ddim', 3), told(name, 2)
        a, b = (m.given(y).sample(2) for m in (ddpm, ddpm.fast('float32')))
        assert (a-b).abs().max()<1e-4

# ---------------------------------------------------------------- the command
def test_colours_are_given_back(tmp_path, capsys):
    "Trained, gone on with, drawn from a grey picture, from a label, and from both"
    data, run = images(tmp_path/'images', 60, channels=3), tmp_path/'run'
    small = '--preset tiny --batch 4 --size 16x24 --condition grey --tracker none'.split()
    assert main(['train', str(data), '--out', str(run), *small, '--steps', '6'])==0
    assert Image.open(run/'given.png').size[0]>100
    assert main(['train', str(data), '--out', str(run), '--resume', '--steps', '8'])==0
    ddpm = DDPM.from_pretrained(run)
    assert (ddpm.picture, ddpm.shape)==('grey', (3, 16, 24))
    one = sorted(data.rglob('*.png'))[0]
    draw = ['sample', str(run), '--steps', '3', '--out', str(tmp_path/'drawn')]
    (tmp_path/'drawn').mkdir()
    assert main([*draw, '--given', str(one), '--n', '3'])==0
    assert len([*(tmp_path/'drawn').glob('*.png')])==3
    capsys.readouterr()
    for options, says in (
            ([], 'say which one by --given'),
            (['--given', str(tmp_path/'none.png')], 'none.png'),
            (['--given', str(one), '--label', '1'], 'takes no labels')):
        assert main([*draw, '--seed', '50', *options])==2
        assert says in capsys.readouterr().err
    more = ['train', str(data), '--out', str(run), '--resume', '--condition', 'half']
    assert main(more)==2 and 'begun with --condition grey' in capsys.readouterr().err

def test_a_small_picture_becomes_large(tmp_path):
    "It is enlarged; a large one is made smaller first"
    from ddpm_lit.workshop.cli import _given
    net = UNet((16, 16), 3, 8, (1, 2), picture=3)
    ddpm = DDPM(net, Schedule.cosine(20), picture='quarter')
    levels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path/'small.png')
    Image.fromarray(levels.repeat(4, 0).repeat(4, 1)).save(tmp_path/'large.png')
    small, large = (_given(ddpm, tmp_path/f'{name}.png') for name in ('small', 'large'))
    assert small.shape==(1, 3, 16, 16) and (small-large).abs().max()<1e-5

def test_labels_in_turn(tmp_path, capsys):
    "The image of seed s has label s modulo their number, in whatever call it is drawn"
    def draw(name, *options):
        (tmp_path/name).mkdir()
        assert main(['sample', 'digits-class', '--steps', '2', '--out', str(tmp_path/name),
            *options])==0
        return {p.name: p.read_bytes() for p in (tmp_path/name).glob('*.png')}
    whole = draw('all', '--label', 'all', '--n', '12', '--guidance', '1')
    assert len(whole)==12
    seven = draw('seven', '--label', '7', '--n', '1', '--seed', '7', '--guidance', '1')
    assert seven['000007.png']==whole['000007.png']
    some = draw('some', '--label', '3, 7', '--n', '2', '--seed', '6')
    assert some.keys()=={'000006.png', '000007.png'}
    away = draw('away', '--label', '7', '--n', '1', '--seed', '7', '--pag', '1')
    assert away.keys()==seven.keys() and away!=seven
    late, always = (draw(f'part {times}', '--label', '7', '--n', '1', '--seed', '7',
        '--guidance', '1', '--guidance-times', times) for times in ('1,60', '1,100'))
    assert always==seven and late.keys()==seven.keys() and late!=seven
    capsys.readouterr()
    wrong = ((['--label', '3,x'], "no label 'x'"), (['--guidance', '1'], '--label'),
        (['--pag', '-1'], '--pag'), (['--guidance-times', '5,9'], 'needs a --guidance'),
        (['--label', '7', '--guidance', '1', '--guidance-times', '9,5'], "'9,5' are no times"),
        (['--label', '7', '--guidance', '1', '--guidance-times', '1,101'], 'from 1 to 100'))
    for options, says in wrong:
        assert main(['sample', 'digits-class', '--out', str(tmp_path/'x.png'), *options])==2
        assert says in capsys.readouterr().err
    assert main(['sample', 'digits', '--given', 'x.png', '--out', 'y.png'])==2
    assert '--condition' in capsys.readouterr().err

def test_numbers_are_told(tmp_path, capsys):
    "Labels of an npz that are rows of numbers; drawn with numbers, others than these refused"
    data, run = tmp_path/'measured.npz', tmp_path/'run'
    measured = with_numbers()
    np.savez(data, images=measured.images, labels=measured.labels)
    train_it = ['train', str(data), '--labels', '--out', str(run), '--batch', '4']
    few = '--preset tiny --tracker none'.split()
    assert main([*train_it, *few, '--steps', '3'])==0
    assert main([*train_it[:2], '--out', str(run), '--resume', '--steps', '5'])==0
    assert main(['info', str(run)])==0
    assert '2 numbers' in capsys.readouterr().out
    draw = ['sample', str(run), '--steps', '3', '--n', '3', '--seed']
    for name, options in (('none', []), ('some', ['--label', '-.5, 1', '--guidance', '1'])):
        assert main([*draw, '0', '--out', str(tmp_path/f'{name}.png'), *options])==0
    assert (tmp_path/'none.png').read_bytes()!=(tmp_path/'some.png').read_bytes()
    for label in ('7', 'all', '1,2,3', 'nan,x'):
        assert main([*draw, '9', '--out', str(tmp_path/'x.png'), '--label', label])==2
        assert 'is told 2 numbers' in capsys.readouterr().err
    other = [*train_it[:3], '--out', str(tmp_path/'other'), '--init', 'digits', '--steps', '2']
    assert main(other)==2 and 'leave --labels or --init away' in capsys.readouterr().err
    # without them it begins as what it was, told none
    then, few = tmp_path/'then', [*few[2:], '--batch', '4', '--lr', '1e-30', '--steps', '1']
    assert main(['train', str(data), '--init', str(run), '--out', str(then), *few])==0
    was, now = DDPM.from_pretrained(run), DDPM.from_pretrained(then)
    x, t = torch.randn(2, *now.shape), torch.tensor([1, 9])
    assert now.unet.config['vector'] is None
    assert (now.unet(x, t)-was.unet(x, t)).abs().max()<1e-5
    # one that an earlier version began so, which kept them, goes on
    old = ['train', str(data), '--init', str(run), '--out', str(tmp_path/'old'), *few]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, 'adapted', lambda *given: adapted(*given[:7], 2))
        assert main(old)==0
    on = ['train', str(data), '--out', str(tmp_path/'old'), '--resume', '--steps', '2']
    assert main(on)==0
    assert DDPM.from_pretrained(tmp_path/'old').unet.config['vector']==2

def test_labels_of_other_data_go_by_name(tmp_path, capsys):
    ddpm, x = DDPM.from_pretrained('digits-class'), load('digits')[:40].numpy()
    def labelled(*names): return Images(x, np.arange(40)%len(names), [*names])
    assert _labels_as(ddpm, labelled('9', '3')).tolist()==20*[9, 3]
    assert _labels_as(ddpm, labelled(*ddpm.classes)).tolist()==4*[*range(10)]
    with pytest.raises(ValueError, match='images of seven, and .* are 0, 1'):
        _labels_as(ddpm, labelled('9', 'seven'))
    for name in ('9', 'seven'): images(tmp_path/'own'/name, 30, (8, 8))
    own = str(tmp_path/'own')
    for words in (['doctor', 'digits-class', own, '--out', str(tmp_path/'d.png')],
            ['evaluate', 'digits-class', own, '--n', '20', '--label', 'all', '--bits', '4']):
        assert main(words)==2
        said = capsys.readouterr()
        assert 'images of seven' in said.err and 'drawing' not in said.out
    ddpm.classes = [str(k) for k in range(3)]   # numbers, for it has no names
    assert _labels_as(ddpm, labelled('cat', 'dog', 'fox')).tolist()==[k%3 for k in range(40)]

def test_labels_are_in_order():
    ddpm = DDPM.from_pretrained('digits-class')
    assert [*ddpm.numbers_of(str(k) for k in (3, 1))]==[3, 1]
    for none in ({3, 1}, {'3': 1}, b'31'):
        with pytest.raises(ValueError): ddpm.numbers_of(none)

def test_grey_images_have_no_colours(tmp_path, capsys):
    data = images(tmp_path/'images', 20)
    run = ['train', str(data), '--steps', '2', '--out', str(tmp_path/'run')]
    assert main([*run, '--preset', 'tiny', '--condition', 'grey'])==2
    assert 'three channels' in capsys.readouterr().err

def test_evaluate_tells_of_the_test_images(tmp_path, capsys):
    "A model that goes by pictures is given those of the test images; one of labels, all"
    ddpm = model('labels and pictures').eval()
    ddpm.clip_x0 = True
    ddpm.save_pretrained(tmp_path/'both')
    few = '--n 40 --steps 2 --bits 3'.split()
    draw = ['evaluate', str(tmp_path/'both'), 'digits', *few]
    assert main([*draw, '--label', 'all', '--out', str(tmp_path/'report.json')])==0
    said = json.loads((tmp_path/'report.json').read_text())
    some = spread(digits('test'), 3)
    y = dict(classes=torch.as_tensor(some.labels).long(), picture=half(to_model(some[:])))
    def bits(m):
        bound = m.vlb(to_model(some[:]), levels=levels_of(digits('test')), times=20)
        return bound.bits_per_dim.mean().item()
    told = bits(ddpm.given(y))
    assert abs(said['bits_per_dim']-told)<1e-4<abs(bits(ddpm)-told)
    fit = ['--label', 'all', '--sigma', 'fitted', '--out', str(tmp_path/'report.json')]
    assert main([*draw, *fit])==0
    assert json.loads((tmp_path/'report.json').read_text())['bits_per_dim']<told
    capsys.readouterr()
    assert main([*draw, '--given', 'x.png'])==2
    assert 'leave --given away' in capsys.readouterr().err

def test_labels_of_data_that_are_none():
    wrong = Images(digits().images, digits().labels+1, flip=False)
    with pytest.raises(ValueError, match='labels go from 0 to 9, and these from 1 to 10'):
        train(model('labels'), wrong, recipe())

@pytest.mark.parametrize('name', ['numbers', 'labels'])
def test_muon_steps_where_there_is_a_gradient(name):
    "The time of a step is tried on blank images, of which nothing is told"
    from ddpm_lit.workshop.runs import trial
    ddpm = model(name)
    ddpm.unet.conv_in.requires_grad_(False)
    ddpm.unet.down_blocks[0].requires_grad_(False)
    assert trial(ddpm, replace(recipe(), optimizer='muon'), steps=1).seconds>0

def test_bits_go_by_labels_that_are_known(tmp_path, capsys):
    few = ['--n', '20', '--steps', '2', '--bits', '2']
    assert main(['evaluate', 'digits-class', 'digits', '--label', '0,1', *few])==2
    assert 'say one --label, or all' in capsys.readouterr().err
    fitted = ['--label', '0,1', '--sigma', 'fitted', '--n', '20']
    assert main(['evaluate', 'digits-class', 'digits', *fitted])==2
    assert 'say one --label, or all' in capsys.readouterr().err
    data, own = digits(), tmp_path/'own'
    for k in range(60):
        (own/data.classes[k%2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[k, 0]).save(own/data.classes[k%2]/f'{k}.png')
    assert main(['evaluate', 'digits-class', str(own), '--label', 'all', *few])==0
    assert 'bits' in capsys.readouterr().out

def test_other_numbers_to_go_on_with(tmp_path):
    "A model of an array, then one of pictures: their range is that of pictures"
    few = '--steps 2 --batch 4 --tracker none'.split()
    x = np.random.default_rng(0).random((20, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path/'x.npy', x)
    first, then = str(tmp_path/'first'), str(tmp_path/'then')
    assert main(['train', str(tmp_path/'x.npy'), '--range', 'auto', '--preset', 'tiny',
        '--channels', '8', '--out', first, *few])==0
    assert main(['train', 'digits', '--init', first, '--out', then, *few])==0
    ddpm = DDPM.from_pretrained(then)
    assert (ddpm.ends, ddpm.clip_x0, ddpm.draws_pictures)==(None, True, True)

def test_a_model_is_made_deeper_and_wider(tmp_path, capsys):
    "It begins with what the model said, nearly, and is saved and goes on as large as it is"
    few = '--batch 4 --tracker none --lr 1e-30'.split()
    run = ['train', 'digits', '--init', 'digits', '--out', str(tmp_path), *few]
    assert main([*run, '--blocks', '3', '--multipliers', '1,4', '--steps', '2'])==0
    large, old = DDPM.from_pretrained(tmp_path), DDPM.from_pretrained('digits')
    assert [(m.unet.config['res_blocks'], m.unet.config['multipliers'])
        for m in (old, large)]==[(1, (1, 2)), (3, (1, 4))]
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 90])
    with torch.no_grad(): was, now = old.unet(x, t), large.unet(x, t)
    assert (now-was).norm()<.1*was.norm()
    assert main([*run, '--resume', '--steps', '3'])==0
    with torch.no_grad(): assert (DDPM.from_pretrained(tmp_path).unet(x, t)-now).norm()<1e-3
    capsys.readouterr()
    for smaller, says in (('--blocks 2', 'network of 3 blocks per level cannot be given 2'),
            ('--multipliers 1,3', 'network of multipliers (1, 4) cannot be given (1, 3)'),
            ('--multipliers 2,4', "'2,4' are no widths of levels: give such as 1,2,2,2")):
        train = ['train', 'digits', '--init', str(tmp_path), *smaller.split(), '--steps', '2']
        assert main([*train, '--out', str(tmp_path/'new')])==2
        assert says in ' '.join(capsys.readouterr().err.split())

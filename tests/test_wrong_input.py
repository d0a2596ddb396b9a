"Functions of the book refuse in words what they cannot take, and answer nothing else"
from functools import partial
import numpy as np, pytest, torch
import torch.nn.functional as F
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.data import Images, Items, digits
from ddpm_lit.denoiser import DiT, L_of
from ddpm_lit.exact import Mixture, eight_gaussians, sliced_wasserstein
from ddpm_lit.forward import q_sample
from ddpm_lit.generative_models import GAN, sized
from ddpm_lit.markov_chain import total_variation
from ddpm_lit.plots import image_grid, to_pil
from ddpm_lit.reverse import mu_theta, p_step, predict_eps, predict_x_0, q_posterior
from ddpm_lit.sampling import ddim_steps, steps_of
from ddpm_lit.simple_loss import L_simple, score
from ddpm_lit.training import draw
from ddpm_lit.unet import deepened
from ddpm_lit.vlb import L_0, vlb, x_0_errors
from ddpm_lit.workshop.export import export
from ddpm_lit.workshop.model import number_of
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import train, trial
from ddpm_lit.workshop.weights import check_saveable, load_model

s, ends = Schedule.linear(), Schedule([.1, .5, 1.])   # the second leaves nothing at T
x, ones = torch.zeros(3, 2), torch.ones(3, dtype=torch.long)
whole, points = x.long(), torch.eye(2)
world = eight_gaussians(s)
def narrow(x_t, t): return x_t[:, :1]
def same(x_t, t): return x_t
class Mine(UNet): pass
digit, nan = torch.ones(1, 1, 8, 8), float('nan')
levels = np.zeros((4, 1, 8, 8), np.uint8)
def same_image(x): return x
def draws_digits(): return DDPM.from_pretrained('digits')
def told_ab():
    unet = UNet((8, 8), 1, channels=8, multipliers=(1, 2), classes=2)
    return DDPM(unet, Schedule.cosine(9), classes=['a', 'b'])

REFUSED = {
    't must be between 1 and 1000, not 0': [
        partial(L_simple, same, s, x, 0*ones, x), partial(L_of, 'v', same, s, x, 0*ones, x),
        partial(q_posterior, s, x, x, 0), partial(q_posterior, s, x, x, 0*ones),
        partial(mu_theta, s, x, 0, x), partial(predict_eps, s, x, 0, x),
        partial(predict_eps, s, x, 0*ones, x), partial(score, s, 0*ones, x),
        partial(p_step, s, x, 0, x)],
    'x_t is nothing but noise': [
        partial(predict_x_0, ends, x, 3, x), partial(predict_x_0, ends, x, 3*ones, x),
        partial(vlb, same, ends, x, levels=None), partial(x_0_errors, same, ends, x)],
    r'answers \(3, 1\) where the noise is \(3, 2\)': [
        partial(vlb, narrow, s, x, levels=None, times=2),
        partial(x_0_errors, narrow, s, x, times=2)],
    'takes one clean x_0': [
        partial(vlb, same, s, x[:0]), partial(vlb, same, s, x, batch=0),
        partial(x_0_errors, same, s, x, batch=0), partial(x_0_errors, same, s, x, times=1)],
    'two grey levels, at least': [
        partial(L_0, x-1, torch.distributions.Normal(x, 1.), levels) for levels in (0, 1)],
    'must hold real numbers': [
        lambda: draws_digits().vlb(digits('test')[:4], levels=17),
        lambda: draws_digits().fitted(digits('test')[:4]),
        lambda: draws_digits().decode(digits('test')[:4], 50),
        lambda: draws_digits().encode(nan*digit), lambda: draws_digits().fitted(nan*digit),
        lambda: draws_digits().decode(nan*digit, 50),
        lambda: draws_digits().denoise(nan*digit[0], .5),
        lambda: [*draws_digits().states(1, start=(nan*digit, 50))]],
    '1 images need as many x_t, not 2': [
        lambda: [*draws_digits().states(1, start=(torch.zeros(2, 1, 8, 8), 50))]],
    'seeds must be whole numbers': [
        lambda: draws_digits().sample(2, [1, 2.]), lambda: draws_digits().sample(1, '1'),
        lambda: draws_digits().sample(2, torch.tensor([1., 2.])),
        lambda: draws_digits().sample(1, np.array(1.))],
    'the folder has no name': [lambda: draws_digits().save_pretrained('')],
    r'must have shape \(n, 1, 8, 8\)': [
        lambda: draws_digits().vlb(torch.ones(2, 1, 16, 16), levels=17),
        lambda: draws_digits().rate_distortion(torch.ones(2, 1, 16, 16), 17)],
    'goes from 16 to 16': [
        partial(L_0, x+16, torch.distributions.Normal(x, 1.), 17)],
    'must be real numbers': [
        partial(world.log_prob, whole, 5), partial(world.eps, whole, 5),
        partial(world.x_0, whole, 5), partial(Mixture, s, whole)],
    'finite and not negative': [
        partial(Mixture, s, points, float('nan')), partial(Mixture, s, points, -1.),
        partial(Mixture, s, points, 0., torch.tensor([1., float('inf')]))],
    'the clouds must have equal shapes': [
        partial(sliced_wasserstein, x[:, 0], x[:, 0]),
        partial(sliced_wasserstein, x[:0], x[:0])],
    'as many rows as p': [partial(total_variation, torch.eye(4), torch.eye(4)[:3])],
    'eta must be between 0 and 1': [partial(ddim_steps, s, [1000, 500, 0], 2.)],
    'not torch.int64': [partial(draw, whole, 0, 2, 10)],
    'width must be even': [
        partial(DiT, width=width, heads=heads) for width, heads in ((2, 1), (9, 3), (20, 3))],
    'channels must be even, at least 4': [partial(UNet, channels=2, groups=1)],
    'one channel or three, not 4': [
        partial(to_pil, torch.zeros(4, 8, 8)), partial(image_grid, torch.zeros(2, 4, 8, 8))],
    'no width up to 2,048': [partial(sized, partial(GAN, 64, 16), 10**9)],
    'an item is x': [
        lambda: draw(Items([{'image': 1}]*4), 0, 2, 10),
        lambda: draw(Items(['a']*4), 0, 2, 10)],
    'must be a whole number': [
        lambda: draws_digits().using('ddpm', 25.), lambda: draws_digits().decode(digit, 50.),
        lambda: draws_digits().reconstruct(digit, 50.), partial(q_sample, s, x, 2.5, x),
        partial(q_sample, s, x, torch.full((len(x),), 2.5), x)],
    r'images must have size \(8, 8\), not \(4, 16\)': [
        lambda: DiT((8, 8), 1, width=8, depth=1, heads=2)(torch.zeros(1, 1, 4, 16), ones[:1])],
    'must be at least 1': [
        partial(UNet, res_blocks=0), partial(UNet, multipliers=()),
        partial(UNet, multipliers=(1, 0))],
    r'must lie in \[-1, 1\], and goes up to 255': [
        lambda: draws_digits().encode(255*digit), lambda: draws_digits().fitted(255*digit)],
    'plus noise': [lambda: draws_digits().denoise(digits('test')[0], 20.)],
    'minus twice as much': [
        lambda: draws_digits().measured(torch.zeros(1, 4, 4), lambda x: F.max_pool2d(x, 2))],
    'two steps or more': [lambda: draws_digits().using('ddpm', 1).share(100, 1)],
    'at least one child': [lambda: draws_digits().share(50, 1, children=0)],
    'has no name for predicts': [
        lambda: check_saveable(UNet((8, 8), 1, channels=8), None, predicts='mu')],
    'layers_per_block=25 is not possible': [
        lambda: check_saveable(UNet((8, 8), 1, channels=4, res_blocks=25), None)],
    'read as a plain UNet': [lambda: check_saveable(Mine((8, 8), 1, channels=8), None)],
    'not a network of class': [
        lambda: export(DDPM(Mine((8, 8), 1, channels=8), Schedule.cosine(9)), 'nowhere')],
    'steps must be a whole number of at least 1': [
        partial(Recipe().scaled, 0), partial(Recipe().scaled, '100'),
        lambda: trial(draws_digits(), Recipe(batch=1), steps=0)],
    'this has none': [partial(load_model, 'digits', 'none')],
    'saved as real numbers': [
        lambda: draws_digits().save_pretrained('nowhere', torch.int8)],
    'at least two samples': [
        lambda: draws_digits().quality_by_step(digits('test'), 1)],
    'size is height and width': [partial(UNet, (0, 0)), partial(UNet, (8, 8, 8))],
    r'their shape is \[0\]': [
        partial(Schedule.cosine, -1), partial(Schedule.sohl_dickstein, -1)],
    'is a tensor, not a': [
        lambda: draws_digits().inpaint(digit[0].numpy(), digit[0]),
        lambda: draws_digits().inpaint(digit[0], digit[0].tolist()),
        lambda: draws_digits().decode(digit.numpy(), 50),
        lambda: draws_digits().encode([digit[0]])],
    'y holds a number that is not finite': [
        lambda: draws_digits().measured(nan*digit[0], same_image)],
    'std is at least 0 and variance above it': [
        lambda: draws_digits().measured(digit[0], same_image, std=-1.),
        lambda: draws_digits().measured(digit[0], same_image, variance=0.)],
    'classes are the names of the labels 0 to 3': [
        partial(Images, levels, [0, 1, 2, 3], ['a']),
        partial(Images, levels, [0, 1, 2, 3], 'abcd')],
    "'a' is label 0 of the model and label 1 of the data": [
        lambda: train(told_ab(), Images(levels, [0, 1]*2, ['b', 'a']), Recipe(steps=1))],
    'train takes a DDPM': [lambda: train(draws_digits().unet, digits(), Recipe(steps=1))],
    'recipe is a Recipe': [lambda: train(draws_digits(), digits(), 100)]}

@pytest.mark.parametrize('says', REFUSED)
def test_what_cannot_be_is_refused_by_name(says):
    for call in REFUSED[says]:
        with pytest.raises(ValueError, match=says): call()

def test_numbers_may_be_of_numpy_or_torch():
    ddpm = DDPM.from_pretrained('digits-class').using('ddim', 2)
    want = ddpm.labelled([3, 4]).sample(2, [7, 8])
    for seeds in ([np.int64(7), 8], np.array([7, 8]), torch.tensor([7, 8]), np.int64(7),
            np.array(7), torch.tensor(7)):
        assert torch.equal(ddpm.labelled(np.array([3, 4])).sample(2, seeds), want)
    for labels in (np.array(['3', '4']), [np.int64(3), 4]):
        assert torch.equal(ddpm.labelled(labels).sample(2, 7), want)
    assert ddpm.numbers_of(np.int64(3)).tolist()==[3]

def test_whole_rows_or_one():
    p = torch.eye(4)
    assert total_variation(p, p[:1]).tolist()==[0, 1, 1, 1]
    assert total_variation(p, p[0]).tolist()==[0, 1, 1, 1]

def test_a_chain_that_skips_times_has_their_variance():
    "With these spacings a thousand steps are fewer"
    for spacing in ('karras', 'log-snr'):
        some = steps_of(s, spacing=spacing)
        assert len(some)<1000
        assert some==steps_of(s, spacing=spacing, sigma='beta_tilde')
    assert steps_of(s)!=steps_of(s, sigma='beta_tilde')

def test_networks_of_another_precision():
    net = deepened(UNet((8, 8), 1, channels=8, multipliers=(1, 2), res_blocks=1).double(), 2)
    dit = DiT((8, 8), 1, width=8, depth=1, heads=2).double()
    images = torch.zeros(2, 1, 8, 8)
    for unet in (net, dit):
        assert unet(images, torch.tensor([1, 5])).dtype==torch.float32
        assert {p.dtype for p in unet.parameters()}=={torch.float64}

def test_where_names_are_numbers_a_number_is_a_name():
    assert [number_of(label, ['1', '2', '3']) for label in ('1', '3', 0)]==[0, 2, 0]
    with pytest.raises(ValueError, match="there is no label '0': choose one of 1, 2, 3$"):
        number_of('0', ['1', '2', '3'])
    assert number_of('0', ['cat', 'dog'])==0

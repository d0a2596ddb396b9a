"""What a network answers: every sampler with every target, against diffusers' schedulers and
in a world whose answer is known."""
import diffusers, pytest, torch
from functools import partial
from itertools import pairwise
from ddpm_lit.denoiser import TARGETS, L_of, check_target, zero_terminal_snr
from ddpm_lit.exact import eight_gaussians
from ddpm_lit.forward import Schedule, q_sample
from ddpm_lit.sampling import (SAMPLERS, SPACINGS, ddim_steps, ddpm_steps, sample, steps_of,
    up)
from ddpm_lit.simple_loss import L_simple
from ddpm_lit.vlb import vlb

THEIR_NAME = {'eps': 'epsilon', 'x_0': 'sample', 'v': 'v_prediction'}
SOLVERS = {
    'ddim': (diffusers.DDIMScheduler, dict(clip_sample=False)),
    'heun': (diffusers.HeunDiscreteScheduler, {}),
    'dpm++': (diffusers.DPMSolverMultistepScheduler, {}),
    'dpm++3m': (diffusers.DPMSolverMultistepScheduler, dict(solver_order=3))}

def network(schedule, predicts):
    "The best possible network for eight Gaussians"
    world = eight_gaussians(schedule)
    world.dtype = torch.float64
    def net(x_t, t):
        t = int(t[0])
        return TARGETS[predicts].answer(schedule, world.x_0(x_t, t), t, world.eps(x_t, t))
    return net

def noise(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(50, 2, generator=g, dtype=torch.float64)

def end_of(schedule, predicts, steps, seed=0):
    *_, end = sample(network(schedule, predicts), steps, noise(seed))
    return end.x_t

@pytest.mark.parametrize('sampler,predicts', [
    (sampler, predicts) for sampler in SOLVERS for predicts in TARGETS
    if (sampler, predicts)!=('heun', 'x_0')])   # which diffusers does not have
def test_solvers_arrive_where_those_of_diffusers_do(sampler, predicts):
    kind, options = SOLVERS[sampler]
    theirs = kind(beta_start=1e-4, beta_end=.02, timestep_spacing='trailing',
        prediction_type=THEIR_NAME[predicts], **options)
    theirs.set_timesteps(20)
    schedule, net = Schedule.linear(), network(Schedule.linear(), predicts)
    x = noise(0)()*theirs.init_noise_sigma
    for t in theirs.timesteps:
        seen = theirs.scale_model_input(x, t)
        x = theirs.step(net(seen, t[None]+1), t, x).prev_sample
    calls = len(theirs.timesteps)
    steps = steps_of(schedule, sampler, calls, spacing='even', predicts=predicts)
    ours = end_of(schedule, predicts, steps)
    assert (ours-x).abs().max()<1e-4

class KDiffusion:
    """Samplers as k-diffusion writes them (github.com/crowsonkb/k-diffusion, sampling.py):
    x is data plus sigma times noise, and the network gives the clean data"""
    @staticmethod
    def euler(denoise, x, sigmas, noise):
        for sigma, then in pairwise(sigmas):
            x = x+(x-denoise(x, sigma))/sigma*(then-sigma)
        return x

    @staticmethod
    def euler_ancestral(denoise, x, sigmas, noise):
        for sigma, then in pairwise(sigmas):
            up = (then**2*(sigma**2-then**2)/sigma**2)**.5
            down = (then**2-up**2)**.5
            x = x+(x-denoise(x, sigma))/sigma*(down-sigma)
            if then: x = x+noise()*up
        return x

    @staticmethod
    def heun(denoise, x, sigmas, noise):
        for sigma, then in pairwise(sigmas):
            d = (x-denoise(x, sigma))/sigma
            ahead = x+d*(then-sigma)
            if then: d = (d+(ahead-denoise(ahead, then))/then)/2
            x = x+d*(then-sigma)
        return x

    @staticmethod
    def dpmpp_2m(denoise, x, sigmas, noise):
        before = last = None
        for sigma, then in pairwise(sigmas):
            x_0, h = denoise(x, sigma), (sigma/then).log()
            guess = x_0
            if last is not None and then:
                r = last/h
                guess = (1+1/(2*r))*x_0-1/(2*r)*before
            x = then/sigma*x-(-h).expm1()*guess
            before, last = x_0, h
        return x

    @staticmethod
    def dpmpp_3m(denoise, x, sigmas, noise):
        """sample_dpmpp_3m_sde with eta = 0; but the second step is that of 2M, as diffusers
        has it: theirs weighs the slope by phi_2 there"""
        guesses, gaps = [], []
        for sigma, then in pairwise(sigmas):
            x_0 = denoise(x, sigma)
            if not then: return x_0
            h = (sigma/then).log()
            x = (-h).exp()*x-(-h).expm1()*x_0
            if len(gaps)>1:
                phi_2 = (-h).expm1()/h+1
                r_0, r_1 = gaps[-1]/h, gaps[-2]/h
                d_0, d_1 = (x_0-guesses[-1])/r_0, (guesses[-1]-guesses[-2])/r_1
                d = d_0+(d_0-d_1)*r_0/(r_0+r_1)
                x = x+phi_2*d-(phi_2/h-.5)*(d_0-d_1)/(r_0+r_1)
            elif gaps:
                x = x-(-h).expm1()/2*(x_0-guesses[-1])/(gaps[-1]/h)
            guesses, gaps = [*guesses, x_0], [*gaps, h]

@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize('sampler,theirs', [
    ('ddim', KDiffusion.euler), ('ddpm', KDiffusion.euler_ancestral),
    ('heun', KDiffusion.heun), ('dpm++', KDiffusion.dpmpp_2m),
    ('dpm++3m', KDiffusion.dpmpp_3m)])
def test_samplers_are_those_of_k_diffusion(sampler, theirs, spacing):
    schedule, world = Schedule.linear(), eight_gaussians(Schedule.linear())
    world.dtype = torch.float64
    sigma, root = schedule.snr**-.5, schedule.alpha_bar**.5
    times = SPACINGS[spacing](schedule, 20)
    def denoise(x, s):
        t = int((sigma-s).abs().argmin())
        return world.x_0(root[t]*x, t)
    draw = noise(0)
    arrived = theirs(denoise, draw()/root[-1], sigma[times], draw)
    steps = SAMPLERS[sampler].steps(schedule, times)
    if sampler=='ddpm': steps = SAMPLERS[sampler].steps(schedule, times, sigma='beta_tilde')
    assert (end_of(schedule, 'eps', steps)-arrived).abs().max()<1e-9

@pytest.mark.parametrize('predicts', TARGETS)
def test_algorithm_2_is_that_of_diffusers(predicts):
    schedule = Schedule.linear(50, 2e-3, .4)
    theirs = diffusers.DDPMScheduler(50, trained_betas=schedule.beta[1:].tolist(),
        clip_sample=False, prediction_type=THEIR_NAME[predicts])
    net, g = network(schedule, predicts), torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    for t in theirs.timesteps:
        x = theirs.step(net(x, t[None]+1), t, x, generator=g).prev_sample
    ours = end_of(schedule, predicts, ddpm_steps(schedule, 'beta_tilde', predicts))
    assert (ours-x).abs().max()<1e-4

@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize('sampler', SAMPLERS)
def test_all_targets_draw_the_same(sampler, spacing):
    "From the same noise, to rounding; and with a schedule that leaves nothing at T"
    def drawn(schedule, predicts):
        steps = steps_of(schedule, sampler, 12, spacing=spacing, predicts=predicts)
        return end_of(schedule, predicts, steps)
    first, *others = (drawn(Schedule.linear(), predicts) for predicts in TARGETS)
    for end in others: assert (end-first).abs().max()<1e-9
    none_left = zero_terminal_snr(Schedule.linear())
    a, b = (drawn(none_left, predicts) for predicts in ('x_0', 'v'))
    assert a.isfinite().all() and (a-b).abs().max()<1e-9
    with pytest.raises(ValueError, match="take a network that predicts 'v' or 'x_0'"):
        steps_of(none_left, sampler, 12, spacing=spacing)

@pytest.mark.parametrize('T', [10, 1000])
def test_zero_terminal_snr_is_that_of_diffusers(T):
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
    schedule = Schedule.linear(T, .1/T, 20/T if T>20 else .9)
    theirs = rescale_zero_terminal_snr(schedule.beta[1:])
    ours = zero_terminal_snr(schedule)
    assert (ours.beta[1:]-theirs).abs().max()<1e-9 and ours.alpha_bar[-1]==0

def test_churn_goes_up_before_it_goes_down():
    "Fresh noise before each step but the first, and a network that is asked no more often"
    schedule = Schedule.linear()
    calm, churned = (steps_of(schedule, 'heun', 20, churn=churn, spacing='even')
        for churn in (0, .3))
    ups = [s for s in churned if s.u>s.t]
    assert not [s for s in calm if s.s] and len(ups)==9 and all(s.s>0 and not s.b for s in ups)
    assert sum(s.b!=0 for s in churned)==sum(s.b!=0 for s in calm)
    sigma = schedule.snr**-.5
    for s in ups:   # to the time whose noise is nearest to 1.3 times
        assert abs(sigma[s.u]/sigma[s.t]-1.3)<=(sigma[s.u+1]-sigma[s.u-1])/sigma[s.t]

def test_times_are_spread_as_they_are_named():
    schedule = Schedule.linear()
    sigma = schedule.snr**-.5
    karras, even = (SPACINGS[name](schedule, 15)[:-1] for name in ('karras', 'log-snr'))
    roots = torch.linspace(sigma[-1]**(1/7), sigma[1]**(1/7), 15, dtype=torch.float64)
    wanted = roots**7
    near = [(sigma[1:]-w).abs().argmin().item()+1 for w in wanted]
    assert karras==near
    gaps = sigma[even].log().diff()
    assert (gaps[:-2]/gaps[0]-1).abs().max()<.05   # at the end the grid is too coarse
    for name in SPACINGS:
        for steps in (1, 3, 50, 1000):
            times = SPACINGS[name](schedule, steps)
            assert times[0]==1000 and times[-1]==0 and times==sorted(set(times), reverse=True)
            assert len(times)<=steps+1

def test_what_is_not_there_is_refused():
    schedule = Schedule.linear()
    refused = {
        'eps, x_0, v': dict(predicts='noise'), 'even, karras': dict(spacing='log'),
        'churn = 0.1 is for heun': dict(churn=.1),
        'eta = 0.1 is for ddim': dict(sampler='heun', eta=.1)}
    for words, asked in refused.items():
        with pytest.raises(ValueError, match=words): steps_of(schedule, **asked)
    with pytest.raises(ValueError, match='eta = 0 to encode'):
        ddim_steps(schedule, [1, 10, 100], eta=1.)
    with pytest.raises(ValueError, match='leaves nothing'):
        check_target(Schedule.constant(1000, .2), 'eps')

def test_all_targets_have_the_same_bound():
    schedule = Schedule.linear(20, 5e-3, .6)
    world = eight_gaussians(schedule)
    world.dtype = torch.float64
    x_0 = world.sample(40, torch.Generator().manual_seed(0))
    def terms(predicts):
        def net(x_t, t):
            return TARGETS[predicts].answer(schedule, world.x_0(x_t, t), t, world.eps(x_t, t))
        return vlb(net, schedule, x_0, levels=None, predict=TARGETS[predicts].x_0).terms
    first, *others = map(terms, TARGETS)
    for other in others: assert (other-first).abs().max()<1e-8

def test_the_way_up_is_a_forward_step():
    "eq. 2 over several steps: what was there shrinks, and noise makes up for it"
    schedule = Schedule.linear()
    step = up(schedule, 100, 300)
    kept = (schedule.alpha_bar[300]/schedule.alpha_bar[100]).item()
    assert (step.t, step.u, step.b)==(100, 300, 0)
    assert abs(step.d**2-kept)<1e-12 and abs(step.s**2-(1-kept))<1e-12

def test_an_answer_of_another_shape():
    "It would be stretched by broadcasting"
    x_0, t, eps = torch.zeros(2, 3, 4, 4), torch.tensor([1, 2]), torch.ones(2, 3, 4, 4)
    for loss in (L_simple, partial(L_of, 'v')):
        with pytest.raises(ValueError, match=r'answers \(2, 1, 4, 4\)'):
            loss(lambda x_t, t: x_t[:, :1], Schedule.cosine(10), x_0, t, eps)

def test_grey_levels_are_no_real_numbers():
    levels = torch.full((2, 1, 4, 4), 200, dtype=torch.uint8)
    for t in (5, torch.tensor([5, 6])):
        with pytest.raises(ValueError, match='`to_model` makes such'):
            q_sample(Schedule.cosine(10), levels, t, torch.zeros(2, 1, 4, 4))

"""The bound of a U-Net against the terms of eq. 5, written here from the paper's formulas with
NumPy alone."""
import numpy as np, pytest, torch
from scipy.special import erfc
from torch.distributions import Normal
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.workshop.files import load
from ddpm_lit.data import Images, to_model
from ddpm_lit.evaluation import levels_of
from ddpm_lit.vlb import log_prob_of_level, vlb, x_0_errors
from helpers import awake

T, beta = 60, np.linspace(1e-4*1000/60, .02*1000/60, 60)
ab = np.concatenate([[1.], np.cumprod(1-beta)])   # index t = the paper's t
beta = np.concatenate([[0.], beta])

def total(a): return a.reshape(len(a), -1).sum(1)

def kl(m_1, v_1, m_2, v_2): return .5*(np.log(v_2/v_1) + (v_1+(m_1-m_2)**2)/v_2 - 1)

def tilde(t): return (1-ab[t-1])/(1-ab[t])*beta[t]

def mean_of(x_0, x_t, t):
    "Eq. 7"
    return (ab[t-1]**.5*beta[t]*x_0 + (1-beta[t])**.5*(1-ab[t-1])*x_t)/(1-ab[t])

def mu(x_t, t, eps, clip):
    "Eq. 11; with a clip eqs. 15 and 7"
    if not clip: return (x_t - beta[t]/(1-ab[t])**.5*eps)/(1-beta[t])**.5
    x_0 = (x_t - (1-ab[t])**.5*eps)/ab[t]**.5
    return mean_of(np.clip(x_0, -1, 1), x_t, t)

def bin_log_prob(x, m, std):
    "Eq. 13, with the erfc of whichever tail is the smaller"
    a = np.where(x<-.999, -np.inf, (x-1/255-m)/std)
    b = np.where(x>.999, np.inf, (x+1/255-m)/std)
    p = np.where(a>0, erfc(a/2**.5)-erfc(b/2**.5), erfc(-b/2**.5)-erfc(-a/2**.5))
    return np.log(.5*p)

@pytest.mark.parametrize('times', [None, 9])
@pytest.mark.parametrize('clip', [False, True], ids=['', 'clip'])
@pytest.mark.parametrize('sigma', ['beta', 'beta_tilde', 'fitted'])
def test_terms_from_the_formulas(sigma, clip, times):
    unet = awake(UNet(size=(8, 8), image_channels=1, channels=16, multipliers=(1, 2),
        attention=(4,)))
    calls, n = [], 16
    def note(net, args, out):
        calls.append((args[0].double().numpy(), out.double().numpy(), args[1].numpy()))
    unet.register_forward_hook(note)
    x_0 = to_model(load('digits')[range(n)])
    x = x_0.double().numpy()
    error = np.linspace(0, .5, T+1)   # of x_0: that of a network which knows little
    def variance(t):
        if sigma=='beta': return beta[t]
        if sigma=='fitted': return tilde(t) + mean_of(1, 0, t)**2*error[t]
        return tilde(max(t, 2))
    model = DDPM(unet, Schedule(beta[1:].tolist()),
        torch.tensor(error) if sigma=='fitted' else sigma, clip_x0=clip)
    bound = model.vlb(x_0, times=times, batch=n)
    terms, noise, k = np.zeros((n, T+1)), [], times or T
    terms[:, T] = total(kl(ab[T]**.5*x, 1-ab[T], 0, 1))
    assert len(calls)==k
    for j, (x_t, guess, t) in enumerate(calls):
        noise.append([(x_t[i]-ab[t[i]]**.5*x[i])/(1-ab[t[i]])**.5 for i in range(n)])
        for i in range(n):
            m = mu(x_t[i], t[i], guess[i], clip)
            v = variance(t[i])
            if j==0:
                assert t[i]==1
                terms[i, 0] = -bin_log_prob(x[i], m, v**.5).sum()
            else:
                L = kl(mean_of(x[i], x_t[i], t[i]), tilde(t[i]), m, v).sum()
                terms[i, t[i]-1] += (T-1)/(k-1)*L
    bits = terms.sum(1)/np.log(2)/64
    assert np.abs(bound.bits_per_dim.numpy()-bits).max() < 1e-5 and bits.mean() > .5
    assert np.abs(bound.terms.numpy()-terms).max()/64/np.log(2) < 1e-5
    z = np.array(noise).ravel()   # the noise that the bound drew is standard normal ...
    assert abs(z.mean()) < 4/z.size**.5 and abs(z.var()-1) < 4*(2/z.size)**.5
    rows = z.reshape(k, n, 64)    # ... and fresh at each t
    assert abs(np.mean(rows[1:]*rows[:-1])) < 4/rows[1:].size**.5

@pytest.mark.parametrize('clip', [False, True], ids=['', 'clip'])
def test_errors_of_x_0(clip):
    "Those of the answers that the network gave, by eq. 15; in between, nothing jumps"
    unet = awake(UNet(size=(8, 8), image_channels=1, channels=32, multipliers=(1, 2),
        attention=(4,)))
    x_0, off = to_model(load('digits')[range(40)]), {}
    def note(net, args, out):
        x_t, t, eps = args[0].double().numpy(), args[1][0].item(), out.double().numpy()
        guess = (x_t - (1-ab[t])**.5*eps)/ab[t]**.5
        if clip: guess = guess.clip(-1, 1)
        off.setdefault(t, []).extend(total((guess-x[len(off.get(t, [])):][:len(guess)])**2)/64)
    x = x_0.double().numpy()
    unet.register_forward_hook(note)
    error = DDPM(unet, Schedule(beta[1:].tolist()), clip_x0=clip).fitted(x_0, 12, 16).sigma
    assert len(error)==T+1 and error[0]==0 and {1, T}<{*off} and len(off)<=12
    for t, each in off.items():
        assert len(each)==40 and error[t].item()==pytest.approx(np.mean(each), rel=1e-3)
    shares = error[1:].numpy()/(1-ab[1:])   # straight lines from one time to the next
    ends = sorted(off)
    for low, high in zip(ends, ends[1:]):
        inside = shares[low-1:high]
        assert inside.min()>=min(inside[0], inside[-1])-1e-9
        assert inside.max()<=max(inside[0], inside[-1])+1e-9

def test_errors_of_x_0_in_any_batch():
    x_0, schedule = torch.rand(24, 1, 5, 5), Schedule.linear()
    whole, parts = (x_0_errors(lambda x, t: x/2, schedule, x_0, times=5, batch=n)
        for n in (64, 7))
    assert torch.allclose(whole, parts)

def test_times_are_uniform():
    "Each t > 1 is visited as often as any other, so that the sum over some times is unbiased"
    seen = []
    def blind(x_t, t):
        seen.append(t)
        return 0*x_t
    vlb(blind, Schedule(beta[1:].tolist()), torch.zeros(20_000, 1), levels=None, times=5,
        batch=20_000)
    count = torch.bincount(torch.cat(seen[1:]), minlength=T+1)[2:].double()
    expected = 4*20_000/(T-1)
    assert len(count)==T-1 and (count-expected).abs().max() < 5*expected**.5

def test_few_levels_that_were_kept_as_bytes():
    for levels in (17, 27, 32, 63):
        x = np.linspace(0, 255, levels).round().astype(np.uint8)[:, None, None, None]
        images = Images(x)
        assert levels_of(images)==levels
        x_0 = to_model(images[:])
        everything = Normal(torch.zeros_like(x_0, dtype=torch.float64), 1.)
        p = log_prob_of_level(x_0.double(), everything, levels).exp()
        assert abs(p.sum()-1)<1e-9
    with pytest.raises(ValueError, match='true number'):
        log_prob_of_level(x_0.double(), everything, 32)

def test_one_step_without_a_variance():
    one = Schedule.linear(1, .5, .5)
    with pytest.raises(ValueError, match='no beta_tilde'):
        vlb(lambda x_t, t: x_t, one, torch.zeros(2, 1, 2, 2), 'beta_tilde')

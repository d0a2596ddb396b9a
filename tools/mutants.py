"""Does the suite notice a wrong formula? `python tools/mutants.py [module ...]` edits one at a time, in a copy of the
project (the notebook's cell and its exported module alike), runs the tests that could notice, and prints a table.
Its exit code is the number of edits that nothing noticed. Ten minutes or so on two cores."""
import os, re, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import nbformat

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root/'docs'))
from reading import chapters, module_of
number = {module_of(name): name for name in chapters()}

MUTANTS = [   # module, what is wrong, the right text (found once in the module), the wrong text
('data', 'images in [0, 1]', 'mul_(2/255).sub_(1)', 'mul_(1/255)'),
('data', 'levels cut off, not rounded', 'mul_(127.5).round_()', 'mul_(127.5)'),
('data', 'a moved label is not seen', "labels = '' if self.labels is None", "labels = '' if True"),
('markov_chain', 'column vectors for rows', 'out.append(out[-1] @ P)', 'out.append(P @ out[-1])'),
('markov_chain', 'the reversal without Bayes: P transposed', 'joint = (pi[:, None]*P).T', 'joint = P.T'),
('markov_chain', 'a distance twice as large', '(p-q).abs().sum(-1)/2', '(p-q).abs().sum(-1)'),
('forward', 'eq. 2: missing root of the mean', 'Normal(cast((1-b)**.5, x_prev)*x_prev', 'Normal(cast(1-b, x_prev)*x_prev'),
('forward', 'eq. 2: missing root of the noise', 'cast(b**.5, x_prev))', 'cast(b, x_prev))'),
('forward', 'eq. 4: missing root of the mean', 'Normal(cast(ab**.5, x_0)*x_0', 'Normal(cast(ab, x_0)*x_0'),
('forward', 'eq. 4: missing root of the noise', 'cast((1-ab)**.5, x_0), validate', 'cast(1-ab, x_0), validate'),
('forward', 'eq. 4: variance for standard deviation', 'q.mean + q.stddev*eps', 'q.mean + q.variance*eps'),
('forward', 't-1 for t in the products', 'self.alpha_bar = self.alpha.cumprod(0)', 'self.alpha_bar = torch.cat([self.alpha[:1], self.alpha[:-1]]).cumprod(0)'),
('forward', 't-1 for t in a batch of times', 'return table[t].reshape(', 'return table[t-1].reshape('),
('forward', 'signal-to-noise upside down', 'self.alpha_bar/(1-self.alpha_bar)', '(1-self.alpha_bar)/self.alpha_bar'),
('forward', 'quadratic: the betas squared, not their roots', 'torch.linspace(beta_1**.5, beta_T**.5, T, dtype=torch.float64)**2', 'torch.linspace(beta_1, beta_T, T, dtype=torch.float64)**2'),
('forward', 'cosine: not squared', '(1+s)*math.pi/2)**2', '(1+s)*math.pi/2)'),
('forward', 'cosine: s forgotten in the denominator', '/T + s)/(1+s)', '/T + s)'),
('forward', 'Sohl-Dickstein: T-t for T-t+1', 'torch.arange(T, 0, -1, dtype', 'torch.arange(T+1, 1, -1, dtype'),
('forward', 'learned betas may reach 0', '+ (self.high-self.low)*self.w.sigmoid()', '* self.w.sigmoid()'),
('exact', 'score: missing root', '(ab**.5*(m.T@r_over_V)', '(ab*(m.T@r_over_V)'),
('exact', 'score: wrong sign', '- r_over_V.sum(0)*x.T).T', '+ r_over_V.sum(0)*x.T).T'),
('exact', 'variance of x_t: missing alpha_bar', 'V = ab*self.variance[:, None] + (1-ab)', 'V = self.variance[:, None] + (1-ab)'),
('exact', 'eps: missing root', '(1-at(self.schedule.alpha_bar, t, x_t))**.5*self.score', '(1-at(self.schedule.alpha_bar, t, x_t))*self.score'),
('exact', 'eps: wrong sign', 'return -((1-at(', 'return ((1-at('),
('exact', 'x_0: missing root', 'ab**.5*(self.variance@r_over_V)', 'ab*(self.variance@r_over_V)'),
('exact', 'likelihood: normalised as in one dimension', 'x.shape[1]/2*(2*math.pi*V).log()', '.5*(2*math.pi*V).log()'),
('exact', 'weights that do not sum to 1', 'self.variance, self.weights = v.expand(K), w/w.sum()', 'self.variance, self.weights = v.expand(K), w'),
('exact', 'posterior: t-1 for t', 'self.schedule.alpha[u+1:t+1]', 'self.schedule.alpha[u+1:t]'),
('exact', 'posterior: missing root', 'c2**.5*V_u/V_t', 'c2*V_u/V_t'),
('exact', 'posterior: variance of a point', '(V_u*(1-c2)/V_t).sqrt()', '((1-ab_u)*(1-c2)/(1-ab)).sqrt().reshape(1, -1)*torch.ones_like(V_u)'),
('exact', 'clouds compared without sorting', 'np.sort((d@v.T).cpu().numpy())', '(d@v.T).cpu().numpy()'),
('reverse', 'beta_tilde upside down', '(1-schedule.alpha_bar[:-1])/(1-schedule.alpha_bar[1:])*schedule.beta[1:]', '(1-schedule.alpha_bar[1:])/(1-schedule.alpha_bar[:-1]).clamp(min=1e-9)*schedule.beta[1:]'),
('reverse', 'eq. 7: missing root of x_0', 'cast(prev**.5*b/(1-ab)', 'cast(prev*b/(1-ab)'),
('reverse', 'eq. 7: missing root of x_t', 'cast((1-b)**.5*(1-prev)/(1-ab)', 'cast((1-b)*(1-prev)/(1-ab)'),
('reverse', 'eq. 7: t for t-1', 'at(schedule.alpha_bar, t-1, x_t)', 'at(schedule.alpha_bar, t, x_t)'),
('reverse', 'eq. 7: beta for beta_tilde', 'cast(((1-prev)/(1-ab)*b)**.5, x_t)', 'cast(b**.5, x_t)'),
('reverse', 'eq. 15: missing root', 'cast((1/ab-1)**.5, x_t)*eps', 'cast(1/ab-1, x_t)*eps'),
('reverse', 'eq. 15: wrong sign', 'cast(ab**-.5, x_t)*x_t - cast', 'cast(ab**-.5, x_t)*x_t + cast'),
('reverse', 'eq. 15 solved for eps: wrong sign', 'cast((1-ab)**-.5, x_t)*x_t - cast', 'cast((1-ab)**-.5, x_t)*x_t + cast'),
('reverse', 'eq. 11: missing root of 1 - alpha_bar', 'cast(b/(1-ab)**.5, x_t)*eps', 'cast(b/(1-ab), x_t)*eps'),
('reverse', 'eq. 11: missing root of alpha', 'cast((1-b)**-.5, x_t)*(x_t', 'cast((1-b)**-1, x_t)*(x_t'),
('reverse', 'the clip dropped', 'if clip_x0: x_0 = x_0.clamp(-1, 1)', 'if clip_x0: pass'),
('reverse', 'the clip always on', 'if clip_x0: x_0 = x_0.clamp(-1, 1)', 'x_0 = x_0.clamp(-1, 1)'),
('reverse', 'beta_tilde for beta', "if sigma=='beta': p = Normal(p.mean, cast(at(schedule.beta, t, x_t)**.5, x_t))", "if sigma=='beta': pass"),
('reverse', 'beta for its root', 'cast(at(schedule.beta, t, x_t)**.5, x_t)', 'cast(at(schedule.beta, t, x_t), x_t)'),
('vlb', 'L_T: divergence the wrong way round', 'kl_divergence(q_marginal(schedule, x_0.double(), schedule.T), Normal(0., 1.))', 'kl_divergence(Normal(0., 1.), q_marginal(schedule, x_0.double(), schedule.T))'),
('vlb', 'L_T: T-1 for T', 'x_0.double(), schedule.T)', 'x_0.double(), schedule.T-1)'),
('vlb', 'L_{t-1}: divergence the wrong way round', 'kl_divergence(q_posterior(schedule, x_0, x_t, t), p)', 'kl_divergence(p, q_posterior(schedule, x_0, x_t, t))'),
('vlb', 'eq. 13: bins of 2/256 for 2/255', '((2*k-1)/(levels-1) - 1', '((2*k-1)/levels - 1'),
('vlb', 'eq. 13: the darkest level without its tail', 'edge(k).masked_fill(k==0, -math.inf)', 'edge(k)'),
('vlb', 'eq. 13: the brightest level without its tail', 'edge(k+1).masked_fill(k==levels-1, math.inf)', 'edge(k+1)'),
('vlb', 'eq. 13: the upper tail, where digits are lost', 'a, b = torch.where(a+b>0, -b, a), torch.where(a+b>0, -a, b)', 'a, b = a, b'),
('vlb', 'nats for bits', 'self.nats/(math.log(2)*self.dims)', 'self.nats/self.dims'),
('vlb', 'bits per image for bits per dimension', 'self.nats/(math.log(2)*self.dims)', 'self.nats/math.log(2)'),
('vlb', 'some times: their weight forgotten', 'terms[i, t[i]-1] = (every*L_t_minus_1', 'terms[i, t[i]-1] = (L_t_minus_1'),
('vlb', 'some times: T for T-1', '(T-1)/max(k-1, 1)', 'T/max(k-1, 1)'),
('vlb', 'the variance of the last step for that of the others', "for v in sigma_squared(schedule, sigma)[1:].tolist() if v>0", "for v in schedule.beta[1:].tolist() if v>0"),
('vlb', 'the clip dropped', 'guess, sigma, clip_x0).p', 'guess, sigma).p'),
('vlb', 'the same noise at each t', 'eps = torch.randn(x_0.shape, generator=g, dtype', 'eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype'),
('simple_loss', 'eq. 12: the 2 dropped', 'schedule.beta**2/(2*sigma_squared', 'schedule.beta**2/(sigma_squared'),
('simple_loss', 'eq. 12: alpha dropped', '*schedule.alpha*(1-schedule.alpha_bar)', '*(1-schedule.alpha_bar)'),
('simple_loss', 'eq. 12: beta not squared', 'schedule.beta**2/(2', 'schedule.beta/(2'),
('simple_loss', 'eq. 14: a plus for the minus', 'return (eps - eps_theta(', 'return (eps + eps_theta('),
('simple_loss', 'eq. 14: another noise in x_t', 'q_sample(schedule, x_0, t, eps), t)', 'q_sample(schedule, x_0, t, eps.flip(0)), t)'),
('simple_loss', 'eq. 14: t-1 for t', 'q_sample(schedule, x_0, t, eps), t)', 'q_sample(schedule, x_0, t, eps), t-1)'),
('simple_loss', 'score: wrong sign', 'return -cast((1-at(', 'return cast((1-at('),
('simple_loss', 'score: missing root', 'eps))**-.5, eps)*eps', 'eps))**-1, eps)*eps'),
('workshop.weights', 'diffusers: another epsilon where none is written', 'norm_eps=Option(1e-5', 'norm_eps=Option(1e-6'),
('workshop.weights', 'diffusers: the two variances changed over', "_SIGMA = dict(fixed_large='beta', fixed_small='beta_tilde'", "_SIGMA = dict(fixed_large='beta_tilde', fixed_small='beta'"),
('workshop.weights', 'old names: keys and values changed over', "key='to_k', value='to_v'", "key='to_v', value='to_k'"),
('workshop.weights', 'levels on the way up in the order of the way down', 'for a in reversed(attends)]', 'for a in attends]'),
('tools.from_tensorflow', 'TensorFlow: height and width changed over', '4: (3, 2, 0, 1)', '4: (3, 2, 1, 0)'),
('tools.from_tensorflow', 'TensorFlow: a dense layer not turned', '2: (1, 0)', '2: (0, 1)'),
('tools.from_tensorflow', 'TensorFlow: the levels on the way up in our order', 'levels-1-int(m[1])', 'int(m[1])'),
('tools.from_tensorflow', 'TensorFlow: weights for their averages', "if k.endswith(AVERAGE)}", "if not re.search('[eE]x|Adam', k)}"),
('workshop.weights', 'the checksum forgets the types', "digest.update(f'{k} {v.dtype} {tuple(v.shape)}'.encode())", "digest.update(f'{k} {tuple(v.shape)}'.encode())"),
('training', 'Algorithm 1: T is never drawn', 'torch.randint(1, T+1', 'torch.randint(1, T'),
('training', 'Algorithm 1: 0 is drawn', 'torch.randint(1, T+1', 'torch.randint(0, T+1'),
('training', 'the learning rate never falls', 'return min(1, rise, fall)', 'return min(1, rise)'),
    ('training', 'the cooldown is in steps, not a share', 'max(1, cooldown*steps)', 'max(1, cooldown)'),
    ('training', 'Algorithm 1: times are not weighed', '(weight*losses).mean()', 'losses.mean()'),
    ('training', 'Algorithm 1: the gradients of all steps add up', '    optimizer.zero_grad()\n', ''),
    ('workshop.runs', 'a run does not weigh its times', 'scale(self.weight[t].to', 'scale(self.weight[t].sign().to'),
    ('workshop.runs', 'adapted: attention stays at its size, not at its level', 'tuple(min(size)//2**i for i in attention)', "old['attention']"),
    ('workshop.runs', 'adapted: no label is a label like the others', 'rows[-1] = 0   # no label', 'pass   # no label'),
    ('simple_loss', 'min-SNR without the SNR below', 'snr.clamp(max=5)/snr', 'snr.clamp(max=5)'),
    ('simple_loss', 'P2 of the inverse', 'p2=1/(1+snr)', 'p2=1/(1+1/snr)'),
    ('simple_loss', 'weights are not brought to mean 1', 'w/w.mean()', 'w'),
    ('training', 'stratified: T is never drawn', '(place/n*T).long()', '(place/n*(T-1)).long()'),
('workshop.runs', 'accumulate: a sum for a mean', '.to(self.device)/self.recipe.accumulate)', '.to(self.device))'),
('workshop.runs', 'accumulate: each part is a step', 'self.descend(Waiting(), *part)', 'self.descend(self.descent, *part)'),
('workshop.runs', 'a step without a finite gradient is made', 'if math.isfinite(self.norm):', 'if True:'),
('workshop.runs', 'processes: each has the same images', 'return slice(self.rank, None, self.world)', 'return slice(0, None, self.world)'),
('workshop.runs', 'the scale of the loss is forgotten', "self.scaler.load_state_dict({k: v.item() for k, v in part('scaler.').items()})", "pass"),
('workshop.runs', 'the age of the average is forgotten', "int(tensors.get('averaged', step))", 'step'),
('sampling', 'a shorter chain: the whole noise in each step', 'Schedule(1-ab[1:]/ab[:-1])', 'Schedule(1-ab[1:])'),
('sampling', 'a shorter chain begins below T', 'for k in range(steps, -1, -1)', 'for k in [*range(steps-1, -1, -1), 0]'),
('sampling', 'DDIM: eta not squared', 's2 = eta**2*', 's2 = eta*'),
('sampling', 'DDIM: the noise of another time', 'ab[u]**.5-d*ab[t]**.5', 'ab[u]**.5-d*ab[u]**.5'),
('sampling', 'DPM-Solver++: the end of the step, not its middle', '(lam[step.t]-lam[before.t])/2', '(lam[step.t]-lam[before.t])'),
('sampling', 'DPM-Solver++: the prediction before with the wrong sign', 'e=-step.c*w', 'e=step.c*w'),
('sampling', 'DPM-Solver++: the prediction of this step for the one before', 'before, x_0 = x_0, step', 'before, x_0 = x_t, step'),
('sampling', 'encoding skips a time', 'reversed(steps) if s.t>1)', 'reversed(steps) if s.t>2)'),
('sampling', 'seeds of a list are not used', 'if isinstance(seed, int) else [*seed]', 'if isinstance(seed, int) else [*range(n)]'),
('sampling', 'a shorter chain with the variance of the long one', "steps in (None, T) else 'beta_tilde'", "True else 'beta_tilde'"),
('sampling', 'a batch that is not full stays so', 'range(first, first+batch)]', 'range(first, min(n, first+batch))]'),
('workshop.model', 'a sampler that keeps its noise gets it in any length', 'self.clip_x0 and SAMPLERS[self.sampler].keeps_noise', 'False'),
('workshop.model', 'interpolation: the formula as it is printed: the images are not encoded', "x_t = mix(self.q_encode(x_0, t, seed), lam, mixing)", "x_t = mix(x_0, lam, mixing)"),
('workshop.model', 'interpolation: decoded from T, not from t', "self.decode(x_t, t, decode_seeds", "self.decode(x_t, self.schedule.T, decode_seeds"),
('workshop.model', 'labels: a number wins over a name', 'if label in names: k', 'if label in names and k<0: k'),
('unet', 'labels: one off', 'y%self.class_embedding', '(y+1)%self.class_embedding'),
('unet', 'the time does not reach the blocks', 'h + self.time_emb_proj(temb)[:, :, None, None]', 'h + 0*self.time_emb_proj(temb)[:, :, None, None]'),
('unet', 'the skips of the way down come first, not last', 'resnet(x, temb, skips.pop())', 'resnet(x, temb, skips.pop(0))'),
('workshop.speed', "fused: the first convolution's bias is forgotten", ' + self.conv1.bias', ''),
('workshop.speed', 'fused: SiLU is forgotten', 'y = F.silu(y)', 'y = y'),
('workshop.speed', 'tables one off', 'torch.arange(T+1, device=device)', 'torch.arange(1, T+2, device=device)'),
('training', 'labels of other images', 'torch.as_tensor(y[images]).long()', 'torch.as_tensor(y[:len(images)]).long()'),
('training', 'labels are never withheld', '<label_dropout)[part]', '<0)[part]'),
('workshop.runs', 'labels do not reach the network', 'self.eps_theta(x_t, t, *labels)', 'self.eps_theta(x_t, t)'),
('conditional', 'latents: one step further than asked', 'if s.t>t]', 'if s.t>=t]'),
('conditional', 'children of one parent with one seed', '[seed_for(k, j) for k', '[seed_for(k, 0) for k'),
('conditional', 'denoise: the variance for the standard deviation', 'noise = schedule.snr**-.5', 'noise = schedule.snr**-1'),
('conditional', 'denoise: missing root', "schedule.alpha_bar[t].item()**.5*y", "schedule.alpha_bar[t].item()*y"),
('conditional', 'inpaint: the mask the wrong way round', 'torch.where(fill, x_u, q_sample', 'torch.where(~fill, x_u, q_sample'),
('conditional', 'inpaint: the known part without noise', 'q_sample(schedule, x, u, noise())', 'q_sample(schedule, x, u, 0*noise())'),
('conditional', 'resampling: the way up without noise', '(ab[t]/ab[u])**.5, 0., (1-ab[t]/ab[u])**.5)', '(ab[t]/ab[u])**.5, 0., 0.)'),
('conditional', 'resampling: once too often', '[up, *first, *part[1:]]*(rounds-1)', '[up, *first, *part[1:]]*rounds'),
('conditional', "guidance: diffusers' scale for w", '(1+w)*eps - w*none', 'w*eps - (w-1)*none'),
('conditional', 'guidance: away from label 0, not from no label', 'torch.full_like(y, -1)', 'torch.zeros_like(y)'),
('workshop.speed', 'fused: the variance between channels is forgotten', 'var[:, :, None] + (mu-m)**2', 'var[:, :, None] + 0*(mu-m)**2'),
('workshop.speed', 'fused: the time is not added', '(s-m)*g', '(0*s-m)*g'),
('unet', 'attention is not scaled', ' / q.shape[-1]**.5', ''),
('interpolation', 'both images with the same noise', "seed_for(seed, k+1) for k in", "seed_for(seed, 1) for k in"),
('interpolation', 'encoded and decoded with the same noise', "seed_for(seed, k+1) for k in", "seed_for(seed, k) for k in"),
('interpolation', 'new noise for each lam', "[seed_for(seed, 0)]*n", "[seed_for(seed, k) for k in range(n)]"),
('interpolation', 'the two images changed over', "cast(a, x_t)*x_t[0] + cast(b, x_t)*x_t[1]", "cast(b, x_t)*x_t[0] + cast(a, x_t)*x_t[1]"),
('interpolation', 'spherical: half the angle', "(math.pi/2*a).sin(), (math.pi/2*b).sin()", "(math.pi/4*a).sin(), (math.pi/4*b).sin()"),
('interpolation', 'spherical: a cosine, which is not quite 0 at the end', "(math.pi/2*a).sin(), (math.pi/2*b).sin()", "(math.pi/2*b).cos(), (math.pi/2*b).sin()"),
('interpolation', 'images in any range', "if not x_0.abs().max()<=1:", "if False:"),
('interpolation', 'lam may lie beyond the ends', "not ((0<=b) & (b<=1)).all()", "False"),
('swiss_roll', 'K: the two entropies changed over', 'entropy(noise[-1], dims) - entropy(noise[1], dims)', 'entropy(noise[1], dims) - entropy(noise[-1], dims)'),
('swiss_roll', 'K: the divergences the wrong way round', 'kl_divergence(q_posterior(schedule, x_0, x_t, t), p(schedule, x_t, t))', 'kl_divergence(p(schedule, x_t, t), q_posterior(schedule, x_0, x_t, t))'),
('swiss_roll', 'K: nats taken for bits', 'terms.mean(1).sum()/math.log(2)', 'terms.mean(1).sum()'),
('swiss_roll', 'entropy twice as large', 'dims/2*torch.as_tensor(', 'dims*torch.as_tensor('),
('swiss_roll', 'descent on K', '(-bits).backward()', 'bits.backward()'),
('heartbeat', 'eq. A: kept and redrawn changed over', '(1-c)*x + c*flips.prior.to(x)', 'c*x + (1-c)*flips.prior.to(x)'),
('heartbeat', 'posterior: t for t-1', 'm = q_marginal(flips, x_0, t-1).probs', 'm = q_marginal(flips, x_0, t).probs'),
('heartbeat', 'posterior: the two values changed over', 'm*torch.where(x_t>.5, 1-b+b*pi, b*(1-pi))', 'm*torch.where(x_t>.5, b*(1-pi), 1-b+b*pi)'),
('heartbeat', 'eq. D: the guess upside down', 'zero + r*(one-zero)', 'one + r*(zero-one)'),
('heartbeat', 'L_0: wrong sign', 'return far(0)-far(1), far(flips.T)', 'return far(1)-far(0), far(flips.T)'),
('heartbeat', 'nats taken for bits', 'p.expand(q.batch_shape)).sum(-1)/math.log(2)', 'p.expand(q.batch_shape)).sum(-1)'),
('heartbeat', 'the last step as the first', 'model(x, t) if t>1 else q_step(flips, x, 1)', 'model(x, t) if t>1 else q_step(flips, x, flips.T)'),
('generative_models', 'bound (A): sign of the encoder', '- ln(q, up); z = up', '+ ln(q, up); z = up'),
('generative_models', 'bound (A) without the prior', 'return total + ln(prior, z)', 'return total'),
('generative_models', 'coupling: inverse stretches again', '(b-t)*(-s).exp()', '(b-t)*s.exp()'),
('generative_models', 'coupling: sign of the log-determinant', '.flatten(1), s.sum(1)', '.flatten(1), -s.sum(1)'),
('generative_models', 'GAN: real and made changed over', 'softplus(-real).mean()+softplus(fake).mean()', 'softplus(real).mean()+softplus(-fake).mean()'),
('generative_models', 'GAN: the generator helps the judge', ', softplus(-fake).mean()', ', softplus(fake).mean()'),
('evaluation', 'rate: the next term too', 'L.flip(0).cumsum(0).flip(0) - L ', 'L.flip(0).cumsum(0).flip(0) '),
('evaluation', 'rate: nats for bits', 'bits = bound.terms/(np.log(2)*bound.dims)', 'bits = bound.terms/bound.dims'),
('evaluation', 'distortion: twice as large', '((guess-x)*127.5)', '((guess-x)*255)'),
('evaluation', 'distortion: of another image', 'x_0[next(parts)].to(x_t)', 'x_0[next(parts)].flip(0).to(x_t)'),
('evaluation', 'Frechet: a set from itself', 'metric.update(b.double(), real=True)', 'metric.update(a.double(), real=True)'),
('evaluation', 'Frechet, again and again: a trace forgotten', '(g*g).sum()', '0'),
('evaluation', 'kernel distance: a set from itself', 'metric.update(b, real=True)', 'metric.update(a, real=True)'),
('evaluation', 'class score: probabilities for logits', 'metric.update(logits.double())', 'metric.update(logits.double().softmax(1))'),
('evaluation', 'memory: the test the other way round', "mannwhitneyu(a, b, alternative='less')", "mannwhitneyu(a, b, alternative='greater')"),
('evaluation', 'seen or not: the other way round', 'near = (a<b)', 'near = (a>b)'),
('evaluation', 'seen or not: a crowd counts as many', 'c.square().sum().sqrt()', 'c.sum().sqrt()'),
('evaluation', 'memory: next/nearest', 'd[:, 0]/d[:, 1].clamp(min=1e-9)', 'd[:, 1]/d[:, 0].clamp(min=1e-9)'),
('evaluation', 'memory: an index counts from its piece', 'k-2+a)', 'k-2)'),
('evaluation', 'memory: mirrored copies do not count', 'if isinstance(of, Images) and of.flip:', 'if False:'),
('evaluation', 'the floor of another n', 'twins = spread(train, len(samples))', 'twins = train'),
('workshop.files', 'copies: the brightness stays', 'x -= x.mean(1, keepdim=True)', 'pass'),
('workshop.files', 'copies: the threshold along the direction has the wrong sign', 'last+threshold, right=True', 'last-threshold, right=True'),
('workshop.files', 'copies: an image is a copy of itself', 'torch.ones(k, k).tril()', 'torch.ones(k, k).tril(-1)'),
('workshop.files', 'files may be of any length', 'if len(data)>most: raise', 'if False: raise'),
('workshop.files', 'other images keep the hash of those in the cache', 'pixels if self.images is images else', 'pixels if True else'),
('workshop.files', '16 bits: rounded down', '(levels%257>128)', '(levels%257>256)'),
('workshop.weights', 'a network without attention in the middle', "[:-1]), True]   # the middle", "[:-1]), False]   # the middle"),
('workshop.weights', 'labels: the row for none is a label', "no_label=len(classes)<rows)", "no_label=False)"),
('workshop.hub', 'a card tells of steps that are not in the model', "if row['step']<=step]", "]"),
('workshop.hub', 'half an interval', "1.96*q.error", "q.error"),
('workshop.doctor', 'eq. A: one minus itself', '(ab*lam/(ab*lam + 1-ab)).mean(1)', '((1-ab)/(ab*lam + 1-ab)).mean(1)'),
('workshop.doctor', 'variances measured where the directions were found', 'lam, total, rest = ((b-m)@V.T)', 'lam, total, rest = ((a-m)@V.T)'),
('workshop.doctor', 'eq. B: all kinds of data measured by one ruler', 'case.lam*scale', 'case.lam'),
('workshop.doctor', 'a fault explains nothing', "f.ok, f.advice = None, f'follows", "f.advice = f'follows"),
('workshop.doctor', 'noise at the last step is allowed', 'off<.1*sigma', 'off<10*sigma'),
('workshop.doctor', 'an image is its own nearest neighbour', '[0][:, k].median().item()', '[0][:, 0].median().item()'),
]

def files_of(folder: Path, module: str) -> tuple[Path, Path|None]:
    "The module's file, and the chapter that it is exported from; a tool has none"
    path = module.replace('.', '/')
    if module.startswith('tools.'): return folder/f'{path}.py', None
    return folder/'ddpm_lit'/f'{path}.py', folder/'nbs'/f'{number[module]}.ipynb'

def cell_with(nb: nbformat.NotebookNode, text: str) -> nbformat.NotebookNode|None:
    "The exported cell that holds the text; None if it is not exactly one"
    exported = [c for c in nb.cells if c.cell_type=='code' and '#| export' in c.source]
    cells = [c for c in exported if text in c.source]
    return cells[0] if len(cells)==1 else None

def locate(folder: Path, module: str, right: str):
    "Raise `ValueError` unless a module, and a cell of its chapter, hold this text once"
    py, chapter = files_of(folder, module)
    once = py.read_text().count(right)==1
    if chapter and not cell_with(nbformat.read(chapter, 4), right): once = False
    if not once: raise ValueError(f'{module} must hold this once, in an exported cell: {right}')

def apply(copy: Path, module: str, right: str, wrong: str):
    "One wrong edit in the module and in the notebook that it comes from"
    locate(copy, module, right)
    py, chapter = files_of(copy, module)
    py.write_text(py.read_text().replace(right, wrong))
    if chapter:
        nb = nbformat.read(chapter, 4)
        cell = cell_with(nb, right)
        cell.source = cell.source.replace(right, wrong)
        nbformat.write(nb, chapter)

def suite(module: str) -> list[str]:
    """The tests that could notice, nearest first; not those that compare the saved outputs
    or the site with the code"""
    if module.startswith('tools.'): return ['tests/test_tools.py']
    own, names = number[module], chapters()
    later = [n for n in names[names.index(own)+1:] if n<'12']   # of the book
    mine = (root/'tests').glob(f'test_{module.split(".")[-1]}*.py')
    return [
        f'nbs/{own}.ipynb',
        *sorted(f'tests/{p.name}' for p in mine),
        'tests/test_vlb.py', 'tests/test_unet.py',
        *(f'nbs/{n}.ipynb' for n in later)]

def fresh(folder: Path) -> Path:
    "A copy of what the tests need"
    leave = shutil.ignore_patterns('__pycache__', 'api')
    for name in ('nbs', 'ddpm_lit', 'tests', 'tools', 'docs', 'conftest.py', 'pyproject.toml',
            'settings.ini'):
        path = root/name
        if path.is_dir(): shutil.copytree(path, folder/name, ignore=leave)
        else: shutil.copy(path, folder)
    return folder

def judge(module: str, right: str = '', wrong: str = '') -> tuple[str, float]:
    "Which test notices, and after how many seconds; '' if none does"
    with tempfile.TemporaryDirectory() as d:
        copy, start = fresh(Path(d)), time.time()
        if right: apply(copy, module, right, wrong)
        env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(copy)}
        tests = [sys.executable, '-m', 'pytest', '-x', '-q', '--whole', '-p', 'no:cacheprovider']
        out = subprocess.run(
            [*tests, *suite(module)], cwd=copy, env=env, capture_output=True, text=True).stdout
        failed = re.search(r'^(?:FAILED|ERROR) (\S+)', out, re.M)
        if not failed and ' passed' not in out: raise RuntimeError(out)
        return (failed[1].replace('.ipynb::run', '') if failed else ''), time.time()-start

def main(chosen: list[str]) -> int:
    "A table; how many edits were missed"
    rows = [('markov_chain', 'nothing: the suite as it is', '', '')] + MUTANTS
    rows = [row for row in rows if not chosen or row[0] in chosen]
    missed = 0
    print('| module | what is wrong | noticed by | s |\n| --- | --- | --- | --- |')
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        judged = pool.map(lambda row: judge(row[0], *row[2:]), rows)
        for (module, what, right, _), (by, seconds) in zip(rows, judged):
            if bool(by)!=bool(right): missed += 1
            print(f'| {module} | {what} | {by or "**nothing**"} | {seconds:.0f} |', flush=True)
    edits = sum(bool(right) for _, _, right, _ in rows)
    print(f'\n{edits} wrong edits, {missed} of them missed')
    return missed

if __name__=='__main__': sys.exit(main(sys.argv[1:]))

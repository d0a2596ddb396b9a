"""Does the suite notice a wrong formula? `python tools/mutants.py [module ...]` edits one at a
time, in a copy of the project (the notebook's cell and its exported module alike), runs the
tests that could notice, and prints a table. Its exit code is the number of edits that nothing
noticed. All modules take more than an hour on two cores."""
import ast, os, re, shutil, subprocess, sys, tempfile, time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
import nbformat

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root/'docs'))
from reading import chapters, module_of
number = {module_of(name): name for name in chapters()}

class Mutant(NamedTuple):
    "One wrong edit of a module"
    where: str   # the function, class or constant, as much of its dotted name as is needed
    old: str     # what stands there once: an expression or a statement, in any layout
    new: str     # what stands there instead; `pass` for nothing
    what: str    # what is wrong then

# A row says what is to be found as code, not as text: line breaks, blanks and comments of the
# library may change. If a row no longer fits, write what the function says now.
MUTANTS = {
'data': [
    ('to_model', 'images.float().mul_(2/255).sub_(1)',
        'images.float().mul_(1/255)', 'images in [0, 1]'),
    ('to_image', 'x.float().add(1).mul_(127.5).round_()',
        'x.float().add(1).mul_(127.5)', 'levels cut off, not rounded'),
    ('Images.fingerprint', 'self.labels is None', 'True', 'a moved label is not seen'),
    ('_read', 'set_all(seed)', 'pass', 'what an item draws does not follow from its seed'),
    ('_seeding', 'g.set_state(before[2])', 'pass', 'the dice of PyTorch lie as they fell'),
    ('Stream.read', '(first-self.at)//every', '0', "other workers' items are drawn again"),
],
'markov_chain': [
    ('marginals', 'out[-1] @ P', 'P @ out[-1]', 'column vectors for rows'),
    ('reversal', 'pi[:, None]*P', 'P', 'the reversal without Bayes: P transposed'),
    ('total_variation', '(p-q).abs().sum(-1)/2',
        '(p-q).abs().sum(-1)', 'a distance twice as large'),
],
'forward': [
    ('q_step', '(1-b)**.5', '1-b', 'eq. 2: missing root of the mean'),
    ('q_step', 'b**.5', 'b', 'eq. 2: missing root of the noise'),
    ('q_marginal', 'ab**.5', 'ab', 'eq. 4: missing root of the mean'),
    ('q_marginal', '(1-ab)**.5', '1-ab', 'eq. 4: missing root of the noise'),
    ('q_sample', 'q.stddev', 'q.variance', 'eq. 4: variance for standard deviation'),
    ('Schedule.__init__', 'self.alpha',
        'torch.cat([self.alpha[:1], self.alpha[:-1]])', 't-1 for t in the products'),
    ('at', 'table[t].reshape(-1, *[1]*(x.dim()-1))',
        'table[t-1].reshape(-1, *[1]*(x.dim()-1))', 't-1 for t in a batch of times'),
    ('Schedule.snr', 'self.alpha_bar/(1-self.alpha_bar)',
        '(1-self.alpha_bar)/self.alpha_bar', 'signal-to-noise upside down'),
    ('quadratic', 'torch.linspace(beta_1**.5, beta_T**.5, T, dtype=torch.float64)',
        'torch.linspace(beta_1, beta_T, T, dtype=torch.float64)',
        'quadratic: the betas squared, not their roots'),
    ('cosine',
        'torch.cos((torch.tensor(range(T+1), dtype=torch.float64)/T + s)/(1+s)*math.pi/2)**2',
        'torch.cos((torch.tensor(range(T+1), dtype=torch.float64)/T + s)/(1+s)*math.pi/2)',
        'cosine: not squared'),
    ('cosine', '(torch.tensor(range(T+1), dtype=torch.float64)/T + s)/(1+s)',
        'torch.tensor(range(T+1), dtype=torch.float64)/T + s',
        'cosine: s forgotten in the denominator'),
    ('sohl_dickstein', 'torch.tensor(range(T, 0, -1), dtype=torch.float64)',
        'torch.tensor(range(T+1, 1, -1), dtype=torch.float64)',
        'Sohl-Dickstein: T-t for T-t+1'),
    ('LearnedBeta.forward', 'self.low + (self.high-self.low)*self.w.sigmoid()',
        'self.low * self.w.sigmoid()', 'learned betas may reach 0'),
],
'exact': [
    ('score', 'ab**.5', 'ab', 'score: missing root'),
    ('score', 'ab**.5*(m.T@r_over_V) - r_over_V.sum(0)*x.T',
        'ab**.5*(m.T@r_over_V) + r_over_V.sum(0)*x.T', 'score: wrong sign'),
    ('_parts', 'ab*self.variance[:, None]',
        'self.variance[:, None]', 'variance of x_t: missing alpha_bar'),
    ('eps', 'cast(1-at(self.schedule.alpha_bar, t, x), x)**.5',
        'cast(1-at(self.schedule.alpha_bar, t, x), x)', 'eps: missing root'),
    ('eps', '-(noise*self.score(x, t)).to(x_t.dtype)',
        '(noise*self.score(x, t)).to(x_t.dtype)', 'eps: wrong sign'),
    ('x_0', 'ab**.5', 'ab', 'x_0: missing root'),
    ('_parts', 'x.shape[1]/2', '.5', 'likelihood: normalised as in one dimension'),
    ('Mixture.__init__', 'w/w.sum()', 'w', 'weights that do not sum to 1'),
    ('posterior', 'self.schedule.alpha[u+1:t+1]',
        'self.schedule.alpha[u+1:t]', 'posterior: t-1 for t'),
    ('posterior', 'c2**.5', 'c2', 'posterior: missing root'),
    ('posterior', '(V_u*(1-c2)/V_t).sqrt()',
        '((1-ab_u)*(1-c2)/(1-ab)).sqrt().reshape(1, -1)*torch.ones_like(V_u)',
        'posterior: variance of a point'),
    ('sliced_wasserstein.shadow',
        'np.sort((d@v.detach().double().flatten(1).T).cpu().numpy())',
        '(d@v.detach().double().flatten(1).T).cpu().numpy()',
        'clouds compared without sorting'),
],
'reverse': [
    ('beta_tilde', '(1-schedule.alpha_bar[:-1])/(1-schedule.alpha_bar[1:])',
        '(1-schedule.alpha_bar[1:])/(1-schedule.alpha_bar[:-1]).clamp(min=1e-9)',
        'beta_tilde upside down'),
    ('q_posterior', 'prev**.5', 'prev', 'eq. 7: missing root of x_0'),
    ('q_posterior', '(1-b)**.5', '1-b', 'eq. 7: missing root of x_t'),
    ('q_posterior', 't-1', 't', 'eq. 7: t for t-1'),
    ('q_posterior', '(1-prev)/(1-ab)*b', 'b', 'eq. 7: beta for beta_tilde'),
    ('predict_x_0', '(1/ab-1)**.5', '1/ab-1', 'eq. 15: missing root'),
    ('predict_x_0', 'cast(ab**-.5, x_t)*x_t - cast((1/ab-1)**.5, x_t)*eps',
        'cast(ab**-.5, x_t)*x_t + cast((1/ab-1)**.5, x_t)*eps', 'eq. 15: wrong sign'),
    ('predict_eps', 'cast((1-ab)**-.5, x_t)*x_t - cast((ab/(1-ab))**.5, x_t)*x_0',
        'cast((1-ab)**-.5, x_t)*x_t + cast((ab/(1-ab))**.5, x_t)*x_0',
        'eq. 15 solved for eps: wrong sign'),
    ('mu_theta', '(1-ab)**.5', '1-ab', 'eq. 11: missing root of 1 - alpha_bar'),
    ('mu_theta', '-.5', '-1', 'eq. 11: missing root of alpha'),
    ('_with_errors', 'weight**2*error[1:].to(out)', 'weight*error[1:].to(out)',
        'fitted variances: the factor of x_0 for its square'),
    ('p_step', 'x_0 = x_0.clamp(-1, 1)', 'pass', 'the clip dropped'),
    ('p_step', 'clip_x0', 'True', 'the clip always on'),
    ('p_step', 'sigma_squared(schedule, sigma)',
        "sigma_squared(schedule, 'beta_tilde')", 'beta_tilde for beta'),
    ('p_step', 'at(sigma_squared(schedule, sigma), t, x_t)**.5',
        'at(sigma_squared(schedule, sigma), t, x_t)', 'the variance for its root'),
    ('p_step', 'predict(schedule, x_t, t, eps)',
        'predict_x_0(schedule, x_t, t, eps)', 'whatever was predicted is read as noise'),
],
'vlb': [
    ('L_T', 'kl_divergence(q, Normal(0., 1.))',
        'kl_divergence(Normal(0., 1.), q)',
        'L_T: divergence the wrong way round'),
    ('L_T', 'schedule.T', 'schedule.T-1', 'L_T: T-1 for T'),
    ('L_t_minus_1', 'kl_divergence(q_posterior(schedule, x_0, x_t, t), p)',
        'kl_divergence(p, q_posterior(schedule, x_0, x_t, t))',
        'L_{t-1}: divergence the wrong way round'),
    ('log_prob_of_level', '(2*k-1)/(levels-1)',
        '(2*k-1)/levels', 'eq. 13: bins of 2/256 for 2/255'),
    ('log_prob_of_level', 'edge(k).masked_fill(k==0, -math.inf)',
        'edge(k)', 'eq. 13: the darkest level without its tail'),
    ('log_prob_of_level', 'edge(k+1).masked_fill(k==levels-1, math.inf)',
        'edge(k+1)', 'eq. 13: the brightest level without its tail'),
    ('log_prob_of_level', 'torch.where(a+b>0, -b, a), torch.where(a+b>0, -a, b)',
        'a, b', 'eq. 13: the upper tail, where digits are lost'),
    ('Bound.bits_per_dim', 'math.log(2)*self.dims', 'self.dims', 'nats for bits'),
    ('Bound.bits_per_dim', 'math.log(2)*self.dims',
        'math.log(2)', 'bits per image for bits per dimension'),
    ('x_0_errors', 'np.log(np.arange(1, T+1))', 'np.log(np.arange(T))',
        'errors of x_0: those of t-1 at t'),
    ('rows_of', 'v[i]', 'v[:len(i)]', 'conditions of other images, of several kinds'),
    ('rows_of', 'y[i]', 'y[:len(i)]', 'conditions of other images'),
    ('x_0_errors', 'guess.clamp(-1, 1)', 'guess', 'errors of x_0: the clip dropped'),
    ('vlb', 'every*L_t_minus_1(schedule, x, x_t, ti, p)',
        'L_t_minus_1(schedule, x, x_t, ti, p)', 'some times: their weight forgotten'),
    ('vlb', 'T-1', 'T', 'some times: T for T-1'),
    ('vlb', 'sigma_squared(schedule, sigma)',
        'schedule.beta', 'the variance of the last step for that of the others'),
    ('vlb', 'p_step(schedule, x_t, ti, guess, sigma, clip_x0, predict)',
        'p_step(schedule, x_t, ti, guess, sigma, False, predict)', 'the clip dropped'),
    ('vlb', 'torch.randn(x_0.shape, generator=g, dtype=x_0.dtype)',
        'torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype=x_0.dtype)',
        'the same noise at each t'),
],
'simple_loss': [
    ('eq_12_weight', '2*variance', 'variance', 'eq. 12: the 2 dropped'),
    ('eq_12_weight', '2*variance*schedule.alpha', '2*variance', 'eq. 12: alpha dropped'),
    ('eq_12_weight', 'schedule.beta**2', 'schedule.beta', 'eq. 12: beta not squared'),
    ('L_simple', 'eps - same_shape(eps_theta(x_t, t), eps)',
        'eps + same_shape(eps_theta(x_t, t), eps)', 'eq. 14: a plus for the minus'),
    ('L_simple', 'q_sample(schedule, x_0, t, eps)',
        'q_sample(schedule, x_0, t, eps.flip(0))', 'eq. 14: another noise in x_t'),
    ('L_simple', 'eps_theta(x_t, t)', 'eps_theta(x_t, t-1)', 'eq. 14: t-1 for t'),
    ('score', '-cast((1-at(schedule.alpha_bar, t, eps, first=1))**-.5, eps)',
        'cast((1-at(schedule.alpha_bar, t, eps, first=1))**-.5, eps)', 'score: wrong sign'),
    ('score', '-.5', '-1', 'score: missing root'),
    ('loss_weight', 'snr.clamp(max=5)/snr',
        'snr.clamp(max=5)', 'min-SNR without the SNR below'),
    ('loss_weight', '1+snr', '1+1/snr', 'P2 of the inverse'),
    ('loss_weight', 'w/w.mean()', 'w', 'weights are not brought to mean 1'),
],
'workshop.weights': [
    ('UNET_OPTIONS', '1e-5', '1e-6', 'diffusers: another epsilon where none is written'),
    ('_SIGMA',
        "dict(fixed_large='beta', fixed_small='beta_tilde', fixed_small_log='beta_tilde')",
        "dict(fixed_large='beta_tilde', fixed_small='beta', fixed_small_log='beta_tilde')",
        'diffusers: the two variances changed over'),
    ('_OLD_NAMES', "dict(query='to_q', key='to_k', value='to_v', proj_attn='to_out.0')",
        "dict(query='to_q', key='to_v', value='to_k', proj_attn='to_out.0')",
        'old names: keys and values changed over'),
    ('unet_config', 'reversed(attends)',
        'attends', 'levels on the way up in the order of the way down'),
    ('digest', "f'{k} {v.dtype} {tuple(v.shape)}'",
        "f'{k} {tuple(v.shape)}'", 'the checksum forgets the types'),
    ('load_model', 'len(classes)<rows', 'False', 'labels: the row for none is a label'),
],
'tools.from_tensorflow': [
    ('AXES', '(3, 2, 0, 1)', '(3, 2, 1, 0)', 'TensorFlow: height and width changed over'),
    ('AXES', '(1, 0)', '(0, 1)', 'TensorFlow: a dense layer not turned'),
    ('tf_name', 'levels-1-int(m[1])',
        'int(m[1])', 'TensorFlow: the levels on the way up in our order'),
    ('averages', 'k.endswith(AVERAGE)',
        "not re.search('[eE]x|Adam', k)", 'TensorFlow: weights for their averages'),
],
'training': [
    ('_times', 'T+1', 'T', 'Algorithm 1: T is never drawn'),
    ('_times', 'torch.randint(1, T+1, (n,), generator=g)',
        'torch.randint(0, T+1, (n,), generator=g)', 'Algorithm 1: 0 is drawn'),
    ('rate_at', 'min(1, rise, fall)', 'min(1, rise)', 'the learning rate never falls'),
    ('rate_at', 'cooldown*steps', 'cooldown', 'the cooldown is in steps, not a share'),
    ('train_step', 'weight*losses', 'losses', 'Algorithm 1: times are not weighed'),
    ('train_step', 'optimizer.zero_grad()',
        'pass', 'Algorithm 1: the gradients of all steps add up'),
    ('_times', '(place*T).long().clamp(max=T-1)', '(place*(T-1)).long()',
        'stratified: T is never drawn'),
    ('as_often', '.8*weight', 'weight', 'importance: the loss is another in the mean'),
    ('_read', 'y[places]', 'y[:len(places)]', 'labels of other images'),
    ('draw', 'torch.rand(batch, generator=g)<label_dropout',
        'torch.rand(batch, generator=g)<0', 'labels are never withheld'),
],
'workshop.runs': [
    ('parted', 'order[k:]', 'order', 'what is held out is trained on'),
    ('HeldOut.losses', 's.model.unet', 's.net', 'held out: not of the averaged weights'),
    ('ratio_of', 'means.var()/len(means)', 'gaps.var()/len(gaps)',
        'held out: an image counts as often as it is drawn'),
    ('_check_gradient', 'data.rows[i]', 'i', 'a bad image has the number of another'),
    ('Training.descend', 'self.weight[t]',
        'self.weight[t].sign()', 'a run does not weigh its times'),
    ('adapted', 'tuple(min(size)//2**i for i in attention)',
        "old['attention']", 'adapted: attention stays at its size, not at its level'),
    ('adapted', 'unet.class_embedding.weight.data[-1] = 0', 'pass',
        'adapted: no label is a label like the others'),
    ('adapted', "blocks or old['res_blocks']", "old['res_blocks']",
        'adapted: more blocks are not given'),
    ('adapted', "multipliers or old['multipliers']", "old['multipliers']",
        'adapted: more channels are not given'),
    ('Training.descend', 'self.weight[t].to(self.device)/self.recipe.accumulate',
        'self.weight[t].to(self.device)', 'accumulate: a sum for a mean'),
    ('Training.update', 'Waiting()', 'self.descent', 'accumulate: each part is a step'),
    ('Descent.step', 'math.isfinite(self.norm)',
        'True', 'a step without a finite gradient is made'),
    ('Training.__init__', 'slice(self.rank, None, self.world)',
        'slice(0, None, self.world)', 'processes: each has the same images'),
    ('restore',
        "self.scaler.load_state_dict({k: v.item() for k, v in part('scaler.').items()})",
        'pass', 'the scale of the loss is forgotten'),
    ('restore', "int(tensors.get('averaged', step))",
        'step', 'the age of the average is forgotten'),
    ('Training.asked.answer', 'net(x_t, t, *told)', 'net(x_t, t)',
        'labels do not reach the network'),
],
'sampling': [
    ('respaced_steps', 'ab[1:]/ab[:-1]',
        'ab[1:]', 'a shorter chain: the whole noise in each step'),
    ('spaced', 'range(steps, -1, -1)',
        '[*range(steps-1, -1, -1), 0]', 'a shorter chain begins below T'),
    ('ddim_steps.step', 'eta**2', 'eta', 'DDIM: eta not squared'),
    ('ddim_steps.step', 'ab[t]**.5', 'ab[u]**.5', 'DDIM: the noise of another time'),
    ('dpm_steps.ahead', '(lam[step.u]-lam[step.t])/(lam[step.t]-lam[before.t])/2',
        '(lam[step.u]-lam[step.t])/(lam[step.t]-lam[before.t])',
        'DPM-Solver++: the end of the step, not its middle'),
    ('dpm_steps.ahead', '-step.c',
        'step.c', 'DPM-Solver++: the prediction before with the wrong sign'),
    ('sample', '[step.predict(x_t, eps, clip_x0), *x_0[:2]]',
        '[step.predict(x_t, eps, clip_x0)]*3',
        'DPM-Solver++: the prediction of this step for the ones before'),
    ('Step.take', '(self.c, self.e, self.f)',
        '(self.c, self.f, self.e)', 'DPM-Solver++(3M): the two before changed over'),
    ('dpm3_steps.bent', 'phi_2/h-.5', 'phi_2/h+.5', 'DPM-Solver++(3M): the bend'),
    ('dpm3_steps.bent', '1/r_0+1/(r_0+r_1)', '1/r_0', 'DPM-Solver++(3M): the slope'),
    ('heun_steps', 'ab[u]**.5', '1.', 'Heun: missing root'),
    ('heun_steps', "ab[u]**.5*(sigma[higher]/sigma[u]-1).item()/2",
        "ab[u]**.5*(sigma[higher]/sigma[u]-1).item()",
        'Heun: the whole change, not half'),
    ('heun_steps', '(1+churn)*sigma[t]', '(1-churn)*sigma[t]', 'churn: down for up'),
    ('up', '(1-kept)**.5', '0.', 'the way up without noise'),
    ('karras_times', 'sigma[-1]**(1/7)', 'sigma[-1]**(1/2)', 'Karras: another root'),
    ('guesses', 'target_of(predicts).x_0',
        "target_of('eps').x_0", 'every answer is read as noise'),
    ('upwards', '1<s.t<=steps[0].t', '2<s.t<=steps[0].t', 'encoding skips a time'),
    ('seeds_of', 'map(index, seed if isinstance(seed, Iterable) else [seed])', 'range(n)',
        'seeds are not used'),
    ('steps_of', 'len(visited)<=T',
        'False', 'a shorter chain with the variance of the long one'),
    ('chains', 'first+batch', 'min(n, first+batch)', 'a batch that is not full stays so'),
    ('chains', 'v[which]', 'v[:len(which)]', 'other images are told of'),
],
'workshop.model': [
    ('DDPM.noise', 'self.clip_x0 and SAMPLERS[self.sampler].keeps_noise',
        'False', 'a sampler that keeps its noise gets it in any length'),
    ('DDPM.interpolate', 'self.q_encode(x_0, t, seed)',
        'x_0', 'interpolation: the formula as it is printed: the images are not encoded'),
    ('DDPM.interpolate', 'self.decode(x_t, t, decode_seeds(seed, len(x_t)), batch)',
        'self.decode(x_t, self.schedule.T, decode_seeds(seed, len(x_t)), batch)',
        'interpolation: decoded from T, not from t'),
    ('number_of', 'label in names',
        'label in names and k<0', 'labels: a number wins over a name'),
],
'unet': [
    ('embedding', 'y.where(y>=0, last)', '(y-1).where(y>0, last)', 'labels: one off'),
    ('ResnetBlock2D.forward', 'self.time_emb_proj(temb)[:, :, None, None]',
        '0*self.time_emb_proj(temb)[:, :, None, None]', 'the time does not reach the blocks'),
    ('Up.forward', 'skips.pop()',
        'skips.pop(0)', 'the skips of the way down come first, not last'),
    ('Attention.forward', 'q @ k.mT / q.shape[-1]**.5', 'q @ k.mT', 'attention is not scaled'),
    ('embedding', '~vector.isnan().any(1, keepdim=True)', '1.',
        'numbers that are withheld are taken for zeros'),
    ('beside', 'torch.cat([x_t, picture.nan_to_num().to(x_t)], 1)',
        'torch.cat([x_t, 0*picture.nan_to_num().to(x_t)], 1)', 'the picture is not seen'),
    ('deepened', 'nn.init.dirac_', 'nn.init.zeros_',
        'new blocks on the way up pass nothing on'),
    ('deepened', 'range(1, 1+res_blocks-few)', 'range(res_blocks-few)',
        'the new blocks come before those that read the last map'),
    ('deepened', 'deep.config = fresh.config', 'pass', 'a deeper network says it is not'),
    ('shared', 'part/whole[:, of]', 'part', 'the parts of copies are more than the whole'),
    ('shared', 'torch.rand(len(weight), len(of)) + .5', 'torch.ones(len(weight), len(of))',
        'copies are read alike'),
    ('copies', 'torch.arange(new)*old//new', 'torch.arange(new)%old',
        'copies lie in other groups'),
    ('fit_queries', 'grown**.5', '1', 'copied queries and keys add up'),
    ('widened', 'c+copies(kept, kept_more)', 'copies(kept, kept_more)',
        'copies of the map from the way down are of that from below'),
],
'workshop.speed': [
    ('FusedResnetBlock2D.forward', 'self.time_emb_proj(temb) + self.conv1.bias',
        'self.time_emb_proj(temb)', "fused: the first convolution's bias is forgotten"),
    ('one_pass_norm', 'F.silu(y)', 'y', 'fused: SiLU is forgotten'),
    ('tabulate', 'torch.arange(T+1, device=device)',
        'torch.arange(1, T+2, device=device)', 'tables one off'),
    ('one_pass_norm', '(mu-m)**2',
        '0*(mu-m)**2', 'fused: the variance between channels is forgotten'),
    ('one_pass_norm', 's-m', '0*s-m', 'fused: the time is not added'),
],
'denoiser': [
    ('velocity', 'ab**.5', 'ab', 'v: missing root'),
    ('velocity', 'cast(ab**.5, x_0)*eps - cast((1-ab)**.5, x_0)*x_0',
        'cast(ab**.5, x_0)*eps + cast((1-ab)**.5, x_0)*x_0', 'v: wrong sign'),
    ('x_0_of_velocity', '(1-ab)**.5', '1-ab', 'v read as x_0: missing root'),
    ('TARGETS', 'snr/(1+snr)', '1/(1+snr)', 'what an error of v counts, upside down'),
    ('L_of', 'target_of(predicts).answer(schedule, x_0, t, eps)', 'eps',
        'whatever is asked for, noise is the right answer'),
    ('noise_of', 'x_0(schedule, x_t, t, net(x_t, t))',
        'net(x_t, t)', 'noise of an unread answer'),
    ('zero_terminal_snr', 'root-root[-1]', 'root', 'zero SNR: stretched, not shifted'),
    ('zero_terminal_snr', '(root-root[-1])*root[1]/(root[1]-root[-1])',
        'root-root[-1]', 'zero SNR: shifted, not stretched'),
    ('DiT.forward', 'h.flatten(2).mT + self.place', 'h.flatten(2).mT',
        'DiT: a patch does not know its place'),
    ('answer_weight', 'counts(schedule.snr[1:].clamp(min=1e-12))', '1',
        'a weighting for noise, whatever is asked'),
    ('withheld.hidden', 'torch.nan if v.is_floating_point() else -1', '0',
        'nothing told: a zero is told'),
    ('quarter', '_smaller(x_0, 4)', 'x_0[..., ::4, ::4]', 'smaller: pixels are left out'),
    ('grey', '[.299, .587, .114]', '[.114, .587, .299]', 'grey: red for blue'),
],
'conditional': [
    ('until', 'steps[:last]', 'steps[:last+1]', 'latents: one step further than asked'),
    ('child_seeds', 'seed_for(k, j)',
        'seed_for(k, 0)', 'children of one parent with one seed'),
    ('as_x_t', '-.5', '-1', 'denoise: the variance for the standard deviation'),
    ('as_x_t', 'schedule.alpha_bar[t].item()**.5',
        'schedule.alpha_bar[t].item()', 'denoise: missing root'),
    ('known_pixels', 'fill', '~fill', 'inpaint: the mask the wrong way round'),
    ('known_pixels', 'noise()', '0*noise()', 'inpaint: the known part without noise'),
    ('resampled', '[alone(first), *rest]',
        '[first, *rest]', 'resampling: a prediction of another pass'),
    ('strides', 'step.u<step.t', 'True', "resampling: Heun's second look is a step"),
    ('resampled', 'rounds-1', 'rounds', 'resampling: once too often'),
    ('Guided.forward', '(1+w)*eps - w*none',
        'w*eps - (w-1)*none', "guidance: diffusers' scale for w"),
    ('Guided.forward', '(low<=t) & (t<=high)', 't<=high', 'guidance begins with the chain'),
    ('Guided.instead', 'self.times', 'None', 'told something else, it is guided at all times'),
    ('Guided.forward', 'withheld(y, torch.ones(n, dtype=torch.bool))',
        'y', 'guidance: away from what is told, not from nothing'),
    ('GuidedAway.forward', '(1+w)*self.unet(x_t, t, *told)',
        'self.unet(x_t, t, *told)', 'guidance: past the better answer, but not as far'),
    ('perturbed', 'isinstance(layer, Attention)',
        "isinstance(layer, Attention) and name!='0'", 'PAG: some attention stays in order'),
],
'interpolation': [
    ('encode_seeds', 'k+1', '1', 'both images with the same noise'),
    ('encode_seeds', 'k+1', 'k', 'encoded and decoded with the same noise'),
    ('decode_seeds', '[seed_for(seed, 0)]*n',
        '[seed_for(seed, k) for k in range(n)]', 'new noise for each lam'),
    ('mix', 'cast(a, x_t)*x_t[0] + cast(b, x_t)*x_t[1]',
        'cast(b, x_t)*x_t[0] + cast(a, x_t)*x_t[1]', 'the two images changed over'),
    ('mix', '(math.pi/2*a).sin(), (math.pi/2*b).sin()',
        '(math.pi/4*a).sin(), (math.pi/4*b).sin()', 'spherical: half the angle'),
    ('mix', '(math.pi/2*a).sin()',
        '(math.pi/2*b).cos()', 'spherical: a cosine, which is not quite 0 at the end'),
    ('q_encode', 'not x_0.abs().max()<=1', 'False', 'images in any range'),
    ('mix', 'not ((0<=b) & (b<=1)).all()', 'False', 'lam may lie beyond the ends'),
],
'swiss_roll': [
    ('K', 'entropy(noise[-1], dims) - entropy(noise[1], dims)',
        'entropy(noise[1], dims) - entropy(noise[-1], dims)',
        'K: the two entropies changed over'),
    ('K_terms', 'kl_divergence(q_posterior(schedule, x_0, x_t, t), p(schedule, x_t, t))',
        'kl_divergence(p(schedule, x_t, t), q_posterior(schedule, x_0, x_t, t))',
        'K: the divergences the wrong way round'),
    ('K', 'terms.mean(1).sum()/math.log(2)', 'terms.mean(1).sum()', 'K: nats taken for bits'),
    ('entropy', 'dims/2', 'dims', 'entropy twice as large'),
    ('fit', '-bits', 'bits', 'descent on K'),
],
'heartbeat': [
    ('_redraw', '(1-c)*x + c*flips.prior.to(x)',
        'c*x + (1-c)*flips.prior.to(x)', 'eq. A: kept and redrawn changed over'),
    ('q_posterior', 't-1', 't', 'posterior: t for t-1'),
    ('q_posterior', 'torch.where(x_t>.5, 1-b+b*pi, b*(1-pi))',
        'torch.where(x_t>.5, b*(1-pi), 1-b+b*pi)', 'posterior: the two values changed over'),
    ('p_step', 'zero + r*(one-zero)', 'one + r*(zero-one)', 'eq. D: the guess upside down'),
    ('ends', 'left(0)-left(1)', 'left(1)-left(0)', 'L_0: wrong sign'),
    ('_kl', 'kl_divergence(q, p.expand(q.batch_shape)).sum(-1)/math.log(2)',
        'kl_divergence(q, p.expand(q.batch_shape)).sum(-1)', 'nats taken for bits'),
    ('sample', 'q_step(flips, x, 1)',
        'q_step(flips, x, flips.T)', 'the last step as the first'),
],
'generative_models': [
    ('hierarchical_elbo', 'total + ln(decode(up), z) - ln(q, up)',
        'total + ln(decode(up), z) + ln(q, up)', 'bound (A): sign of the encoder'),
    ('hierarchical_elbo', 'total + ln(prior, z)', 'total', 'bound (A) without the prior'),
    ('Coupling.inverse', '-s', 's', 'coupling: inverse stretches again'),
    ('Coupling.forward', 's.sum(1)', '-s.sum(1)', 'coupling: sign of the log-determinant'),
    ('gan_losses', 'softplus(-real).mean()+softplus(fake).mean()',
        'softplus(real).mean()+softplus(-fake).mean()', 'GAN: real and made changed over'),
    ('gan_losses', '-fake', 'fake', 'GAN: the generator helps the judge'),
],
'evaluation': [
    ('rate_distortion', 'bits[:, -1].mean() + L.flip(0).cumsum(0).flip(0) - L',
        'bits[:, -1].mean() + L.flip(0).cumsum(0).flip(0)', 'rate: the next term too'),
    ('rate_distortion', 'np.log(2)*bound.dims', 'bound.dims', 'rate: nats for bits'),
    ('rate_distortion.watched', '(guess-x)*127.5',
        '(guess-x)*255', 'distortion: twice as large'),
    ('rate_distortion.watched', 'x_0[i]',
        'x_0[i].flip(0)', 'distortion: of another image'),
    ('frechet', 'distance_to(b)(a)', 'distance_to(a)(a)', 'Frechet: a set from itself'),
    ('distance_to.distance', '(g*g).sum()',
        '0', 'Frechet, again and again: a trace forgotten'),
    ('kid', 'poly_mmd(some(b), some(a))',
        'poly_mmd(some(a), some(a))', 'kernel distance: a set from itself'),
    ('class_score', 'logits.double()',
        'logits.double().softmax(1)', 'class score: probabilities for logits'),
    ('Near._p', "mannwhitneyu(a, b, alternative='less')",
        "mannwhitneyu(a, b, alternative='greater')", 'memory: the test the other way round'),
    ('_share_of_seen', 'to_seen<to_unseen',
        'to_seen>to_unseen', 'seen or not: the other way round'),
    ('_share_of_seen', 'c.square()', 'c', 'seen or not: a crowd counts as many'),
    ('_share_of_seen', 'n*expected-near.sum()',
        'n/2-near.sum()', 'seen or not: as if there were as many of each'),
    ('_frechet_by_halves', '1.5*V-V_half/4', 'V', 'an error that counts pairs twice'),
    ('frechet_at_infinity', '2*d-of_cuts.mean().item()',
        'd', 'infinite n: the bias stays'),
    ('frechet_and_pulls', 'C@P/s**1.5', 'P/s**.5', 'pulls: the map of the other set'),
    ('in_balls', 'k+1', 'k', 'balls: a point is its own fellow'),
    ('precision_of', 'in_balls(samples, real, k)[0]',
        'in_balls(real, samples, k)[0]', 'precision and recall changed over'),
    ('Near.p_ratio', 'd[:, 0]/d[:, 1].clamp(min=1e-9)',
        'd[:, 1]/d[:, 0].clamp(min=1e-9)', 'memory: next/nearest'),
    ('two_nearest', 'k-2+a', 'k-2', 'memory: an index counts from its piece'),
    ('two_nearest', 'isinstance(of, Images) and of.flip',
        'False', 'memory: mirrored copies do not count'),
    ('quality', 'n = min(len(samples), len(seen))',
        'n = len(seen)', 'the floor of another n'),
],
'workshop.files': [
    ('_thumbnails', 'x -= x.mean(1, keepdim=True)', 'pass', 'copies: the brightness stays'),
    ('_close_pairs', 'last+threshold',
        'last-threshold', 'copies: the threshold along the direction has the wrong sign'),
    ('_close_pairs', 'earlier[:, None]>=later',
        'earlier[:, None]>later', 'copies: an image is a copy of itself'),
    ('_close_pairs', '((d, here, there), (d.T, there, here))', '[(d, here, there)]',
        'copies: only those before it along the direction are looked at'),
    ('_read_at_most', 'len(data)>most', 'False', 'files may be of any length'),
    ('ImageFiles.hash_of_pixels', 'self.images is images',
        'True', 'other images keep the hash of those in the cache'),
    ('_in_8_bits', 'levels%257>128', 'levels%257>256', '16 bits: rounded down'),
],
'workshop.hub': [
    ('_log_of', "row['step']<=step",
        'True', 'a card tells of steps that are not in the model'),
    ('_facts_of_evaluation', '1.96*q.error', 'q.error', 'half an interval'),
],
'workshop.reproduce': [
    ('Moments.covariance', 'self.n-1', 'self.n', 'a covariance that is too small'),
    ('Moments.__add__', 'self.n+other.n', 'self.n', 'the samples of the others do not count'),
    ('frechet_of', '2*lam.clamp(min=0).sqrt().sum()', 'lam.clamp(min=0).sqrt().sum()',
        'Frechet: half of the trace of the root'),
    ('marks', 'torch.xlogy(p, p).sum(1).mean()', 'torch.xlogy(p, p).mean()',
        'class score: a mean over classes for their sum'),
    ('class_score_of', 'split[:, -1].mean()', 'split[:, -1].sum()',
        'class score: a sum over parts for their mean'),
    ('reproduce', '[seed+j for j in part.places]', '[seed+j for j in range(len(part.places))]',
        'each part draws the same samples'),
    ('check_question', 'before.get(k)==v', 'True', 'a folder takes any question'),
],
'exercises': [
    ('_posterior', '(1-beta).sqrt()*left/(1-alpha_bar)', 'left/(1-alpha_bar)',
        'eq. 7: the answer itself lacks a root'),
    ('_step', 'beta/(1-alpha_bar).sqrt()', 'beta/(1-alpha_bar)',
        'eq. 11: the answer itself lacks a root'),
    ('numbers', '(1-beta)*before', 'before', 'two mistakes look alike'),
    ('verdict', '_same(answer, wrong(**given))', 'True', 'the first hint, whatever is wrong'),
],
'workshop.recipe': [
    ('Range.holds', 'value not in self.without', 'True', 'an end that is outside is taken'),
    ('Recipe.scaled', 'k/self.steps', '0', 'the average forgets its share of the run'),
],
'workshop.cli': [
    ('_Plan.has_time', '3600*hours/self.each', '60*hours/self.each', 'minutes for hours'),
    ('_in_time', 'not plan.has_time(hours)', 'False',
        'the largest network, whatever the time'),
],
'workshop.export': [
    ('halved', "a.astype('float16')", "a.astype('float16')*0", 'weights that are lost'),
    ('bare', 'del part.metadata_props[:]', 'pass', 'paths of a machine in the file'),
    ('table_of', 'ddpm.plan()', 'ddpm.plan()[:-1]', 'a sampler without its last step'),
],
'workshop.doctor': [
    ('gaussian_loss', 'ab*lam/(ab*lam + 1-ab)',
        '(1-ab)/(ab*lam + 1-ab)', 'eq. A: one minus itself'),
    ('variances', '(b-m)@V.T',
        '(a-m)@V.T', 'variances measured where the directions were found'),
    ('_beliefs', 'case.lam*scale',
        'case.lam', 'eq. B: all kinds of data measured by one ruler'),
    ('_sort_out', "f.ok, f.advice = None, f'follows from: {cause.name}'",
        "f.advice = f'follows from: {cause.name}'", 'a fault explains nothing'),
    ('_last_step', '.1*sigma', '10*sigma', 'noise at the last step is allowed'),
    ('_copies.usual', 'two_nearest(images.flatten(1).float(), data, chunk)[0][:, k]',
        'two_nearest(images.flatten(1).float(), data, chunk)[0][:, 0]',
        'an image is its own nearest neighbour'),
],
}

def mutants(module: str) -> list[Mutant]: return [Mutant(*row) for row in MUTANTS[module]]

# ---------------------------------------------------------------- one edit
def names_of(node: ast.AST) -> list[str]:
    "What a statement defines"
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return [node.name]
    if isinstance(node, ast.Assign): return [ast.unparse(target) for target in node.targets]
    if isinstance(node, ast.AnnAssign): return [ast.unparse(node.target)]
    return []

def named(node: ast.AST, where: str, prefix: str = '') -> Iterator[ast.AST]:
    "What defines a dotted name that ends in `where`, below a node"
    for child in ast.iter_child_nodes(node):
        dotted = [f'{prefix}.{name}' for name in names_of(child)]
        if any(name.endswith(f'.{where}') for name in dotted): yield child
        else: yield from named(child, where, dotted[0] if dotted else prefix)

def parsed(mutant: Mutant) -> tuple[ast.AST, str]:
    "What is looked for, and the text in its place: an expression in brackets, or a statement"
    (old,), (new,) = ast.parse(mutant.old).body, ast.parse(mutant.new).body
    if isinstance(old, ast.Expr) and isinstance(new, ast.Expr):
        return old.value, f'({mutant.new})'
    return old, mutant.new

def edits(text: str, mutant: Mutant) -> list[str]:
    "Python's text after the edit, once for each place where it can be made"
    old, new = parsed(mutant)
    form, whole = ast.dump(old), text.encode()   # columns are counted in bytes
    lines = whole.splitlines(keepends=True)
    def place(line: int, column: int) -> int: return sum(map(len, lines[:line-1])) + column
    out = []
    for scope in named(ast.parse(text), mutant.where):
        for node in ast.walk(scope):
            if type(node) is not type(old) or ast.dump(node)!=form: continue
            before = whole[:place(node.lineno, node.col_offset)]
            after = whole[place(node.end_lineno, node.end_col_offset):]
            out.append((before + new.encode() + after).decode())
    return out

class Edit(NamedTuple):
    "What is to be written: the text of the module and, where there is a chapter, of its cell"
    module: str
    cell: str = ''      # its id
    source: str = ''

def files_of(folder: Path, module: str) -> tuple[Path, Path|None]:
    "The module's file, and the chapter that it is exported from; a tool has none"
    path = module.replace('.', '/')
    if module.startswith('tools.'): return folder/f'{path}.py', None
    return folder/'ddpm_lit'/f'{path}.py', folder/'nbs'/f'{number[module]}.ipynb'

def one(found: list, module: str, mutant: Mutant):
    if len(found)==1: return found[0]
    raise ValueError(f'tools/mutants.py: {module}.{mutant.where} must hold this once, '
        f'not {len(found)} times, in an exported cell: {mutant.old}')

def edit(folder: Path, module: str, mutant: Mutant) -> Edit:
    "Raise `ValueError` unless there is one place for it, in the module and in its chapter"
    py, chapter = files_of(folder, module)
    text = one(edits(py.read_text(encoding='utf-8'), mutant), module, mutant)
    if not chapter: return Edit(text)
    cells = [c for c in nbformat.read(chapter, 4).cells if c.cell_type=='code']
    exported = [c for c in cells if '#| export' in c.source]
    found = [Edit(text, c.id, source) for c in exported for source in edits(c.source, mutant)]
    return one(found, module, mutant)

def apply(copy: Path, module: str, mutant: Mutant):
    "One wrong edit in the module and in the notebook that it comes from"
    made = edit(copy, module, mutant)
    py, chapter = files_of(copy, module)
    py.write_text(made.module, encoding='utf-8')
    if not chapter: return
    nb = nbformat.read(chapter, 4)
    for cell in nb.cells:
        if cell.id==made.cell: cell.source = made.source
    nbformat.write(nb, chapter)

# ---------------------------------------------------------------- what the tests say to it
def suite(module: str) -> list[str]:
    """The tests that could notice, nearest first; not those that compare the saved outputs
    or the site with the code"""
    if module.startswith('tools.'): return ['tests/test_tools.py']
    own, names = number[module], chapters()
    later = [n for n in names[names.index(own)+1:] if n<'12']   # of the book
    mine = (root/'tests').glob(f'test_{module.split(".")[-1]}*.py')
    command = ['tests/test_own_images.py'] if module=='workshop.cli' else []
    return [
        f'nbs/{own}.ipynb',
        *command, *sorted(f'tests/{p.name}' for p in mine),
        *(f'tests/test_{name}.py' for name in ('held_out', 'vlb', 'denoiser', 'unet')),
        *(f'nbs/{n}.ipynb' for n in later)]

def fresh(folder: Path) -> Path:
    "A copy of what the tests need"
    leave = shutil.ignore_patterns('__pycache__', 'api')
    for name in ('nbs', 'ddpm_lit', 'tests', 'tools', 'docs', 'bench', 'conftest.py',
            'pyproject.toml', 'settings.ini', 'README.md'):
        path = root/name
        if path.is_dir(): shutil.copytree(path, folder/name, ignore=leave)
        else: shutil.copy(path, folder)
    return folder

def noticed(copy: Path, module: str, *flags: str) -> str:
    "The first test that fails in this copy; '' if none does"
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(copy)}
    tests = [sys.executable, '-m', 'pytest', '-xq', *flags, '-p', 'no:cacheprovider']
    out = subprocess.run(
        [*tests, *suite(module)], cwd=copy, env=env, capture_output=True, text=True).stdout
    failed = re.search(r'^(?:FAILED|ERROR) (\S+)', out, re.M)
    if 'during collection' in out or not failed and ' passed' not in out:
        raise RuntimeError(out)   # that is no answer
    return failed[1].replace('.ipynb::run', '') if failed else ''

def judge(module: str, mutant: Mutant|None = None) -> tuple[str, float]:
    """Which test notices, and after how many seconds; '' if none does.
    The chapters run as the test command runs them; if nothing is noticed, whole"""
    with tempfile.TemporaryDirectory() as d:
        copy, start = fresh(Path(d)), time.time()
        if mutant: apply(copy, module, mutant)
        by = noticed(copy, module) or noticed(copy, module, '--whole')
        return by, time.time()-start

def main(chosen: list[str]) -> int:
    "A table; how many edits were missed"
    if unknown := {*chosen}-{*MUTANTS}:
        sys.exit(f'no edits of {", ".join(unknown)}: there are some of {", ".join(MUTANTS)}')
    rows = [(module, mutant) for module in MUTANTS for mutant in mutants(module)]
    rows = [row for row in rows if not chosen or row[0] in chosen]
    if not chosen: rows.insert(0, ('markov_chain', None))   # the suite as it is
    missed = 0
    print('| module | what is wrong | noticed by | s |\n| --- | --- | --- | --- |')
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        judged = pool.map(lambda row: judge(*row), rows)
        for (module, mutant), (by, seconds) in zip(rows, judged):
            if bool(by)!=bool(mutant): missed += 1
            what = mutant.what if mutant else 'nothing: the suite as it is'
            print(f'| {module} | {what} | {by or "**nothing**"} | {seconds:.0f} |', flush=True)
    print(f'\n{sum(bool(mutant) for _, mutant in rows)} wrong edits, {missed} of them missed')
    return missed

if __name__=='__main__': sys.exit(main(sys.argv[1:]))

"The U-Net, the model folder and the reverse step against diffusers."
import inspect, json, random, re
import pytest, torch
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.workshop.weights import (
    SCHEDULER_OPTIONS, UNET_OPTIONS, schedule_from, unet_arguments, unet_config)
from ddpm_lit.reverse import p_step
from ddpm_lit.unet import deepened, widened
from helpers import awake, published, under_old_names
diffusers = pytest.importorskip('diffusers')
WEIGHTS = 'diffusion_pytorch_model.safetensors'

PAPER = dict(channels=16, multipliers=(1, 2))
THEIRS = dict(norm_eps=1e-5, attention_head_dim=8, downsample_padding=1, flip_sin_to_cos=True,
    freq_shift=0)
CONFIGS = [
    dict(size=(32, 32), channels=16),
    dict(size=(24, 40), image_channels=1, channels=16, multipliers=(1, 2, 2), attention=(12,)),
    dict(size=(28, 28), image_channels=1, channels=32, multipliers=(1, 2, 2),
        attention=(14, 7), res_blocks=1),
    dict(size=(16, 16), channels=64, multipliers=(1, 2), attention=(), groups=32),
    dict(size=(16, 16), **PAPER, attention=(16, 8), **THEIRS),
    dict(size=(28, 28), image_channels=1, channels=8, multipliers=(1, 2, 3),
        attention=(28, 14, 7), res_blocks=1, **THEIRS),
    dict(size=(16, 16), image_channels=4, **PAPER, attention=(8,), res_blocks=3),
    dict(size=(12, 20), image_channels=4, **PAPER, attention=(6,), res_blocks=1,
        downsample_padding=1),
    dict(size=(20, 12), **PAPER, attention=(12,), flip_sin_to_cos=True),
    dict(size=(8, 8), **PAPER, attention=(4,), freq_shift=0),
    dict(size=(8, 8), **PAPER, attention=(8, 4), norm_eps=1e-3),
    dict(size=(8, 8), **PAPER, attention=(8, 4), attention_head_dim=4),
    dict(size=(8, 8), **PAPER, attention=(), attention_head_dim=16),
    dict(size=(8, 8), **PAPER, attention=(4,), groups=1),
    dict(size=(8, 8), **PAPER, attention=(4,), groups=16),
    dict(size=(7, 5), image_channels=1, channels=16, multipliers=(1,), attention=(5,)),
    dict(size=(16, 8), channels=16, multipliers=(1, 1, 4, 2), attention=(8, 2), dropout=.3),
    dict(size=(8, 8), **PAPER, attention=(4,), classes=5)]

def lively(unet):
    "Random weights so large that every part of the network can be seen in what comes out"
    torch.manual_seed(0)
    for n, p in unet.named_parameters():
        torch.nn.init.normal_(p, mean=float('norm' in n and 'weight' in n),
            std=p[0].numel()**-.5 if p.ndim>1 else .2)
    return unet.eval()

@pytest.mark.parametrize('option,value',
    {**THEIRS, 'norm_eps': 1e-2, 'groups': 8, 'attention': (8,)}.items())
def test_every_option_can_be_seen(option, value):
    config = dict(size=(8, 8), **PAPER, attention=(4,), groups=4, freq_shift=1)
    a, b = lively(UNet(**config)), UNet(**{**config, option: value}).eval()
    b.load_state_dict(a.state_dict(), strict=False)
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([1, 500, 1000])
    with torch.no_grad():
        # a hundred times what is allowed below
        assert (a(x, t)-b(x, t)).abs().max() > 1e-3*a(x, t).abs().max()

@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: 'x'.join(map(str, c['size'])))
def test_same_function_as_diffusers(config):
    ours = lively(UNet(**config))
    theirs = diffusers.UNet2DModel.from_config(unet_config(ours.config)).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, ours.config['image_channels'], *config['size'])
    t = torch.tensor([1, 500, 1000])
    y = torch.tensor([0, 4, 5]) if ours.config['classes'] else None   # the last: no label
    a, b = ours(x, t, y), theirs(x, t-1, class_labels=y).sample
    assert (a-b).abs().max() < 1e-5*b.abs().max()
    for out in (a, b):
        out.square().mean().backward()
    grads = {n: p.grad for n, p in theirs.named_parameters()}
    # some are zero: a bias of the keys has no effect
    rounding = 1e-7*max(g.abs().max() for g in grads.values())
    for n, p in ours.named_parameters():
        assert (p.grad-grads[n]).abs().max() <= 1e-4*grads[n].abs().max()+rounding, n
    assert unet_arguments(unet_config(ours.config))==ours.config

def answers(new, old):
    "Of a network, of diffusers with its weights, and of the network that it was made from"
    theirs = diffusers.UNet2DModel.from_config(unet_config(new.config)).eval()
    theirs.load_state_dict(new.state_dict())
    x = torch.randn(3, old.config['image_channels'], *old.config['size'])
    t = torch.tensor([1, 500, 1000])
    y = torch.tensor([0, 4, 5]) if old.config['classes'] else None
    return new(x, t, y), theirs(x, t-1, class_labels=y).sample, old(x, t, y)

@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: 'x'.join(map(str, c['size'])))
def test_a_deeper_network_answers_the_same(config):
    "To us and to diffusers; and what is new in it can learn"
    unet = lively(UNet(**config))
    deep = deepened(unet, unet.config['res_blocks']+2)
    out, theirs, want = answers(deep, unet)
    for b in (out, theirs):
        assert (b-want).abs().max() < 1e-5*want.abs().max()
    out.square().mean().backward()
    new = [m.conv2.weight for up in deep.up_blocks for m in up.resnets[1:3]]
    new += [m.conv2.weight for down in deep.down_blocks for m in down.resnets[-2:]]
    assert all(w.grad.abs().max()>0 for w in new)

@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: 'x'.join(map(str, c['size'])))
def test_a_wider_network_answers_nearly_the_same(config):
    "To us and to diffusers; and the copies can learn different things"
    unet = lively(UNet(**config))
    same = unet.config['multipliers']
    wider = same[:1]+tuple(2*m for m in same[1:])
    if unet.config['attention_head_dim'] and wider!=same:
        with pytest.raises(ValueError, match='several heads cannot be made wider'):
            widened(unet, wider)
        wider = same
    wide = widened(unet, wider)
    out, theirs, want = answers(wide, unet)
    for b in (out, theirs):
        assert (b-want).norm() < (.12 if wider!=same else 1e-6)*want.norm()
    out.square().mean().backward()
    for m in (m for level in wide.down_blocks[1:] for m in level.resnets if wider!=same):
        a, b = m.conv1.weight.grad[::2], m.conv1.weight.grad[1::2]   # two copies
        assert (a-b).norm()>1e-3*a.norm()

def test_what_cannot_be_wider():
    unet = UNet((16, 16), 3, 16, (1, 2, 4))
    for m, says in (((1, 2), 'multipliers (1, 2, 4) cannot be given (1, 2)'),
            ((1, 2, 3), 'cannot be given'), ((2, 2, 4), 'must begin with 1'),
            ((1, 4, 4), 'cannot be made equally wide')):
        with pytest.raises(ValueError, match=re.escape(says)): widened(unet, m)

def test_hooks_on_every_layer_fire():
    "Each module is called as a module, but for the lists that hold them"
    net, fired = UNet(**CONFIGS[-1]).eval(), set()
    layers = {name: m for name, m in net.named_modules()
        if not isinstance(m, torch.nn.ModuleList)}
    for name, m in layers.items():
        m.register_forward_hook(lambda m, args, out, name=name: fired.add(name))
    net(torch.randn(2, 3, 8, 8), torch.tensor([1, 9]), torch.tensor([0, -1]))
    assert fired=={*layers}

# ---------------------------------------------------------------- options
def test_left_out_options_mean_what_diffusers_means():
    for ours, theirs in (
            (UNET_OPTIONS, diffusers.UNet2DModel),
            (SCHEDULER_OPTIONS, diffusers.DDPMScheduler)):
        parameters = inspect.signature(theirs.__init__).parameters
        assert ours=={k: p.default for k, p in parameters.items() if k!='self'}

WRONG = dict(
    sample_size=None, in_channels=0, out_channels=6, center_input_sample=True,
    time_embedding_type='fourier', time_embedding_dim=100, freq_shift=2, flip_sin_to_cos='yes',
    down_block_types=['DownBlock2D', 'SkipDownBlock2D', 'DownBlock2D'],
    mid_block_type=None,
    up_block_types=['AttnUpBlock2D', 'UpBlock2D', 'UpBlock2D'],
    block_out_channels=[16, 24, 32], layers_per_block=0, mid_block_scale_factor=2**.5,
    downsample_padding=2, downsample_type='resnet', upsample_type='resnet',
    dropout=1., act_fn='gelu', attention_head_dim=5,
    norm_num_groups=3, attn_norm_num_groups=2, norm_eps=0.,
    resnet_time_scale_shift='scale_shift', add_attention=False,
    class_embed_type='timestep', num_class_embeds=1,
    an_option_of_the_future=1)

def test_wrong_values_are_there_for_all_options():
    assert {*UNET_OPTIONS} - {*WRONG}=={'num_train_timesteps'}
    assert {*WRONG} - {*UNET_OPTIONS}=={'an_option_of_the_future'}

@pytest.mark.parametrize('option', WRONG)
def test_options_we_lack_are_named(option):
    good = unet_config(UNet(**CONFIGS[1]).config)
    unet_arguments({**good, 'num_train_timesteps': 1000})
    otherwise = dict(
        norm_num_groups='divisible by groups=3',
        attention_head_dim='cannot have heads of 5')
    said = otherwise.get(option, f'^{option}=.* is not possible')
    with pytest.raises(ValueError, match=said):
        UNet(**unet_arguments({**good, option: WRONG[option]}))

WRONG_SCHEDULERS = dict(
    num_train_timesteps=0, beta_start=-1, beta_end='x', beta_schedule='sigmoid',
    trained_betas=[.1], variance_type='learned', clip_sample='maybe',
    prediction_type='flow_prediction', thresholding=True, clip_sample_range=2.,
    steps_offset=1, rescale_betas_zero_snr='yes', predict_epsilon=False, skip_prk_steps=True)

@pytest.mark.parametrize('option,value', WRONG_SCHEDULERS.items())
def test_schedulers_we_lack_are_named(option, value):
    with pytest.raises(ValueError, match=f'^{option}=.* is not possible'):
        schedule_from({option: value})

def test_levels_always_have_sides_of_their_own():
    good = unet_config(UNet(**CONFIGS[1]).config)
    with pytest.raises(ValueError, match='cannot be halved'):
        UNet(**unet_arguments({**good, 'sample_size': [2, 64]}))

def test_other_classes_are_named():
    for f, name in (
            (unet_arguments, 'UNet2DConditionModel'),
            (schedule_from, 'DDIMScheduler')):
        with pytest.raises(ValueError, match=name):
            f(dict(_class_name=name))

@pytest.mark.filterwarnings('ignore:sqrt')
@pytest.mark.parametrize('d', [
    {},
    dict(beta_schedule='scaled_linear', num_train_timesteps=50),
    dict(beta_schedule='squaredcos_cap_v2'),
    dict(trained_betas=[.1, .2], num_train_timesteps=2),
    dict(beta_end=.5, num_train_timesteps=1),
    dict(rescale_betas_zero_snr=True, prediction_type='v_prediction')], ids=str)
def test_same_betas_as_diffusers(d):
    ours, theirs = schedule_from(d), diffusers.DDPMScheduler(**d)
    beta = ours['schedule'].beta[1:].float()   # they count in float32
    assert torch.allclose(beta, theirs.betas, rtol=1e-4, atol=1e-6)
    assert (ours['sigma'], ours['clip_x0'])==('beta_tilde', True)

@pytest.mark.parametrize('size,widths,level,weights', [
    (32, [128, 256, 256, 256], 1, 35_746_307),
    (256, [128, 128, 256, 256, 512, 512], 4, 113_673_219)])
def test_published_networks(size, widths, level, weights):
    d = published(size, widths, level)
    with torch.device('meta'):
        ours = UNet(**unet_arguments(d))
        theirs = diffusers.UNet2DModel.from_config(d)
    shapes = lambda net: {k: v.shape for k, v in net.state_dict().items()}
    assert shapes(ours)==shapes(theirs)
    assert sum(p.numel() for p in ours.parameters())==weights
    assert ours.config['attention']==(16,)

# ---------------------------------------------------------------- folders
def test_there_and_back_is_the_same_file(tmp_path):
    ddpm = DDPM(awake(UNet(**CONFIGS[1])), Schedule.linear())
    ddpm.save_pretrained(tmp_path/'ours')
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path/'ours')
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(batch_size=2, num_inference_steps=2, output_type='np').images
    assert drawn.shape==(2, 24, 40, 1)
    pipe.save_pretrained(tmp_path/'theirs')
    back = DDPM.from_pretrained(tmp_path/'theirs')
    back.save_pretrained(tmp_path/'again')
    read = lambda d: (tmp_path/d/'unet'/WEIGHTS).read_bytes()
    assert read('again')==read('ours')
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path/'theirs', subfolder='unet')
    theirs = theirs.state_dict()
    assert {*theirs}=={*ddpm.unet.state_dict()}
    for k, v in ddpm.unet.state_dict().items():
        assert torch.equal(v, theirs[k])
        assert torch.equal(v, back.unet.state_dict()[k])
    assert torch.allclose(back.schedule.beta, ddpm.schedule.beta, rtol=1e-6)
    assert (back.sigma, back.clip_x0)==(ddpm.sigma, ddpm.clip_x0)

def test_flat_folders_with_old_names(tmp_path):
    "As google/ddpm-cifar10-32, in small: what diffusers makes of it is what we make of it"
    import safetensors.torch
    d = published(16, [32, 64], 1)
    net = awake(UNet(**unet_arguments(d)))
    weights = under_old_names(net)
    assert 'mid_block.attentions.0.proj_attn.weight' in weights
    assert 'up_blocks.0.attentions.2.query.bias' in weights
    safetensors.torch.save_file(weights, tmp_path/WEIGHTS, {'format': 'pt'})
    scheduler = dict(
        _class_name='DDPMScheduler', _diffusers_version='0.1.1',
        beta_end=.02, beta_schedule='linear', beta_start=1e-4, clip_sample=True,
        num_train_timesteps=1000, trained_betas=None, variance_type='fixed_large')
    index = dict(
        _class_name='DDPMPipeline', _diffusers_version='0.0.4',
        scheduler=['diffusers', 'DDPMScheduler'], unet=['diffusers', 'UNet2DModel'])
    for f, x in dict(config=d, scheduler_config=scheduler, model_index=index).items():
        (tmp_path/f'{f}.json').write_text(json.dumps(x))
    ours = DDPM.from_pretrained(tmp_path)
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([1, 700])
    with torch.no_grad():
        a, b = ours.unet(x, t), theirs.unet(x, t-1).sample
    assert (a-b).abs().max()<1e-5*b.abs().max()
    assert torch.equal(a, net(x, t))
    assert ours.sigma=='beta'

@pytest.mark.parametrize('says,save', [
    ('a pickle', dict(safe_serialization=False)),
    ('split', dict(max_shard_size='100KB')),
    ('half', dict(variant='fp16'))])
def test_other_files_and_the_line_that_converts_them(tmp_path, monkeypatch, says, save):
    monkeypatch.chdir(tmp_path)
    ddpm = DDPM(awake(UNet(**CONFIGS[9])), Schedule.linear())
    ddpm.save_pretrained('m')
    f = tmp_path/'m'/'unet'/WEIGHTS
    net = diffusers.UNet2DModel.from_pretrained('m', subfolder='unet')
    f.unlink()
    net.save_pretrained('m/unet', **save)
    with pytest.raises(ValueError, match=says) as e:
        DDPM.from_pretrained('m')
    line = re.search(r'DDPMPipeline.*', str(e.value))[0]
    exec(line, dict(DDPMPipeline=diffusers.DDPMPipeline))
    for k, v in DDPM.from_pretrained('converted').unet.state_dict().items():
        assert torch.equal(v, ddpm.unet.state_dict()[k])

def test_a_network_alone_is_not_a_model(tmp_path):
    DDPM(UNet(**CONFIGS[9]), Schedule.linear()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='this is a part of one'):
        DDPM.from_pretrained(tmp_path/'unet')
    with pytest.raises(ValueError, match='begin with 1'):
        wide = UNet((8, 8), channels=8, multipliers=(2, 2))
        DDPM(wide, Schedule.linear()).save_pretrained(tmp_path/'x')

# ---------------------------------------------------------------- the reverse step
@pytest.mark.parametrize('sigma', ['beta', 'beta_tilde'])
@pytest.mark.parametrize('schedule', [Schedule.linear(), Schedule.cosine(50)],
    ids=['linear', 'cosine'])
def test_same_step_as_diffusers(tmp_path, schedule, sigma):
    DDPM(awake(UNet(**CONFIGS[1])), schedule, sigma).save_pretrained(tmp_path)
    theirs = diffusers.DDPMScheduler.from_pretrained(tmp_path, subfolder='scheduler')
    theirs.set_timesteps(schedule.T)
    also = diffusers.DDPMScheduler.from_config(theirs.config, variance_type='fixed_small_log')
    also.set_timesteps(schedule.T)
    assert schedule_from(dict(also.config))['sigma']=='beta_tilde'
    for t in random.Random(0).sample(range(2, schedule.T+1), 20)+[1]:
        x, eps = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
        p, x_0 = p_step(schedule, x, t, eps, sigma, clip_x0=True)
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(t)) if t>1 else 0
        for s in [theirs, also] if sigma=='beta_tilde' else [theirs]:
            theirs_step = s.step(eps, t-1, x, generator=torch.Generator().manual_seed(t))
            assert torch.allclose(theirs_step.pred_original_sample, x_0, atol=1e-3)
            x_before = p.mean + (p.stddev*z if t>1 else 0)
            assert torch.allclose(theirs_step.prev_sample, x_before, atol=1e-4)

# ---------------------------------------------------------------- labels
def test_labels(tmp_path):
    "A label changes the answer, -1 is none, and the names travel; diffusers reads the folder"
    net = lively(UNet(**CONFIGS[-1]))
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([1, 500, 1000])
    y = torch.tensor([0, 4, -1])
    with torch.no_grad():
        plain, with_y = net(x, t), net(x, t, y)
    assert torch.equal(plain[2], with_y[2])
    assert (plain[:2]-with_y[:2]).abs().amin((1, 2, 3)).min()>0
    assert torch.equal(plain, net(x, t, torch.full((3,), 5)))
    with pytest.raises(ValueError, match='takes no labels'):
        UNet(**CONFIGS[4])(x, t, y)
    names = ['a', 'é', 'c', 'd', 'e']
    DDPM(net, Schedule.linear(), classes=names).save_pretrained(tmp_path)
    assert DDPM.from_pretrained(tmp_path).classes==names
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path).unet
    with torch.no_grad():
        assert torch.allclose(theirs(x, t-1, class_labels=y%6).sample, with_y, atol=1e-4)
    index = json.loads((tmp_path/'model_index.json').read_text())
    for wrong in ({'0': 'a'}, {**index['id2label'], '2': 3}, ['a']*5):
        (tmp_path/'model_index.json').write_text(json.dumps({**index, 'id2label': wrong}))
        with pytest.raises(ValueError, match='model_index.json: .*'):
            DDPM.from_pretrained(tmp_path)
    del index['id2label']
    (tmp_path/'model_index.json').write_text(json.dumps(index))
    assert DDPM.from_pretrained(tmp_path).classes==['0', '1', '2', '3', '4']

@pytest.mark.parametrize('sampler,clip',
    [('ddpm', False), ('ddpm', True), ('ddim', False), ('ddim', True), ('dpm++', False)])
def test_samplers_walk_as_diffusers_do(sampler, clip):
    """Fifty steps of 1000 with the same weights and noise, every x_t. Two differences are
    theirs: `DDPMScheduler` with fixed_large adds noise in the last step too, unless it
    leaves from t = 1; and without `use_clipped_model_output` DDIM keeps the noise that
    belonged to the unclipped image"""
    from ddpm_lit.sampling import respaced_steps, sample, spaced
    net, g = awake(UNet(**CONFIGS[9])), torch.Generator().manual_seed(0)
    for p in net.parameters():
        # with weights that no training has tamed, rounding would grow from step to step
        p.data *= .7
    eta = .5 if sampler=='ddim' else 0.
    ddpm = DDPM(net, Schedule.linear(), clip_x0=clip).using(sampler, 50, eta=eta)
    draws = [torch.randn(2, 3, 8, 8, generator=g) for _ in range(51)]
    kind, options = {
        'ddpm': (diffusers.DDPMScheduler, dict(clip_sample=clip, variance_type='fixed_large')),
        'ddim': (diffusers.DDIMScheduler, dict(clip_sample=clip)),
        'dpm++': (diffusers.DPMSolverMultistepScheduler, {})}[sampler]
    theirs = kind(timestep_spacing='trailing', **options)
    theirs.set_timesteps(50)
    x, noise = draws[0], iter(draws[1:])
    with torch.no_grad():
        if sampler=='ddpm':   # `DDPM.plan` would take beta_tilde
            plan = respaced_steps(ddpm.schedule, spaced(1000, 50), 'beta')
        else:
            plan = ddpm.plan()
        ours = list(sample(ddpm.unet, plan, iter(draws).__next__, clip))
        assert len(ours)==51 and [s.t-1 for s in ours[:-1]]==theirs.timesteps.tolist()
        for s, t in zip(ours, [*theirs.timesteps, None]):
            assert (s.x_t-x).abs().max()<1e-4*max(1, x.abs().max()), s.t
            if t is None:
                break
            eps = net(x, torch.full((2,), int(t)+1))
            if sampler=='dpm++':
                x = theirs.step(eps, t, x).prev_sample
            elif sampler=='ddim':
                x = theirs.step(eps, t, x, eta=.5, use_clipped_model_output=True,
                    variance_noise=next(noise)).prev_sample
            else:
                z = next(noise)*(s.t>20)
                random_tensor = lambda *a, **k: z
                module = diffusers.schedulers.scheduling_ddpm
                with pytest.MonkeyPatch.context() as m:
                    m.setattr(module, 'randn_tensor', random_tensor)
                    x = theirs.step(eps, t, x).prev_sample

def test_encoding_visits_every_time():
    seen = []
    ddpm = DDPM.from_pretrained('digits').using('ddim', 50)
    ddpm.unet.register_forward_pre_hook(lambda net, args: seen.append(args[1][0].item()))
    assert ddpm.encode(torch.zeros(1, 1, 8, 8), batch=1).shape==(1, 1, 8, 8)
    assert seen==[1, *range(2, 99, 2)]

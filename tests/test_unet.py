"The U-Net, the model folder and the reverse step against diffusers, on the same weights."
import random
import pytest, torch
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.checkpoints import unet_arguments, unet_config
from ddpm_lit.reverse import p_step
from helpers import awake
diffusers = pytest.importorskip('diffusers')

CONFIGS = [dict(size=(32, 32), channels=32), dict(size=(24, 40), image_channels=1, channels=16, multipliers=(1, 2, 2), attention=(12,)),
    dict(size=(28, 28), image_channels=1, channels=32, multipliers=(1, 2, 2), attention=(14, 7), res_blocks=1), dict(size=(16, 16), channels=64, multipliers=(1, 2), attention=(), groups=32)]

@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: 'x'.join(map(str, c['size'])))
def test_same_function_as_diffusers(config):
    ours = awake(UNet(**config)); theirs = diffusers.UNet2DModel.from_config(unet_config(ours.config)).eval()
    theirs.load_state_dict(ours.state_dict())
    x, t = torch.randn(3, ours.config['image_channels'], *config['size']), torch.tensor([1, 500, 1000])
    a, b = ours(x, t), theirs(x, t-1).sample
    assert (a-b).abs().max() < 1e-5*b.abs().max()
    for net, y in ((ours, a), (theirs, b)): y.square().mean().backward()
    for (n, p), q in zip(ours.named_parameters(), dict(sorted(theirs.named_parameters(), key=lambda kv: list(ours.state_dict()).index(kv[0]))).values()):
        assert (p.grad-q.grad).abs().max() <= 1e-4*q.grad.abs().max()+1e-9, n
    assert unet_arguments(unet_config(ours.config))==ours.config

def test_options_we_lack_are_named():
    good = unet_config(UNet(**CONFIGS[1]).config)
    for k, v in dict(act_fn='gelu', time_embedding_type='fourier', class_embed_type='timestep', resnet_time_scale_shift='scale_shift').items():
        with pytest.raises(ValueError, match=k): unet_arguments({**good, k: v})
    with pytest.raises(ValueError, match='blocks'): unet_arguments({**good, 'down_block_types': ['SkipDownBlock2D']*3})

def test_pipeline_runs_our_folder(tmp_path):
    ddpm = DDPM(awake(UNet(**CONFIGS[1])), Schedule.linear()); ddpm.save_pretrained(tmp_path)
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path); pipe.set_progress_bar_config(disable=True)
    assert pipe(batch_size=2, num_inference_steps=2, output_type='np').images.shape==(2, 24, 40, 1)
    pipe.save_pretrained(tmp_path/'theirs'); back = DDPM.from_pretrained(tmp_path/'theirs')
    for k, v in ddpm.unet.state_dict().items(): assert torch.equal(v, back.unet.state_dict()[k])
    assert torch.allclose(back.schedule.beta, ddpm.schedule.beta, rtol=1e-6) and (back.sigma, back.clip_x0)==(ddpm.sigma, ddpm.clip_x0)

@pytest.mark.parametrize('sigma', ['beta', 'beta_tilde'])
@pytest.mark.parametrize('schedule', [Schedule.linear(), Schedule.cosine(50)], ids=['linear', 'cosine'])
def test_same_step_as_diffusers(tmp_path, schedule, sigma):
    DDPM(awake(UNet(**CONFIGS[1])), schedule, sigma).save_pretrained(tmp_path)
    theirs = diffusers.DDPMScheduler.from_pretrained(tmp_path, subfolder='scheduler'); theirs.set_timesteps(schedule.T)
    for t in random.Random(0).sample(range(2, schedule.T+1), 20)+[1]:
        x, eps = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
        p, x_0 = p_step(schedule, x, t, eps, sigma, clip_x0=True)
        theirs_step = theirs.step(eps, t-1, x, generator=torch.Generator().manual_seed(t))
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(t)) if t>1 else 0
        assert torch.allclose(theirs_step.pred_original_sample, x_0, atol=1e-3)
        assert torch.allclose(theirs_step.prev_sample, p.mean + (p.stddev*z if t>1 else 0), atol=1e-4)

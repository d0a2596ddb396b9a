"""The authors' own weights, from TensorFlow 1 into a model of this package:

    python tools/from_tensorflow.py cifar10.npz FOLDER
    python tools/from_tensorflow.py church.npz FOLDER config.json

The network is that of CIFAR-10, or the one that a config.json of diffusers describes.

The arrays come from a checkpoint of https://github.com/hojonathanho/diffusion. Where there is
TensorFlow, three lines carry them over:

    reader = tf.train.load_checkpoint('diffusion_cifar10_model/model.ckpt-790000')
    names = reader.get_variable_to_shape_map()
    np.savez('cifar10.npz', **{name: reader.get_tensor(name) for name in names})

What has to be translated, beside the names:

- TensorFlow's convolutions keep their weights as (height, width, in, out), PyTorch's as
  (out, in, height, width).
- A dense layer is (in, out) there and (out, in) here.
- What they call `nin`, network in network, is a dense layer for each pixel. Attention uses it,
  and so does a shortcut that changes the number of channels, here a convolution of 1 x 1.
- They count the levels of the way up by resolution, diffusers in order of use:
  `up_0` is the last.
- Beside each variable stands its moving average, with the suffix `/ExponentialMovingAverage`.
  The paper samples from the averages."""
import json
import re
import sys
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy

from ddpm_lit.forward import Schedule
from ddpm_lit.unet import UNet
from ddpm_lit.workshop.weights import Parts, save_model, unet_arguments

AVERAGE = '/ExponentialMovingAverage'
AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}   # of theirs, in our order
NAMES = {   # a part of our name, as a pattern -> of theirs; in this order
    r'time_embedding\.linear_1': 'temb/dense0',
    r'time_embedding\.linear_2': 'temb/dense1',
    r'conv_norm_out': 'norm_out',
    r'down_blocks\.': 'down_',
    r'up_blocks\.': 'up_',
    r'mid_block\.': 'mid/',
    r'resnets\.': 'block_',
    r'attentions\.': 'attn_',
    r'(down|up)samplers\.0\.': r'\1sample/',
    r'time_emb_proj': 'temb_proj',
    r'conv_shortcut': 'nin_shortcut',
    r'group_norm': 'norm',
    r'to_out\.0': 'proj_out',
    r'to_([qkv])': r'\1',
    r'\.': '/',
    r'(norm[^/]*)/weight': r'\1/gamma',
    r'(norm[^/]*)/bias': r'\1/beta',
    r'weight$': 'W',
    r'bias$': 'b'}
ALWAYS = dict(   # of their networks; no shape would show another value
    groups=32, norm_eps=1e-6, attention_head_dim=None, downsample_padding=0,
    flip_sin_to_cos=False, freq_shift=1)

def tf_name(ours: str, levels: int) -> str:
    "What the authors' code calls a weight, in a network with so many levels"
    name = re.sub(r'up_blocks\.(\d+)', lambda m: f'up_blocks.{levels-1-int(m[1])}', ours)
    if name.startswith('mid'):   # they count from 1 there
        name = re.sub(r'(resnets|attentions)\.(\d)', lambda m: f'{m[1]}.{int(m[2])+1}', name)
    for pattern, theirs in NAMES.items(): name = re.sub(pattern, theirs, name)
    return f'model/{name}'

def averages(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    "The network's averaged weights by plain names; if there are no averages, the weights"
    network = {k.removesuffix(':0'): v for k, v in arrays.items() if k.startswith('model/')}
    averaged = {k.removesuffix(AVERAGE): v for k, v in network.items() if k.endswith(AVERAGE)}
    if averaged: return averaged
    return {k: v for k, v in network.items() if not re.search('/Adam(_1)?$', k)}   # its memory

def in_our_order(name: str, array: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """A weight of theirs for one of ours that has this shape.
    Raises `ValueError` if it has another"""
    a = np.asarray(array, np.float32)
    if (len(shape), a.ndim)==(4, 2): a = a[None, None]   # a shortcut is 1 x 1
    if a.ndim==len(shape): a = a.transpose(AXES[a.ndim])
    if a.shape!=shape:
        raise ValueError(f'{name}: in our order of axes it is {a.shape}, not {shape}')
    return from_numpy(a.copy())

def from_tensorflow(
    arrays: dict[str, np.ndarray],   # by TensorFlow's names
    unet: UNet,                      # of the same shape, for example `UNet()` for CIFAR-10
) -> dict[str, Tensor]:              # for `unet.load_state_dict`
    """Weights of the authors' code.
    Raises `ValueError` naming the first that is missing, left over or misshapen"""
    for k, v in ALWAYS.items():
        if unet.config[k]!=v:
            raise ValueError(f"the authors' networks have {k}={v}, not {unet.config[k]}")
    have, ours = averages(arrays), unet.state_dict()
    names = {k: tf_name(k, len(unet.up_blocks)) for k in ours}
    if wrong := sorted({*names.values()} ^ have.keys()):
        how = 'has no place in this network' if wrong[0] in have else 'is missing'
        raise ValueError(f'{wrong[0]} {how}')
    return {k: in_our_order(names[k], have[names[k]], tuple(w.shape)) for k, w in ours.items()}

def main(arrays: str, folder: str, config: str|None = None):
    "Write a model with their linear schedule; sigma^2 = beta, as for CIFAR-10"
    unet = UNet(**unet_arguments(json.loads(Path(config).read_text()))) if config else UNet()
    with np.load(arrays) as theirs: unet.load_state_dict(from_tensorflow(dict(theirs), unet))
    save_model(Parts(unet, Schedule.linear(), 'beta'), folder)

if __name__=='__main__': main(*sys.argv[1:])

"Denoising Diffusion Probabilistic Models: a book of runnable notebooks that is also a library"
__version__ = "0.1.0"

from .forward import Schedule
from .unet import UNet
from .checkpoints import DDPM
from . import sampling, conditional, interpolation, evaluation   # where DDPM learns to draw, and to judge

"Denoising Diffusion Probabilistic Models: a book of runnable notebooks that is also a library"
__version__ = "0.1.0"

from .forward import Schedule
from .unet import UNet
from .sampling import DDPM   # the network and its schedule, with everything that the chapters up to sampling teach it

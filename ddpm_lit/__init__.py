"Denoising Diffusion Probabilistic Models: a book of runnable notebooks that is also a library"
__version__ = "0.1.0"
__all__ = ['DDPM', 'Schedule', 'UNet', 'train']

from importlib import import_module
from typing import TYPE_CHECKING
if TYPE_CHECKING:   # for editors; `__getattr__` finds them when they are asked for
    from .forward import Schedule
    from .unet import UNet
    from .workshop.model import DDPM
    from .workshop.runs import train

_HOME = dict(DDPM='workshop.model', Schedule='forward', UNet='unet', train='workshop.runs')

def __getattr__(name: str):
    "A public name, or a module: `import ddpm_lit` alone loads no torch"
    if name in _HOME: return getattr(import_module(f'.{_HOME[name]}', __name__), name)
    try: return import_module(f'.{name}', __name__)
    except ModuleNotFoundError as e:
        if e.name!=f'{__name__}.{name}': raise   # it is there, but not what it needs
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

def __dir__() -> list[str]: return sorted({*globals(), *__all__})

"The wheel: installs what it needs, carries the models and the chapters, and nothing else."
import zipfile
import pytest
from conftest import root
from helpers import wheel
from reading import chapters
from ddpm_lit.workshop.weights import shipped_models

def test_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size<40e6
    models = [f'ddpm_lit/models/{m}/{f}' for m in shipped_models() for f in ('model_index.json', 'README.md', 'unet/diffusion_pytorch_model.safetensors')]
    assert {'digits', 'digits-class', 'mnist', 'cifar10', 'cifar10-class', 'celeba'} <= {*shipped_models()} and {'ddpm_lit/workshop/cli.py', 'ddpm_lit/models/celeba/LICENCE.md', *models} <= {*names}
    assert {f'ddpm_lit/notebooks/{name}.ipynb' for name in ['index', *chapters()]} | {'ddpm_lit/notebooks/notation.md'} <= {*names}   # for `ddpm_lit notebooks`
    assert all(n.startswith(('ddpm_lit/', 'ddpm_lit-')) for n in names) and any(n.endswith('licenses/LICENSE') for n in names)

@pytest.mark.parametrize('name', shipped_models())
def test_a_shipped_model_has_its_card(name):
    from ship import MODELS, card
    assert (MODELS/name/'README.md').read_text(encoding='utf-8')==card(MODELS/name), f'run: python tools/ship.py ddpm_lit/models/{name} {name}'
    assert sum(p.stat().st_size for p in (MODELS/name).rglob('*') if p.is_file())<15e6 and ('CelebA' in card(MODELS/name))==(MODELS/name/'LICENCE.md').exists()

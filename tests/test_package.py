"The wheel: installs what it needs, carries the models and the chapters, and nothing else."
import zipfile
import pytest
import ship
from helpers import wheel
from reading import chapters
from ddpm_lit.workshop.weights import shipped_models

SHIPPED = (
    'digits', 'digits-class', 'mnist', 'cifar10', 'cifar10-class', 'celeba', 'celeba-64',
    'celeba-quarter')
FILES = 'model_index.json', 'README.md', 'unet/diffusion_pytorch_model.safetensors'

def test_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size<40e6
    assert {*SHIPPED} <= {*shipped_models()}
    models = [f'ddpm_lit/models/{m}/{f}' for m in shipped_models() for f in FILES]
    book = [f'ddpm_lit/notebooks/{name}.ipynb' for name in ['index', *chapters()]]
    others = ['workshop/cli.py', 'models/celeba/LICENCE.md', 'notebooks/notation.md']
    assert {*models, *book, *(f'ddpm_lit/{name}' for name in others)} <= {*names}
    assert all(n.startswith(('ddpm_lit/', 'ddpm_lit-')) for n in names)
    assert any(n.endswith('licenses/LICENSE') for n in names)

@pytest.mark.parametrize('name', shipped_models())
def test_a_shipped_model_has_its_card(name):
    folder = ship.MODELS/name
    card = ship.card(folder)
    says = f'run: python tools/ship.py ddpm_lit/models/{name} {name}'
    assert (folder/'README.md').read_text(encoding='utf-8')==card, says
    assert sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())<15e6
    assert ('CelebA' in card)==(folder/'LICENCE.md').exists()

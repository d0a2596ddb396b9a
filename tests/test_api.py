"The API reference: every public name is documented, and used by a cell that the tests run."
import importlib
import pytest
from sphinx.pycode import ModuleAnalyzer
from api import book, definition, example, modules, public

@pytest.mark.parametrize('module', [m for m in modules() if m!='workshop.cli'])
def test_public_names(module):
    m = importlib.import_module(f'ddpm_lit.{module}')
    comments = ModuleAnalyzer.for_module(f'ddpm_lit.{module}').find_attr_docs()
    for name in public(module):
        thing = getattr(m, name)
        said = thing.__doc__ if callable(thing) else ('', name) in comments
        assert said, f'{name} has no docstring'
        assert definition(module, name), f'no cell exports {name}'
        assert example(module, name), (f'no cell that runs uses {name}: write one after its '
            'definition, or make it private (#| exporti)')

def test_commands():
    from ddpm_lit.workshop import cli
    for name, c in cli.cli.commands.items():
        assert c.help, f'ddpm_lit {name} does not say what it does'
    for name in public('workshop.cli'):
        assert not callable(o := getattr(cli, name)) or o.__doc__, f'{name} has no docstring'

def test_an_example_is_the_first_use():
    use, home = example('forward', 'q_step'), definition('forward', 'q_step')
    cells = book()
    between = cells[cells.index(home)+1:cells.index(use)]
    assert use.chapter==home.chapter
    assert use.output
    assert use.runs
    assert not any(c.runs and 'q_step' in c.used for c in between)
    # a later chapter, which imports it
    assert example('exact', 'eight_gaussians').chapter>'04'
    # a class: where it is made
    assert example('vlb', 'Bound')==example('vlb', 'vlb')
    # defined, used by functions only
    assert example('workshop.speed', 'keep_memory') is None
    assert definition('workshop.speed', 'keep_memory')
    assert 'DDPM.sample' in definition('workshop.model', 'DDPM.sample').made
    assert example('workshop.model', 'DDPM.sample').chapter=='workshop/03_model'
